"""Profiles over evidence that a fake hands in: a byte a row, and a column's evidence is made of how many there are."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime

import pytest

from dari.core.errors import FailedPrecondition, NotFound
from dari.core.profiles import ColumnProfile, ColumnType, Profiles, ValueCount, VersionEvidence, profile_columns
from dari.core.versions import Version, no_version


@dataclass(frozen=True)
class Gathered:
    """A ColumnEvidence."""

    type: str = "decimal"
    format: str = "f"
    precision: int = 5
    scale: int = 2
    ambiguous_day_order: bool = True
    grouped: bool = True
    cell_count: int = 10
    missing_count: int = 1
    empty_count: int = 2
    null_like_count: int = 3
    distinct_estimate: int = 4
    min: str = "1.00"
    max: str = "9.50"
    sum: str = "20.25"
    mean: float | None = 4.05
    shortest_chars: int = 6
    longest_chars: int = 7
    top_values: list[tuple[str, int, int]] = field(default_factory=lambda: [("1.00", 3, 1), ("9.50", 2, 0)])


class Codec:
    """An EvidenceCodec of two columns: one of every row, one that every second row is too short to have."""

    def merge(self, parts: Sequence[bytes]) -> bytes:
        return b"".join(parts)

    def columns(self, evidence: bytes) -> list[Gathered]:
        rows = len(evidence)
        return [
            Gathered(cell_count=rows, missing_count=0),
            Gathered(cell_count=rows - rows // 2, missing_count=rows // 2, type="text"),
        ]


@dataclass(frozen=True)
class Evidence:
    """An EvidenceReader of one version."""

    row_count: int
    evidence: bytes

    def read_evidence(self, tenant: str, knowledge_base: str, number: int | None) -> VersionEvidence:
        if number not in (None, 3):
            raise no_version(knowledge_base, number)
        version = Version(tenant, knowledge_base, 3, datetime(2026, 1, 1, tzinfo=UTC), self.row_count, ("금액", "note"))
        return VersionEvidence(version, self.evidence, "dari_rows.typed_1")


def test_a_version_is_described_by_its_columns() -> None:
    profile = Profiles(Evidence(4, b"rows"), Codec()).describe("t", "kb")
    assert (profile.knowledge_base, profile.version, profile.row_count) == ("kb", 3, 4)
    assert profile.typed_view == "dari_rows.typed_1"
    assert [(column.name, column.type, column.cell_count, column.missing_count) for column in profile.columns] == [
        ("금액", ColumnType.DECIMAL, 4, 0),
        ("note", ColumnType.TEXT, 2, 2),
    ]


def test_every_field_of_the_evidence_is_told() -> None:
    (column, _) = profile_columns(Codec(), ["a", "b"], b"row")
    gathered = Gathered(cell_count=3, missing_count=0)
    told = {name: getattr(column, name) for name in (one.name for one in fields(gathered))}
    expected = {name: getattr(gathered, name) for name in told}
    expected |= {"type": ColumnType.DECIMAL, "top_values": (ValueCount("1.00", 3, 1), ValueCount("9.50", 2, 0))}
    assert told == expected
    assert {one.name for one in fields(ColumnProfile)} == {*told, "name"}


def test_a_value_is_a_cell_that_is_neither_empty_nor_null_like() -> None:
    assert ColumnProfile("a", cell_count=10, empty_count=2, null_like_count=3).value_count == 5


def test_a_version_without_rows_has_columns_of_which_nothing_is_known() -> None:
    profile = Profiles(Evidence(0, b""), Codec()).describe("t", "kb", 3)
    assert profile.columns == (ColumnProfile("금액"), ColumnProfile("note"))
    assert {column.type for column in profile.columns} == {ColumnType.EMPTY}


@pytest.mark.parametrize(("rows", "evidence"), [(1, b""), (4, b"row"), (2, b"row")])
def test_rows_of_which_nothing_was_gathered_are_not_passed_over(rows: int, evidence: bytes) -> None:
    with pytest.raises(FailedPrecondition, match="upload its files again"):
        Profiles(Evidence(rows, evidence), Codec()).describe("t", "kb")


def test_a_version_that_is_not_there_is_told_by_its_number() -> None:
    with pytest.raises(NotFound, match="no version 7") as raised:
        Profiles(Evidence(1, b"r"), Codec()).describe("t", "kb", 7)
    assert raised.value.metadata == {"resource": "knowledgeBases/kb", "version": "7"}


def test_a_type_that_nobody_knows_is_an_error() -> None:
    class Newer(Codec):
        def columns(self, evidence: bytes) -> list[Gathered]:
            return [Gathered(type="money"), Gathered()]

    with pytest.raises(ValueError, match="money"):
        profile_columns(Newer(), ["a", "b"], b"row")
