"""Every error that dari reports to a caller, in one tree.

    DariError
    ├── InvalidArgument        a value in the request is wrong: which, why, what is right
    │   ├── MalformedFile      the bytes of an upload cannot be read as rows: line and byte
    │   └── ChecksumMismatch   the bytes that came are not the bytes that the client read
    ├── NotFound               no such resource, or none that this caller may see
    ├── AlreadyExists          the name is taken
    ├── FailedPrecondition     the request is right, the state of the system is not
    │   ├── UploadConflict     this upload_id was opened with another target, mode or dialect
    │   ├── HeaderConflict     an APPEND whose columns differ from the version it extends
    │   └── StillLinked        a resource that others refer to cannot be deleted
    ├── Aborted                somebody else was first; read again and retry
    │   ├── RivalWriter        another stream took this upload over
    │   ├── EtagMismatch       the resource changed since it was read
    │   ├── TurnInProgress     this request_id is being answered right now
    │   └── AnswerInterrupted  a model stopped in the middle of its answer, and the caller wanted no other
    ├── OffsetGap              a chunk starts beyond what was received
    ├── Exhausted              a limit is reached; later, or smaller, works
    │   ├── TooManyCalls       as many calls of this kind, or of this caller, are under way as may be
    │   ├── CallRateExceeded   this caller's calls come faster than they may
    │   └── TokensSpent        models read and wrote as much today as they may for this caller or tenant
    ├── Unavailable            a neighbour is down; the same call works later
    ├── Unauthenticated        nobody that this server knows: no token, or none that is valid
    ├── PermissionDenied       the caller's role does not allow the call
    ├── DeadlineExceeded       the caller's deadline passed
    ├── Cancelled              the caller left
    └── InternalError          a defect of dari; logged by its id, never shown

Each class has a `reason` (a name of `dari.v1.ErrorReason`); each instance has `metadata` with every variable of its
message, and a message for people: what, where, what to do. No message holds row content, a secret or foreign text.
`rpc.errors` gives each class its gRPC status; a test walks this tree and fails where a class has none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

RETRY_DELAY_S = 1.0
"""When to come again, where nothing better is known."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field of a request: its path in the message, and what is right."""

    field: str
    description: str


