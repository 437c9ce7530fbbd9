"""What is kept of who changed what, and of who was refused: names, codes and times, never content or a token."""

from dataclasses import dataclass
from typing import Protocol

from dari.core.callers import Caller


@dataclass(frozen=True, slots=True)
class AuditedCall:
    """One call as an auditor sees it."""

    request_id: str
    """The caller's own where they sent one; joins the two records of a change."""
    rpc: str
    """Such as `dari.v1.MappingService/LinkAiModel`."""
    peer: str
    """The address that it came from."""
    caller: Caller | None = None
    """None where nobody was authenticated."""
    resources: tuple[str, ...] = ()
    """The names in the request; of a stream, in its first message."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: a gRPC status by name, and the reason and code of what was raised."""

    status: str
    reason: str = ""
    code: str = ""


class AuditTrail(Protocol):
    """Keeps records. Thread-safe.

    A change is recorded before it is made and again when it is over, so that one whose server died in the middle shows,
    and so that none is made that cannot be recorded.
    """

    def change_begins(self, call: AuditedCall) -> None:
        """On disk when it returns. Raises Unavailable where it cannot be written: the change must not be made."""
        ...

    def change_ended(self, call: AuditedCall, outcome: Outcome) -> None:
        """Raises nothing: the change is made already, and what fails here is logged."""
        ...

    def refused(self, call: AuditedCall, outcome: Outcome) -> None:
        """Raises nothing, as `change_ended`: a refusal stays one, and reads go on."""
        ...
