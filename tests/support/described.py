"""Knowledge bases and citations as the core hands them about, for tests of what is told of them."""

from datetime import UTC, datetime

from dari.core.conversations import Citation
from dari.core.known_profiles import DescribedBase
from dari.core.mapping import KnowledgeBase
from dari.core.profiles import ColumnProfile, ColumnType, Profile, ValueCount
from dari.core.prompt import cite
from dari.core.search import Hit

AS_OF = datetime(2026, 3, 5, 9, 30, tzinfo=UTC)


def hit(*cells: str, columns: tuple[str, ...] = (), row_number: int = 1, base: str = "base") -> Hit:
    return Hit(base, 1, row_number, 1.0, columns or tuple(f"c{n}" for n in range(len(cells))), cells, AS_OF)


def cited(*hits: Hit) -> tuple[Citation, ...]:
    return cite(hits)


def described(
    id: str,
    *columns: ColumnProfile,
    rows: int = 2,
    description: str = "",
    display_name: str = "",
    has_profile: bool = True,
) -> DescribedBase:
    names = tuple(column.name for column in columns)
    known = KnowledgeBase(id, display_name or id, description, 1, rows, names)
    return DescribedBase(known, Profile(id, 1, rows, columns, "") if has_profile else None)


def numbers(name: str, least: str, most: str) -> ColumnProfile:
    return ColumnProfile(name, ColumnType.INTEGER, cell_count=2, min=least, max=most)


def texts(name: str, different: int, *values: str, count: int = 5, empty: int = 0) -> ColumnProfile:
    top = tuple(ValueCount(value, count, 0) for value in values)
    return ColumnProfile(
        name, ColumnType.TEXT, cell_count=100, empty_count=empty, distinct_estimate=different, top_values=top
    )
