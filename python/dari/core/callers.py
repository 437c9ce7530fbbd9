"""Who calls: a name, the tenant whose resources they see, and a role.

Every call has a caller, and the caller is the only source of the tenant: no request names one. `Authenticator` is the
port; who knows tokens, keys and certificates stands behind it.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol


class Role(IntEnum):
    """What a caller may do; each role may do all that the ones before it may."""

    READER = 1
    """Chat, search, read."""
    OPERATOR = 2
    """Also bring data in, watch, and act on upstreams."""
    ADMIN = 3
    """Also change the mapping: who answers, over which data, and who may see it."""

    @property
    def label(self) -> str:
        """As files, claims and errors name it."""
        return self.name.lower()


ROLES = {role.label: role for role in Role}
"""By label."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who was authenticated."""

    name: str
    """For the audit; no right follows from it."""
    tenant: str
    role: Role


@dataclass(frozen=True, slots=True)
class Presented:
    """What a call brings to prove who its caller is."""

    token: str | None = field(default=None, repr=False)
    certificate_names: tuple[str, ...] = ()
    """The names in a client certificate that the TLS layer has verified; none without one."""


class Authenticator(Protocol):
    """Decides who calls. Thread-safe; waits for no neighbour longer than its settings say."""

    def authenticate(self, presented: Presented) -> Caller:
        """Raises Unauthenticated; Unavailable where the keys to check with have not been had yet."""
        ...


class OpenDoor:
    """An Authenticator that takes everyone for one caller: for a server that only this machine reaches."""

    def __init__(self, tenant: str) -> None:
        self._caller = Caller("anyone", tenant, Role.ADMIN)

    def authenticate(self, presented: Presented) -> Caller:
        """See Authenticator."""
        return self._caller
