"""`dari profile`: a picture of what is in the columns of a knowledge base, from every value of it."""

from collections.abc import Sequence

from rich.text import Text

from dari.commands.exit_codes import ExitCode
from dari.commands.terminal import Terminal, clean, short_name
from dari.v1.ingest_pb2 import COLUMN_TYPE_DECIMAL, ColumnProfile, ColumnType, Profile, ValueCount

FILL_WIDTH_CHARS = 10
VALUE_SHOWN_CHARS = 18
"""Of each value in the picture; --column and --json have all of it."""
TOP_VALUES_SHOWN = 3
LEAST_SHARE_SHOWN = 0.01
SHARE_WIDTH_CHARS = 24
"""Of the longest bar of `--column`."""

FILLED, NULL_LIKE, EMPTY, MISSING = "█", "▒", "░", "·"
_FILL_STYLES = {FILLED: "green", NULL_LIKE: "yellow", EMPTY: "dim", MISSING: "red"}
_EIGHTHS = "▁▂▃▄▅▆▇█"


class NoSuchColumn(Exception):
    """A column was asked for that the version does not have."""


def run(terminal: Terminal, knowledge_base: str, version: int, columns: Sequence[str]) -> ExitCode:
    """Print the picture, or all that is known of some columns. Raises CallFailed, NoSuchColumn."""
    with terminal.connect() as client:
        profile = client.profile(knowledge_base, version=version)
    if columns:
        chosen = [_column(profile, name) for name in columns]
        del profile.columns[:]
        profile.columns.extend(chosen)
    if terminal.as_json:
        terminal.json_line(profile)
    elif columns:
        for column in profile.columns:
            show_column(terminal, column)
    else:
        show(terminal, profile)
    return ExitCode.OK


def show(terminal: Terminal, profile: Profile) -> None:
    """Print one line a column."""
    terminal.table(
        ("column", "type", "filled", "distinct", "from", "to", "most frequent"),
        [
            (
                column.name,
                type_text(column),
                fill_bar(column),
                f"{column.distinct_estimate:,}",
                _cut(column.min),
                _cut(column.max),
                "  ".join(_frequency(column, top) for top in _telling(column)[:TOP_VALUES_SHOWN]),
            )
            for column in profile.columns
        ],
        title=f"{profile.knowledge_base}, version {profile.version}: {profile.row_count:,} rows",
    )
    terminal.out.print(f"{FILLED} filled  {NULL_LIKE} says that there is no value  {EMPTY} empty  {MISSING} missing")
    if profile.typed_view:
        terminal.out.print(f"for SQL: {clean(profile.typed_view)}")


def show_column(terminal: Terminal, column: ColumnProfile) -> None:
    """Print all that is known of one column."""
    facts: list[tuple[str, object]] = [
        ("type", type_text(column)),
        ("filled", f"{fill_bar(column).plain}  {_filled(column):,}"),
        ("null-like", f"{column.null_like_count:,}"),
        ("empty", f"{column.empty_count:,}"),
        ("missing", f"{column.missing_count:,}"),
        ("distinct", f"{column.distinct_estimate:,} (estimated)"),
        ("from", column.min),
        ("to", column.max),
        ("characters", f"{column.shortest_chars:,} to {column.longest_chars:,}"),
    ]
    if column.sum:
        facts.append(("sum", column.sum))
    if column.HasField("mean"):
        facts.append(("mean", f"{column.mean:.6g}"))
    terminal.facts(facts, title=column.name)
    most = max((top.count for top in column.top_values), default=0)
    terminal.table(
        ("most frequent", "rows", "share", ""),
        [
            (
                top.value,
                f"{'at most ' if top.error else ''}{top.count:,}",
                _share_text(column, top),
                FILLED * max(1, round(SHARE_WIDTH_CHARS * top.count / most)),
            )
            for top in column.top_values
        ],
    )


def type_text(column: ColumnProfile) -> str:
    """Such as `decimal(10, 2)` or `date YYYY-MM-DD`, and what of it is unsure."""
    text = short_name(ColumnType.Name(column.type), "COLUMN_TYPE_")
    if column.type == COLUMN_TYPE_DECIMAL:
        text += f"({column.precision}, {column.scale})"
    return " ".join(
        part
        for part in (
            text,
            column.format,
            "with commas" if column.grouped else "",
            "(day or month first?)" if column.ambiguous_day_order else "",
        )
        if part
    )


def fill_bar(column: ColumnProfile) -> Text:
    """How the rows divide; whatever there is any of has a character at least."""
    counts = {
        FILLED: _filled(column),
        NULL_LIKE: column.null_like_count,
        EMPTY: column.empty_count,
        MISSING: column.missing_count,
    }
    return Text.assemble(
        *((sign * width, _FILL_STYLES[sign]) for sign, width in _divided(counts, FILL_WIDTH_CHARS).items())
    )


def _divided(counts: dict[str, int], width: int) -> dict[str, int]:
    """The width divided in proportion; what is not 0 gets 1 at least, and the largest what is left."""
    total = sum(counts.values())
    if not total:
        return dict.fromkeys(counts, 0)
    widths = {sign: max(1, width * count // total) if count else 0 for sign, count in counts.items()}
    largest = max(counts, key=lambda sign: counts[sign])
    widths[largest] += width - sum(widths.values())
    return widths


def _filled(column: ColumnProfile) -> int:
    return column.cell_count - column.empty_count - column.null_like_count


def _telling(column: ColumnProfile) -> list[ValueCount]:
    """The top values that are in a percent of the cells at least, and in two."""
    return [top for top in column.top_values if top.count - top.error > max(1, column.cell_count * LEAST_SHARE_SHOWN)]


def _frequency(column: ColumnProfile, top: ValueCount) -> str:
    """A value with a small bar and its share."""
    share = top.count / max(1, column.cell_count)
    return f"{_cut(top.value)} {_EIGHTHS[min(7, int(share * 8))]} {_share_text(column, top)}"


def _share_text(column: ColumnProfile, top: ValueCount) -> str:
    share = top.count / max(1, column.cell_count)
    return f"{'≤ ' if top.error else ''}{share:.0%}" if share >= LEAST_SHARE_SHOWN else "< 1%"


def _cut(value: str) -> str:
    text = " ".join(value.split())
    return text if len(text) <= VALUE_SHOWN_CHARS else f"{text[: VALUE_SHOWN_CHARS - 1]}…"


def _column(profile: Profile, name: str) -> ColumnProfile:
    for column in profile.columns:
        if column.name == name:
            return column
    names = ", ".join(column.name for column in profile.columns)
    raise NoSuchColumn(f"{profile.knowledge_base} has no column {name}; it has {names}.")
