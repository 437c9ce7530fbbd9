"""The typed view of a version: its rows with a PostgreSQL type a column, for SQL.

`dari_rows.typed_{segment}` is named by the segment of the upload that made the version. Types come from evidence of
every value, so that no cast fails and none guesses: a cast takes exactly what `rust_parser/core/src/evidence` lets
pass for the type and format that it tells. Change both together. What is empty or null-like is NULL in a typed column;
a text column has each cell as it came.

The view runs as its caller (`security_invoker`): run as its owner, it would walk around row-level security.
"""

import re
from collections.abc import Iterable, Sequence

from dari.adapters.postgres.database import Role, Transaction
from dari.adapters.postgres.segments import read_evidence, rows_table, typed_view
from dari.core.profiles import ColumnProfile, ColumnType, EvidenceCodec, are_whole, profile_columns

_MAX_NAME_BYTES = 63
"""PostgreSQL cuts longer names, and then two may be the same."""
_ROW_NUMBER, _EXTRA_CELLS = "row_number", "extra_cells"
_TRUE = ("true", "yes", "y", "t", "예")
_FALSE = ("false", "no", "n", "f", "아니오")
_ISO_DATE = "YYYY-MM-DD"
"""The one way to write a day that PostgreSQL reads alike under every DateStyle."""
_KOREAN_MARKS = "년월일"
_MORNING = "오전"
_CLOCK = "(?:오[전후] )?[0-9]{1,2}:.*$"
"""A time of day, and its zone, behind the blank or T that follows a day."""
_TIMESTAMP_FORM = re.compile(r"(.+?) ((?:오전 )?(?:HH|h):MM(?::SS)?(?: AM)?)(±HH:MM)?")


_PARTS = """
SELECT v.columns, v.row_count, s.segment, s.rows_before
FROM dari.knowledge_base_versions v
JOIN dari.version_segments s ON s.tenant = v.tenant AND s.knowledge_base = v.knowledge_base AND s.version = v.number
WHERE v.tenant = %s AND v.knowledge_base = %s AND v.number = %s
ORDER BY s.ordinal
"""


def publish_typed_view(
    transaction: Transaction, codec: EvidenceCodec, tenant: str, knowledge_base: str, version: int, segment: str
) -> None:
    """Make the view of a version that is written in this transaction. As the app role, which the caller goes on as.

    `segment` is that of the upload which makes the version. Each column is text where rows are among them that were
    stored before evidence was gathered.
    """
    found = transaction.execute(_PARTS, (tenant, knowledge_base, version)).fetchall()
    names, row_count = found[0][:2]
    parts = [(part, rows_before) for _, _, part, rows_before in found]
    transaction.become(Role.INGEST)
    columns = profile_columns(codec, names, read_evidence(transaction, [part for part, _ in parts], codec.merge))
    if not are_whole(columns, row_count):
        columns = tuple(ColumnProfile(name, ColumnType.TEXT) for name in names)
    create_typed_view(transaction, segment, parts, columns)
    transaction.become(Role.APP)


def create_typed_view(
    transaction: Transaction, segment: str, parts: Iterable[tuple[str, int]], columns: Sequence[ColumnProfile]
) -> None:
    """Make the view of a version: `row_number`, its columns, `extra_cells`. As the ingest role.

    `segment` names it; `parts` are the version's segments in order, each with the count of rows before it.
    """
    view = typed_view(segment)
    names = ", ".join(map(_identifier, column_names([column.name for column in columns])))
    cells = [f"c{number}" for number in range(1, len(columns) + 1)]
    rows = " UNION ALL ".join(
        f"SELECT row_number + {int(rows_before)} AS row_number, {', '.join(cells)}, extra_cells FROM {rows_table(part)}"
        for part, rows_before in parts
    )
    typed = ", ".join(map(_typed, cells, columns))
    # Not by `execute`, to which a per cent sign in a column's name would be a parameter.
    transaction.cursor().execute(
        f"CREATE VIEW {view} ({names}) WITH (security_invoker = true) AS"
        f" SELECT row_number, {typed}, extra_cells FROM ({rows}) AS rows;"
        f"GRANT SELECT ON {view} TO dari_reader"
    )


def drop_typed_view(transaction: Transaction, segment: str) -> None:
    """Drop the view of the version that a segment's upload made, if it exists. As the ingest role.

    Before the tables that it reads: SQL that reads the view locks it first, too.
    """
    transaction.execute(f"DROP VIEW IF EXISTS {typed_view(segment)}")


def find_typed_view(transaction: Transaction, segment: str) -> str:
    """Schema and name of the view of the version that a segment's upload made; "" where there is none."""
    view = typed_view(segment)
    found = transaction.execute("SELECT to_regclass(%s) IS NOT NULL", (view,)).fetchone()
    return view if found is not None and found[0] else ""