class DariError(Exception):
    """The root: `reason` names the cause, `metadata` holds the variables of the message."""

    reason: ClassVar[str] = "INTERNAL"
    retry_delay_s: float | None = None
    """How long until the same call may succeed, where waiting helps."""

    def __init__(self, message: str, metadata: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = {key: str(value) for key, value in (metadata or {}).items()}


class InvalidArgument(DariError):
    """A request with wrong fields; `violations` names each of them."""

    reason = "INVALID_FIELD"

    def __init__(
        self,
        message: str,
        metadata: Mapping[str, object] | None = None,
        violations: Sequence[FieldViolation] = (),
    ) -> None:
        super().__init__(message, metadata)
        self.violations = tuple(violations)

    @classmethod
    def of(cls, *violations: FieldViolation) -> "InvalidArgument":
        """The error for one or several wrong fields, all named together."""
        text = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        return cls(text, {"fields": ",".join(violation.field for violation in violations)}, violations)


class MalformedFile(InvalidArgument):
    """The bytes of an upload cannot be read on; says at which line and byte, and why."""

    reason = "MALFORMED_FILE"


class ChecksumMismatch(InvalidArgument):
    """Size or SHA-256 at `finish` differ from what was received."""

    reason = "CHECKSUM_MISMATCH"


class NotFound(DariError):
    """No such resource; the same answer where it exists and the caller may not see it."""

    reason = "NOT_FOUND"

    @classmethod
    def of(cls, resource_name: str) -> "NotFound":
        return cls(f"{resource_name} does not exist, or you may not see it.", {"resource": resource_name})


class AlreadyExists(DariError):
    """The resource name is taken."""

    reason = "ALREADY_EXISTS"

    @classmethod
    def of(cls, resource_name: str) -> "AlreadyExists":
        return cls(f"{resource_name} exists already; choose another id or update it.", {"resource": resource_name})


class FailedPrecondition(DariError):
    """The system is not in the state that this call needs."""

    reason = "FAILED_PRECONDITION"


class UploadConflict(FailedPrecondition):
    """The same upload_id with another knowledge base, mode or dialect, or after it failed."""

    reason = "UPLOAD_CONFLICT"


class HeaderConflict(FailedPrecondition):
    """An APPEND whose columns are not those of the current version."""

    reason = "HEADER_CONFLICT"


class StillLinked(FailedPrecondition):
    """Others refer to the resource; the message lists them."""

    reason = "STILL_LINKED"


class Aborted(DariError):
    """Lost a race; reading again and retrying is right."""

    reason = "ABORTED"


class RivalWriter(Aborted):
    """Another stream has opened the same upload since."""

    reason = "RIVAL_WRITER"


class EtagMismatch(Aborted):
    """The resource is not the one that the caller read."""

    reason = "ETAG_MISMATCH"


class TurnInProgress(Aborted):
    """A turn with this request_id has begun and has not ended."""

    reason = "TURN_IN_PROGRESS"


class AnswerInterrupted(Aborted):
    """An answer that was cut, and to which the caller wanted no other: the text that was sent is not whole."""

    reason = "ANSWER_INTERRUPTED"

    @classmethod
    def of(cls, ai_model: str, code: str, length_chars: int) -> "AnswerInterrupted":
        return cls(
            f"aiModels/{ai_model} stopped after {length_chars} characters ({code}): the answer is not whole. Ask again,"
            " or let another model go on with on_interruption.",
            {"ai_model": f"aiModels/{ai_model}", "code": code, "length_chars": length_chars},
        )


class OffsetGap(DariError):
    """A chunk that begins beyond the bytes received so far."""

    reason = "OFFSET_GAP"


class Exhausted(DariError):
    """A limit of this server is reached: `metadata["limit"]` is the setting, or what is full."""

    reason = "RESOURCE_EXHAUSTED"
    retry_delay_s = RETRY_DELAY_S


class TooManyCalls(Exhausted):
    """As many calls are under way as the server takes, of this kind or of this caller."""

    reason = "TOO_MANY_CALLS"

    @classmethod
    def of(cls, limit: str, value: int, remedy: str, retry_delay_s: float) -> "TooManyCalls":
        error = cls(
            f"{value} calls are under way, the most that {limit} allows; {remedy or 'retry later'}.",
            {"limit": limit, "value": value},
        )
        error.retry_delay_s = retry_delay_s
        return error


class CallRateExceeded(Exhausted):
    """The caller's calls come faster than they may."""

    reason = "CALL_RATE_EXCEEDED"

    @classmethod
    def of(cls, limit: str, value: float, retry_delay_s: float) -> "CallRateExceeded":
        error = cls(
            f"Your calls come faster than {limit} allows, {value:g}/s; slow down.",
            {"limit": limit, "value": f"{value:g}"},
        )
        error.retry_delay_s = retry_delay_s
        return error


class TokensSpent(Exhausted):
    """Models read and wrote as many tokens today as they may."""

    reason = "TOKENS_SPENT"

    @classmethod
    def of(cls, limit: str, value: int, retry_delay_s: float) -> "TokensSpent":
        error = cls(
            f"The {value} tokens that {limit} allows are spent; the next day begins at 00:00 UTC. Wait, or have the"
            " limit raised.",
            {"limit": limit, "value": value},
        )
        error.retry_delay_s = retry_delay_s
        return error


class Unavailable(DariError):
    """A neighbour that the call needs is down; `metadata["neighbour"]` names it."""

    reason = "UNAVAILABLE"
    retry_delay_s = RETRY_DELAY_S

    @classmethod
    def of(cls, neighbour: str) -> "Unavailable":
        return cls(f"{neighbour} is not reachable at the moment; retry with a back-off.", {"neighbour": neighbour})


class Unauthenticated(DariError):
    """The call brings no credentials, or none that are valid; `metadata["code"]` says what is wrong with them."""

    reason = "UNAUTHENTICATED"

    @classmethod
    def of(cls, code: str) -> "Unauthenticated":
        return cls(
            f"The caller is not known ({code}); send `authorization: Bearer TOKEN` with a token of this server.",
            {"code": code},
        )


class PermissionDenied(DariError):
    """The caller is known, and their role does not allow the call."""

    reason = "PERMISSION_DENIED"

    @classmethod
    def of(cls, required_role: str, role: str) -> "PermissionDenied":
        return cls(
            f"This call needs the role {required_role}; yours is {role}.",
            {"required_role": required_role, "role": role},
        )


class DeadlineExceeded(DariError):
    """The caller's deadline passed before an answer was complete."""

    reason = "DEADLINE_EXCEEDED"


class Cancelled(DariError):
    """The caller went away."""

    reason = "CANCELLED"


class InternalError(DariError):
    """A defect of dari. The message names nothing but the id under which it is logged."""

    reason = "INTERNAL"
