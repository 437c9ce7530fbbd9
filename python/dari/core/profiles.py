"""What is in the columns of a version, told from every value: for callers, for prompts, and for the typed view."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from dari.core.errors import FailedPrecondition
from dari.core.versions import Version


class ColumnType(Enum):
    """The narrowest type that fits every value of a column which is neither empty nor null-like."""

    EMPTY = "empty"
    """There is no value to tell by."""
    INTEGER = "integer"
    DECIMAL = "decimal"
    FLOAT = "float"
    BOOLEAN = "boolean"
    DATE = "date"
    TIME = "time"
    TIMESTAMP = "timestamp"
    TEXT = "text"

    @property
    def is_number(self) -> bool:
        """Whether smallest and largest are by number, and sum and mean are there."""
        return self in (ColumnType.INTEGER, ColumnType.DECIMAL, ColumnType.FLOAT)


class ColumnEvidence(Protocol):
    """What was gathered about one column; see ColumnProfile in `_native.pyi` and ingest.proto."""

    @property
    def type(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def precision(self) -> int: ...
    @property
    def scale(self) -> int: ...
    @property
    def ambiguous_day_order(self) -> bool: ...
    @property
    def grouped(self) -> bool: ...
    @property
    def cell_count(self) -> int: ...
    @property
    def missing_count(self) -> int: ...
    @property
    def empty_count(self) -> int: ...
    @property
    def null_like_count(self) -> int: ...
    @property
    def distinct_estimate(self) -> int: ...
    @property
    def min(self) -> str: ...
    @property
    def max(self) -> str: ...
    @property
    def sum(self) -> str: ...
    @property
    def mean(self) -> float | None: ...
    @property
    def shortest_chars(self) -> int: ...
    @property
    def longest_chars(self) -> int: ...
    @property
    def top_values(self) -> list[tuple[str, int, int]]: ...


class EvidenceCodec(Protocol):
    """Reads what the parser gathered about the rows of batches; see `_native.pyi`."""

    def merge(self, parts: Sequence[bytes]) -> bytes: ...
    def columns(self, evidence: bytes) -> Sequence[ColumnEvidence]: ...


@dataclass(frozen=True, slots=True)
class VersionEvidence:
    """What was gathered about a version."""

    version: Version
    evidence: bytes
    """That of all rows together; b"" where there is none."""
    typed_view: str
    """Schema and name of the version's typed view; "" where it has none."""


class EvidenceReader(Protocol):
    """Reads evidence as a role that sees nothing but the knowledge base named."""

    def read_evidence(self, tenant: str, knowledge_base: str, number: int | None) -> VersionEvidence:
        """Of the version of this number, or the current one, as of one moment. Raises NotFound, Unavailable."""
        ...


@dataclass(frozen=True, slots=True)
class ValueCount:
    """How often a value stands in a column."""

    value: str
    """Cut at 256 bytes."""
    count: int
    """At most so often."""
    error: int
    """How far `count` may be too high; 0 where it is exact."""


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """What is in a column; the fields are those of ColumnProfile in ingest.proto."""

    name: str
    type: ColumnType = ColumnType.EMPTY
    format: str = ""
    precision: int = 0
    scale: int = 0
    ambiguous_day_order: bool = False
    grouped: bool = False
    cell_count: int = 0
    missing_count: int = 0
    empty_count: int = 0
    null_like_count: int = 0
    distinct_estimate: int = 0
    min: str = ""
    max: str = ""
    sum: str = ""
    mean: float | None = None
    shortest_chars: int = 0
    longest_chars: int = 0
    top_values: tuple[ValueCount, ...] = ()

    @property
    def value_count(self) -> int:
        """Cells that hold a value: neither empty nor null-like."""
        return self.cell_count - self.empty_count - self.null_like_count


@dataclass(frozen=True, slots=True)
class Profile:
    """What is in a version."""

    knowledge_base: str
    version: int
    row_count: int
    columns: tuple[ColumnProfile, ...]
    typed_view: str
    """Schema and name of the view with a PostgreSQL type a column."""


class Profiles:
    """Tells what is in versions. Thread-safe."""

    def __init__(self, evidence: EvidenceReader, codec: EvidenceCodec) -> None:
        self._evidence = evidence
        self._codec = codec

    def describe(self, tenant: str, knowledge_base: str, number: int | None = None) -> Profile:
        """The version of this number, or the current one.

        Raises NotFound for the knowledge base or the version; FailedPrecondition for a version with rows that were
        stored before evidence was gathered; Unavailable.
        """
        found = self._evidence.read_evidence(tenant, knowledge_base, number)
        version = found.version
        columns = profile_columns(self._codec, version.columns, found.evidence)
        if not are_whole(columns, version.row_count):
            name = f"knowledgeBases/{knowledge_base}"
            raise FailedPrecondition(
                f"Version {version.number} of {name} has rows from before profiles were made; upload its files again.",
                {"resource": name, "version": version.number},
            )
        return Profile(knowledge_base, version.number, version.row_count, columns, found.typed_view)


def profile_columns(codec: EvidenceCodec, names: Sequence[str], evidence: bytes) -> tuple[ColumnProfile, ...]:
    """The columns of these names, by what is known about them; b"" is nothing, as of no row."""
    if not evidence:
        return tuple(map(ColumnProfile, names))
    return tuple(_column(name, column) for name, column in zip(names, codec.columns(evidence), strict=True))


def are_whole(columns: Sequence[ColumnProfile], row_count: int) -> bool:
    """Whether the columns were told from every one of so many rows."""
    return all(column.cell_count + column.missing_count == row_count for column in columns)


def _column(name: str, evidence: ColumnEvidence) -> ColumnProfile:
    return ColumnProfile(
        name=name,
        type=ColumnType(evidence.type),
        format=evidence.format,
        precision=evidence.precision,
        scale=evidence.scale,
        ambiguous_day_order=evidence.ambiguous_day_order,
        grouped=evidence.grouped,
        cell_count=evidence.cell_count,
        missing_count=evidence.missing_count,
        empty_count=evidence.empty_count,
        null_like_count=evidence.null_like_count,
        distinct_estimate=evidence.distinct_estimate,
        min=evidence.min,
        max=evidence.max,
        sum=evidence.sum,
        mean=evidence.mean,
        shortest_chars=evidence.shortest_chars,
        longest_chars=evidence.longest_chars,
        top_values=tuple(ValueCount(*counted) for counted in evidence.top_values),
    )
