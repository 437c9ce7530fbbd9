"""Tells a model what data there is, in a line a knowledge base: its subject, how many rows, what is in the columns.

So "how many rows", "which columns" and "from when to when" can be answered, whatever rows were found. As much is told
as fits: all about each column, or types, or names, or the number of rows alone.
"""

from collections.abc import Iterator, Sequence

from dari.core.known_profiles import DescribedBase
from dari.core.profiles import ColumnProfile, ColumnType
from dari.core.tokens import most_tokens
from dari.core.told_text import inline, inline_name

_NAME_CHARS = 60
_VALUE_CHARS = 40
_DESCRIPTION_CHARS = 300
_MAX_VALUES = 6
_LEAST_NAME_TOKENS = 3
"""What a column's name costs at least, with what parts it from the next."""
_FEW_VALUES = 12
"""A column of no more different values is told by its values."""
_RANGED = (ColumnType.DATE, ColumnType.TIME, ColumnType.TIMESTAMP)


def profiles_text(bases: Sequence[DescribedBase], tokens: int) -> str:
    """A line for each knowledge base, in so many tokens; those for which nothing is left come without a line."""
    lines: list[str] = []
    for place, base in enumerate(bases):
        share = tokens // (len(bases) - place)
        line = next((line for line in _lines(base, share) if most_tokens(line) + 1 <= share), "")
        if line:
            lines.append(line)
            tokens -= most_tokens(line) + 1
    return "\n".join(lines)


def _lines(base: DescribedBase, tokens: int) -> Iterator[str]:
    """What could be told of a knowledge base in about so many tokens, most first."""
    known, profile = base.knowledge_base, base.profile
    about = inline(known.description, _DESCRIPTION_CHARS)
    head, bare = (f"{known.id}: {about}. " if about else f"{known.id}: "), f"{known.id}: "
    counted = f"{base.row_count:,} rows"
    columns = known.columns if profile is None else tuple(column.name for column in profile.columns)
    # More names would not fit, however short they are.
    most = max(0, tokens) // _LEAST_NAME_TOKENS
    names = [inline_name(name, _NAME_CHARS) for name in columns[:most]]
    if profile is not None and len(names) == len(columns):
        for of_column in (_with_content, _with_type):
            yield f"{head}{counted}. Columns: {'; '.join(map(of_column, names, profile.columns))}"
    while names:
        more = f" and {len(columns) - len(names):,} more" if len(names) < len(columns) else ""
        for beginning in (head, bare):
            yield f"{beginning}{counted}. Columns: {'; '.join(names)}{more}"
        names = names[: len(names) * 3 // 4]
    yield f"{bare}{counted}, {len(columns):,} columns"


def _with_type(name: str, column: ColumnProfile) -> str:
    return f"{name} ({column.type.value})"


def _with_content(name: str, column: ColumnProfile) -> str:
    facts = [column.type.value, *_content(column)]
    if column.type is not ColumnType.EMPTY and column.value_count < column.cell_count:
        facts.append(f"{column.cell_count - column.value_count:,} without a value")
    return f"{name} ({', '.join(facts)})"


def _content(column: ColumnProfile) -> Iterator[str]:
    if column.type.is_number or column.type in _RANGED:
        yield f"{inline(column.min, _VALUE_CHARS)} to {inline(column.max, _VALUE_CHARS)}"
    elif column.type is not ColumnType.EMPTY:
        has_few = column.distinct_estimate <= _FEW_VALUES
        values = [
            inline(counted.value, _VALUE_CHARS)
            for counted in column.top_values[: _FEW_VALUES if has_few else _MAX_VALUES]
            if has_few or counted.count - counted.error > 1
        ]
        if not has_few:
            yield f"{column.distinct_estimate:,} different"
        if values:
            yield ("" if has_few else "often ") + " / ".join(values)
