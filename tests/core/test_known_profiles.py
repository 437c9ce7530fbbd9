"""Profiles are read once a version, and one that cannot be read fails nobody."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dari.core.errors import DariError, Exhausted, FailedPrecondition, InternalError, NotFound, Unavailable
from dari.core.known_profiles import MAX_KNOWN_COLUMNS, MAX_READS_A_TURN, KnownProfiles
from dari.core.mapping import KnowledgeBase
from dari.core.profiles import ColumnProfile, Profile
from tests.support.event_log import RecordedEvents

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Describer:
    """Describes whatever it is asked for, or fails; and remembers what it was asked for."""

    def __init__(self, columns: int = 1) -> None:
        self._columns = columns
        self.fails: Exception | None = None
        self.asked: list[tuple[str, str, int | None]] = []

    def describe(self, tenant: str, knowledge_base: str, number: int | None = None) -> Profile:
        self.asked.append((tenant, knowledge_base, number))
        if self.fails is not None:
            raise self.fails
        return Profile(knowledge_base, number or 0, 7, (ColumnProfile("c"),) * self._columns, "")


def base(id: str = "kb", version: int = 1) -> KnowledgeBase:
    return KnowledgeBase(id, id, current_version=version, row_count=3, create_time=NOW)


def test_a_version_is_read_once_a_tenant_and_a_new_one_anew() -> None:
    describer = Describer()
    known = KnownProfiles(describer, RecordedEvents())
    for tenant, asked in (("a", base()), ("a", base()), ("b", base()), ("a", base(version=2)), ("a", base("other"))):
        (described,) = known.describe(tenant, [asked])
        assert described.profile is not None
        assert (described.profile.knowledge_base, described.profile.version) == (asked.id, asked.current_version)
        assert described.row_count == 7
    assert describer.asked == [("a", "kb", 1), ("b", "kb", 1), ("a", "kb", 2), ("a", "other", 1)]


def test_a_knowledge_base_that_was_made_again_is_read_again() -> None:
    describer = Describer()
    known = KnownProfiles(describer, RecordedEvents())
    known.describe("t", [base()])
    known.describe("t", [replace(base(), create_time=NOW + timedelta(seconds=1))])
    assert len(describer.asked) == 2


PASSING: list[DariError] = [
    Unavailable.of("database"),
    NotFound.of("knowledgeBases/kb"),
    Exhausted("full"),
    InternalError("a table is gone"),
]


@pytest.mark.parametrize("failure", PASSING, ids=lambda failure: type(failure).__name__)
def test_what_cannot_be_read_now_is_known_by_the_mapping_and_read_later(failure: DariError) -> None:
    describer, log = Describer(), RecordedEvents()
    known = KnownProfiles(describer, log)
    describer.fails = failure
    (described,) = known.describe("t", [base()])
    assert (described.profile, described.row_count) == (None, 3)
    describer.fails = None
    (described,) = known.describe("t", [base()])
    assert described.profile is not None
    assert len(describer.asked) == 2


def test_rows_from_before_profiles_were_made_are_asked_for_once() -> None:
    describer = Describer()
    known = KnownProfiles(describer, RecordedEvents())
    describer.fails = FailedPrecondition("upload again")
    for _ in range(3):
        (described,) = known.describe("t", [base()])
        assert described.profile is None
    assert len(describer.asked) == 1


def test_one_turn_reads_a_few_and_the_next_turns_the_others() -> None:
    describer = Describer()
    known = KnownProfiles(describer, RecordedEvents())
    bases = [base(f"kb-{n}") for n in range(2 * MAX_READS_A_TURN)]
    for turn in (1, 2):
        told = known.describe("t", bases)
        assert [described.knowledge_base for described in told] == bases
        assert sum(described.profile is not None for described in told) == turn * MAX_READS_A_TURN


def test_what_is_kept_is_bounded_and_the_one_used_longest_ago_goes() -> None:
    describer = Describer(columns=MAX_KNOWN_COLUMNS // 4)
    known = KnownProfiles(describer, RecordedEvents())
    for id in ("a", "b", "c", "a", "d"):
        known.describe("t", [base(id)])
    describer.asked.clear()
    for id in ("a", "c", "d", "b"):
        known.describe("t", [base(id)])
    assert [id for _, id, _ in describer.asked] == ["b"]
