"""What is known of the knowledge bases that a chat sees, told anew only when they change.

A version never changes, so its profile is read once. A profile that cannot be read fails no turn: what the mapping
says of the knowledge base (description, columns, number of rows) is known without it.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from dari.core.errors import DariError, FailedPrecondition
from dari.core.event_log import EventLog
from dari.core.mapping import KnowledgeBase
from dari.core.profiles import Profile

MAX_KNOWN_COLUMNS = 20_000
"""Columns of all profiles kept, together; the profile used longest ago goes first. One takes 1 to 5 KB."""
MAX_READS_A_TURN = 8
"""Profiles that one turn reads. The others are read by later turns, and until then known by the mapping alone."""


class Describer(Protocol):
    """Tells what is in a version; see `core.profiles.Profiles`."""

    def describe(self, tenant: str, knowledge_base: str, number: int | None = None) -> Profile: ...


@dataclass(frozen=True, slots=True)
class DescribedBase:
    """A knowledge base, and what is in its current version."""

    knowledge_base: KnowledgeBase
    profile: Profile | None
    """None where it is not known."""

    @property
    def row_count(self) -> int:
        """Rows of the version."""
        return self.knowledge_base.row_count if self.profile is None else self.profile.row_count


_Key = tuple[str, str, datetime, int]


class KnownProfiles:
    """Reads profiles, and remembers them. Thread-safe."""

    def __init__(self, profiles: Describer, log: EventLog) -> None:
        self._profiles = profiles
        self._log = log
        self._lock = threading.Lock()  # guards the two below
        self._known: OrderedDict[_Key, Profile | None] = OrderedDict()
        self._column_count = 0

    def describe(self, tenant: str, bases: Iterable[KnowledgeBase]) -> tuple[DescribedBase, ...]:
        """These knowledge bases, all of which the caller may see, in this order. Raises nothing."""
        described: list[DescribedBase] = []
        reads_left = MAX_READS_A_TURN
        for base in bases:
            # A knowledge base that was deleted and made again counts its versions from 1.
            key = (tenant, base.id, base.create_time, base.current_version)
            is_known, profile = self._find(key)
            if not is_known and reads_left:
                reads_left -= 1
                profile = self._read(key)
            described.append(DescribedBase(base, profile))
        return tuple(described)

    def _find(self, key: _Key) -> tuple[bool, Profile | None]:
        with self._lock:
            if key not in self._known:
                return False, None
            self._known.move_to_end(key)
            return True, self._known[key]

    def _read(self, key: _Key) -> Profile | None:
        tenant, base, _, version = key
        try:
            profile = self._profiles.describe(tenant, base, version)
        except FailedPrecondition:
            profile = None  # Its rows are older than profiles: that stays so.
        except DariError as error:
            self._log.warning("profile_not_read", knowledge_base=base, reason=error.reason)
            return None
        self._keep(key, profile)
        return profile

    def _keep(self, key: _Key, profile: Profile | None) -> None:
        with self._lock:
            if key not in self._known:
                self._column_count += _weight(profile)
            self._known[key] = profile
            while self._column_count > MAX_KNOWN_COLUMNS:
                _, forgotten = self._known.popitem(last=False)
                self._column_count -= _weight(forgotten)


def _weight(profile: Profile | None) -> int:
    return 1 if profile is None else 1 + len(profile.columns)