def stored_typed_views(transaction: Transaction) -> list[str]:
    """The segments that typed views are named by. As any role."""
    cursor = transaction.execute(
        "SELECT substr(relname, length('typed_') + 1) FROM pg_class WHERE relnamespace = 'dari_rows'::regnamespace"
        " AND relkind = 'v' AND starts_with(relname, 'typed_') ORDER BY 1"
    )
    return [segment for (segment,) in cursor.fetchall()]


def column_names(columns: Iterable[str]) -> list[str]:
    """The names of all columns of a view: each at most 63 bytes, and none twice."""
    taken = {_ROW_NUMBER, _EXTRA_CELLS}
    names = []
    for column in columns:
        name = _cut(column, _MAX_NAME_BYTES)
        number = 1
        while name in taken:
            number += 1
            name = f"{_cut(column, _MAX_NAME_BYTES - len(f'_{number}'))}_{number}"
        taken.add(name)
        names.append(name)
    return [_ROW_NUMBER, *names, _EXTRA_CELLS]


def _cut(text: str, most_bytes: int) -> str:
    return text.encode()[:most_bytes].decode(errors="ignore")


def _typed(cell: str, column: ColumnProfile) -> str:
    """The cell as the column's type."""
    if column.type in (ColumnType.EMPTY, ColumnType.TEXT):
        return cell
    if column.type is ColumnType.BOOLEAN:
        true, false = (", ".join(map(_literal, words)) for words in (_TRUE, _FALSE))
        return f"CASE WHEN lower({cell}) IN ({true}) THEN true WHEN lower({cell}) IN ({false}) THEN false END"
    # Every number, day and time has a digit, and no null-like text has one.
    return f"CASE WHEN {cell} ~ '[0-9]' THEN {_cast(cell, column)} END"


def _cast(value: str, column: ColumnProfile) -> str:
    digits = f"replace({value}, ',', '')" if column.grouped else value
    match column.type:
        case ColumnType.INTEGER:
            return f"{digits}::bigint"
        case ColumnType.DECIMAL:
            return f"{digits}::numeric({int(column.precision)}, {int(column.scale)})"
        case ColumnType.FLOAT:
            return f"{value}::double precision"
        case ColumnType.DATE:
            return _date(value, column.format)
        case ColumnType.TIME:
            return f"{_clock(value, column.format)}::time"
        case ColumnType.TIMESTAMP:
            return _timestamp(value, column.format)
    raise ValueError(f"a column of type {column.type.value} has no cast")


def _date(value: str, form: str) -> str:
    if form == _ISO_DATE:
        return f"{value}::date"
    year, month, day = (f"{part}::integer" for part in _date_parts(value, form))
    return f"make_date({year}, {month}, {day})"


def _date_parts(value: str, form: str) -> list[str]:
    """The texts of year, month and day, perhaps with blanks around them."""
    if _KOREAN_MARKS[0] in form:
        form = form.translate(str.maketrans(_KOREAN_MARKS, "..."))
        value = f"translate({value}, {_literal(_KOREAN_MARKS)}, '...')"
    separator = next(character for character in form if not character.isalpha())
    fields = [field.strip()[:1] for field in form.split(separator)]
    return [f"split_part({value}, '{separator}', {fields.index(field) + 1})" for field in "YMD"]


def _clock(value: str, form: str) -> str:
    """A time of day as PostgreSQL reads it, which knows AM and PM."""
    if not form.startswith(_MORNING):
        return value
    half = f"CASE left({value}, {len(_MORNING)}) WHEN {_literal(_MORNING)} THEN ' AM' ELSE ' PM' END"
    return f"(substr({value}, {len(_MORNING) + 2}) || {half})"


def _timestamp(value: str, form: str) -> str:
    parts = _TIMESTAMP_FORM.fullmatch(form)
    if parts is None:
        raise ValueError(f"{form} is no form of a timestamp")
    date_form, clock_form, zone = parts.groups()
    kind = "timestamptz" if zone else "timestamp"
    if date_form == _ISO_DATE and not clock_form.startswith(_MORNING):
        return f"{value}::{kind}"
    day = f"regexp_replace({value}, {_literal(f'[ T]{_CLOCK}')}, '')"
    clock = _clock(f"substring({value} from {_literal(f'[ T]({_CLOCK})')})", clock_form)
    year, month, day = (f"trim({part})" for part in _date_parts(day, date_form))
    return f"({year} || '-' || {month} || '-' || {day} || ' ' || {clock})::{kind}"


def _identifier(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _literal(text: str) -> str:
    """A text of this module; what comes from a file is never one."""
    return f"'{text}'"
