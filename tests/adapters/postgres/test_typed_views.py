"""Any file's values, through the real parser and the real PostgreSQL, into the typed view and out of it."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import uuid4

import psycopg2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dari.adapters.native import NativeEvidence, ParserFactory
from dari.adapters.postgres.database import Database, Role, Transaction
from dari.adapters.postgres.segments import copy_into_segment, create_segment, read_evidence
from dari.adapters.postgres.typed_views import column_names, create_typed_view, drop_typed_view, find_typed_view
from dari.core.profiles import ColumnProfile, ColumnType, profile_columns
from dari.core.uploads import Dialect, ParseOptions
from tests.fix_postgres import PostgresDsns

TENANT, BASE = "default", "kb"
NULL_LIKE = [
    *("NULL", "Null", "null", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "None", "none", "NONE", "NIL", "nil", "-"),
    *("\\N", "없음", "해당없음", "해당 없음"),
]
Meaning = int | Decimal | float | bool | date | time | datetime | str | None


@pytest.fixture(scope="module")
def rows_database(shared_database: PostgresDsns) -> Iterator[Database]:
    """For transactions that are rolled back."""
    with closing(
        Database(shared_database.service_dsn, max_connections=2, wait_timeout_s=5, statement_timeout_s=60)
    ) as database:
        yield database


@dataclass(frozen=True)
class Viewed:
    """A typed view with rows, in a transaction that the reader goes on in."""

    transaction: Transaction
    name: str
    columns: tuple[ColumnProfile, ...]

    def rows(self, select: str = "*") -> list[tuple[Meaning, ...]]:
        return self.transaction.execute(f"SELECT {select} FROM {self.name} ORDER BY row_number").fetchall()


class _RolledBack(Exception):
    """Ends a test's transaction."""


@contextmanager
def viewed(database: Database, *files: Sequence[Sequence[str]]) -> Iterator[Viewed]:
    """The typed view of a version whose segments hold these files' rows; the first row of each is its header."""
    segments = [uuid4().hex for _ in files]
    with (
        suppress(_RolledBack),
        database.transaction(Role.INGEST, tenant=TENANT, knowledge_bases=[BASE]) as transaction,
    ):
        parts = []
        rows_before = 0
        for segment, rows in zip(segments, files, strict=True):
            parts.append((segment, rows_before))
            rows_before += _store(transaction, segment, rows)
        codec = NativeEvidence()
        columns = profile_columns(codec, list(files[0][0]), read_evidence(transaction, segments, codec.merge))
        create_typed_view(transaction, segments[-1], parts, columns)
        transaction.become(Role.READER)
        transaction.execute("SET LOCAL timezone = 'UTC'")
        yield Viewed(transaction, find_typed_view(transaction, segments[-1]), columns)
        raise _RolledBack


def _store(transaction: Transaction, segment: str, rows: Sequence[Sequence[str]]) -> int:
    """Read the file and store its rows; returns how many there are."""
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    told = Dialect(
        encoding="utf-8",
        delimiter=",",
        quote='"',
        escape="",
        comment="",
        trims_blanks=False,
        preamble_lines=0,
        header_rows=1,
    )
    parser = ParserFactory(
        batch_bytes=64 * 1024,
        max_record_bytes=1024 * 1024,
        max_cell_bytes=1024 * 1024,
        max_header_bytes=256 * 1024,
        max_columns=1_500,
    )(ParseOptions(told, replaces_invalid_bytes=False, keeps_ragged_rows=True), None)
    batches = [*parser.feed(text.getvalue().encode()), *parser.finish()]
    create_segment(transaction, segment, TENANT, BASE, len(rows[0]))
    at = 0
    for batch in batches:
        assert not batch.rejected
        assert copy_into_segment(transaction, segment, at, batch) == batch.rows_stored
        at = batch.checkpoint.offset_bytes
    return batches[-1].checkpoint.rows_stored


def _shown(database: Database, cells: Sequence[str]) -> tuple[ColumnProfile, list[Meaning]]:
    """The profile of one column, and its values in the view."""
    # A second column keeps a line with an empty cell from being an empty line.
    with viewed(database, [("v", "n"), *((cell, "x") for cell in cells)]) as view:
        return view.columns[0], [value for (value,) in view.rows("v")]


_at = datetime.fromisoformat

TABLE: list[tuple[str, list[str], ColumnType, list[Meaning]]] = [
    ("whole numbers", ["0", "-7", "9223372036854775807"], ColumnType.INTEGER, [0, -7, 9_223_372_036_854_775_807]),
    ("grouped whole numbers", ["1,234,567", "12", "-1,000"], ColumnType.INTEGER, [1_234_567, 12, -1_000]),
    ("days that are numbers too", ["20240301", "19991231"], ColumnType.INTEGER, [20_240_301, 19_991_231]),
    ("zeros in front are kept", ["007", "12"], ColumnType.TEXT, ["007", "12"]),
    (
        "decimals of different scales",
        ["12345.6", "-0.0001", ".5", "7"],
        ColumnType.DECIMAL,
        [Decimal("12345.6"), Decimal("-0.0001"), Decimal("0.5"), Decimal(7)],
    ),
    ("grouped decimals", ["1,234.50", "0.5"], ColumnType.DECIMAL, [Decimal("1234.50"), Decimal("0.5")]),
    (
        "whole numbers beyond 64 bits",
        ["9223372036854775808", "-" + "9" * 38],
        ColumnType.DECIMAL,
        [Decimal(9_223_372_036_854_775_808), Decimal("-" + "9" * 38)],
    ),
    ("exponents", ["1e5", "-2.5E-3", "7", "4.9e-324"], ColumnType.FLOAT, [1e5, -2.5e-3, 7.0, 4.9e-324]),
    ("numbers that only a decimal of another size can hold", ["1e5", "1e-400"], ColumnType.TEXT, ["1e5", "1e-400"]),
    ("true and false", ["true", "FALSE", "True"], ColumnType.BOOLEAN, [True, False, True]),
    ("yes and no in Korean", ["예", "아니오"], ColumnType.BOOLEAN, [True, False]),
    ("ISO days", ["2024-03-01", "2024-2-29"], ColumnType.DATE, [date(2024, 3, 1), date(2024, 2, 29)]),
    (
        "Korean days with dots",
        ["2024. 3. 1.", "2024.12.31", "2024. 3.1"],
        ColumnType.DATE,
        [date(2024, 3, 1), date(2024, 12, 31), date(2024, 3, 1)],
    ),
    (
        "Korean days with words",
        ["2024년 3월 1일", "2024년12월31일"],
        ColumnType.DATE,
        [date(2024, 3, 1), date(2024, 12, 31)],
    ),
    ("month first", ["03/01/2024", "12/31/2024"], ColumnType.DATE, [date(2024, 3, 1), date(2024, 12, 31)]),
    ("day first", ["01.03.2024", "31.12.2024"], ColumnType.DATE, [date(2024, 3, 1), date(2024, 12, 31)]),
    ("times", ["7:05", "23:59:59.123456"], ColumnType.TIME, [time(7, 5), time(23, 59, 59, 123_456)]),
    ("times in halves", ["3:05 PM", "12:00 am", "12:30PM"], ColumnType.TIME, [time(15, 5), time(0, 0), time(12, 30)]),
    ("Korean times", ["오전 3:05", "오후 12:00", "오전 12:01"], ColumnType.TIME, [time(3, 5), time(12, 0), time(0, 1)]),
    (
        "timestamps",
        ["2024-03-01 12:30:00", "2024-3-1T7:05:09.5"],
        ColumnType.TIMESTAMP,
        [_at("2024-03-01 12:30:00"), _at("2024-03-01 07:05:09.500000")],
    ),
    (
        "timestamps with zones",
        ["2024-03-01T12:30:00Z", "2024-03-01T12:30:00+09:00", "2024-03-01 12:30-0130"],
        ColumnType.TIMESTAMP,
        [
            datetime(2024, 3, 1, 12, 30, tzinfo=UTC),
            datetime(2024, 3, 1, 3, 30, tzinfo=UTC),
            datetime(2024, 3, 1, 14, 0, tzinfo=UTC),
        ],
    ),
    (
        "Korean timestamps",
        ["2024. 3. 1. 오후 3:05", "2024. 12. 31. 오전 12:00"],
        ColumnType.TIMESTAMP,
        [_at("2024-03-01 15:05:00"), _at("2024-12-31 00:00:00")],
    ),
    (
        "Korean timestamps in words",
        ["2024년 3월 1일 15:05", "2024년 12월 31일 7:00"],
        ColumnType.TIMESTAMP,
        [_at("2024-03-01 15:05:00"), _at("2024-12-31 07:00:00")],
    ),
    (
        "American timestamps",
        ["3/1/2024 3:05 PM", "12/31/2024 11:59 AM"],
        ColumnType.TIMESTAMP,
        [_at("2024-03-01 15:05:00"), _at("2024-12-31 11:59:00")],
    ),
    ("blanks around a number are text", [" 1", "2"], ColumnType.TEXT, [" 1", "2"]),
    ("texts keep empty cells and words for nothing", ["a", "", "NULL"], ColumnType.TEXT, ["a", "", "NULL"]),
    ("nothing at all", ["", "N/A"], ColumnType.EMPTY, ["", "N/A"]),
]


@pytest.mark.parametrize(("cells", "kind", "meant"), [case[1:] for case in TABLE], ids=[name for name, *_ in TABLE])
def test_values_have_the_type_that_their_column_tells(
    rows_database: Database, cells: list[str], kind: ColumnType, meant: list[Meaning]
) -> None:
    column, shown = _shown(rows_database, cells)
    assert column.type is kind
    assert shown == meant


def test_what_is_empty_or_null_like_is_null_in_a_typed_column(rows_database: Database) -> None:
    for value, meant in (("1", 1), ("2.5", Decimal("2.5")), ("Y", True), ("2024-03-01", date(2024, 3, 1))):
        cells = [value, "", *NULL_LIKE]
        column, shown = _shown(rows_database, cells)
        assert (column.empty_count, column.null_like_count) == (1, len(NULL_LIKE))
        assert shown == [meant, *[None] * (len(cells) - 1)]


def _years(low: int = 1, high: int = 9_999) -> st.SearchStrategy[date]:
    return st.dates(date(low, 1, 1), date(high, 12, 31))


def _numbers(day: date, draw_pads: bool) -> tuple[str, str, str]:
    pad = "02" if draw_pads else ""
    return f"{day.year:04}", f"{day.month:{pad}}", f"{day.day:{pad}}"


def _day_texts(day: date, pads: bool, blank: str, dot: str) -> dict[str, str]:
    """The day in each form that may be told."""
    y, m, d = _numbers(day, pads)
    return {
        **{f"YYYY{mark}MM{mark}DD": f"{y}{mark}{m}{mark}{d}" for mark in "-/."},
        **{f"MM{mark}DD{mark}YYYY": f"{m}{mark}{d}{mark}{y}" for mark in "-/."},
        **{f"DD{mark}MM{mark}YYYY": f"{d}{mark}{m}{mark}{y}" for mark in "-/."},
        "YYYY. M. D.": f"{y}. {m}.{blank}{d}{dot}",
        "YYYY년 M월 D일": f"{y}년{blank}{m}월{blank}{d}일",
    }


def _clock_texts(clock: time, seconds: str, pads: bool) -> dict[str, str]:
    """The time of day in each form, with these texts of seconds behind it."""
    hour = f"{clock.hour:02}" if pads else f"{clock.hour}"
    half_hour = (clock.hour + 11) % 12 + 1
    return {
        "HH": f"{hour}:{clock.minute:02}{seconds}",
        "h": f"{half_hour}:{clock.minute:02}{seconds}{' ' if pads else ''}{'PM' if clock.hour >= 12 else 'am'}",
        "오전": f"{'오후' if clock.hour >= 12 else '오전'} {half_hour}:{clock.minute:02}{seconds}",
    }


DAY_FORMS = list(_day_texts(date(2024, 1, 1), True, "", ""))
CLOCK_FORMS = ["HH", "h", "오전"]
ZONES = {"Z": 0, "+09:00": 540, "-0330": -210, "+14": 840, "-14:59": -899}


@st.composite
def _days(draw: st.DrawFn, form: str) -> tuple[str, date]:
    day = draw(_years())
    texts = _day_texts(day, draw(st.booleans()), draw(st.sampled_from(["", " "])), draw(st.sampled_from(["", "."])))
    return texts[form], day


@st.composite
def _clocks(draw: st.DrawFn, form: str) -> tuple[str, time]:
    clock = draw(st.times())
    digits = draw(st.integers(0, 6))
    if draw(st.booleans()):
        return _clock_texts(clock, "", draw(st.booleans()))[form], clock.replace(second=0, microsecond=0)
    fraction = f"{clock.microsecond:06}"[:digits]
    seconds = f":{clock.second:02}{'.' if fraction else ''}{fraction}"
    meant = clock.replace(microsecond=int(fraction.ljust(6, "0")))
    return _clock_texts(clock, seconds, draw(st.booleans()))[form], meant


@st.composite
def _stamps(draw: st.DrawFn, day_form: str, clock_form: str, *, zoned: bool) -> tuple[str, datetime]:
    # A day is drawn away from the ends of the calendar: Python has no year 0 and no year 10,000.
    day = draw(_years(2, 9_998))
    dot = draw(st.sampled_from(["", "."]))
    day_text = _day_texts(day, draw(st.booleans()), draw(st.sampled_from(["", " "])), dot)[day_form]
    clock_text, clock = draw(_clocks(clock_form))
    joint = draw(st.sampled_from([" ", "T"])) if day_form == "YYYY-MM-DD" else " "
    meant = datetime.combine(day, clock)
    if not zoned:
        return f"{day_text}{joint}{clock_text}", meant
    zone = draw(st.sampled_from(sorted(ZONES)))
    return f"{day_text}{joint}{clock_text}{zone}", meant.replace(tzinfo=timezone(timedelta(minutes=ZONES[zone])))


def _decimal(number: Decimal) -> tuple[str, Decimal]:
    return f"{number:f}", number


DECIMALS = st.builds(
    lambda digits, scale: Decimal(digits).scaleb(-scale), st.integers(-(10**15), 10**15), st.integers(0, 12)
)
KINDS: dict[str, st.SearchStrategy[tuple[str, Meaning]]] = {
    "integer": st.integers(-(2**63), 2**63 - 1).map(lambda number: (str(number), number)),
    "grouped integer": st.integers(-(2**63), 2**63 - 1).map(lambda number: (f"{number:,}", number)),
    "decimal": DECIMALS.map(_decimal),
    "grouped decimal": DECIMALS.map(lambda number: (f"{number:,f}", number)),
    "long decimal": st.integers(-(10**38) + 1, 10**38 - 1).map(lambda number: _decimal(Decimal(number))),
    "float": st.floats(allow_nan=False, allow_infinity=False).map(lambda number: (f"{number:.17e}", number)),
    "boolean": st.sampled_from([(word, word == "true") for word in ("true", "false")]),
    **{f"date {form}": _days(form) for form in DAY_FORMS},
    **{f"time {form}": _clocks(form) for form in CLOCK_FORMS},
    **{
        f"timestamp {day_form} {clock_form}": _stamps(day_form, clock_form, zoned=False)
        for day_form in DAY_FORMS
        for clock_form in CLOCK_FORMS
    },
    **{f"timestamp {form} with zone": _stamps(form, "HH", zoned=True) for form in DAY_FORMS},
}
TYPES = {
    "integer": {ColumnType.INTEGER},
    "grouped": {ColumnType.INTEGER, ColumnType.DECIMAL},
    "decimal": {ColumnType.INTEGER, ColumnType.DECIMAL},
    "long": {ColumnType.INTEGER, ColumnType.DECIMAL},
    "float": {ColumnType.FLOAT},
    "boolean": {ColumnType.BOOLEAN},
    "date": {ColumnType.DATE},
    "time": {ColumnType.TIME},
    "timestamp": {ColumnType.TIMESTAMP},
}
"""What a column may be told to be, by the first word of its kind."""


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_column_of_one_kind_keeps_its_meaning(rows_database: Database, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    values = data.draw(st.lists(KINDS[kind], min_size=1, max_size=12))
    nothing: st.SearchStrategy[tuple[str, Meaning]] = st.sampled_from(["", *NULL_LIKE]).map(lambda cell: (cell, None))
    cells = data.draw(st.permutations([*values, *data.draw(st.lists(nothing, max_size=3))]))
    column, shown = _shown(rows_database, [cell for cell, _ in cells])
    assert column.type in TYPES[kind.split()[0]]
    meant = [meaning for _, meaning in cells]
    if " DD" in kind and column.ambiguous_day_order and column.format.startswith("MM"):
        meant = [_swapped(meaning) for meaning in meant]
    assert shown == meant


def _swapped(meaning: Meaning) -> Meaning:
    """A day as who reads the month first reads it, which was written with the day first."""
    assert meaning is None or isinstance(meaning, date)
    return None if meaning is None else meaning.replace(month=meaning.day, day=meaning.month)


NEARLY = [
    r"-?[0-9]{1,3}(,[0-9]{3}){0,2}(\.[0-9]{1,4})?",
    r"-?[0-9]{0,20}\.?[0-9]{1,20}([eE][-+]?[0-9]{1,4})?",
    r"[0-9]{1,4}[-/.] ?[0-9]{1,2}[-/.] ?[0-9]{1,4}\.?",
    r"[0-9]{4}년 ?[0-9]{1,2}월 ?[0-9]{1,2}일( (오[전후] )?[0-9]{1,2}:[0-9]{2})?",
    r"(오[전후] )?[0-9]{1,2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,7})?)?( ?[AaPp][Mm])?",
    r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}[ T][0-9]{1,2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?",
    r"[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}\.? (오[전후] )?[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?( ?[AP]M|Z|[+-][0-9]{2})?",
    r"(true|FALSE|Yes|no|Y|n|t|F|예|아니오)",
]
CELLS = st.one_of(
    *[st.from_regex(re.compile(pattern), fullmatch=True) for pattern in NEARLY],
    st.text(alphabet="0123456789-:/. ,eE+년월일오전후AMPZT", max_size=20),
    st.sampled_from(["", *NULL_LIKE]),
)


@settings(max_examples=400, deadline=None)
@example(cells=["1e-400"])
@example(cells=["0e999999"])
@example(cells=["1e" + "0" * 260 + "999"])
@example(cells=["0001-01-01 00:00+14:59", "9999-12-31 23:59:59.999999-14:59"])
@given(cells=st.lists(CELLS, min_size=1, max_size=3))
def test_no_cell_that_nearly_is_of_some_type_fails_or_is_lost(rows_database: Database, cells: list[str]) -> None:
    with viewed(rows_database, [("v", "n"), *((cell, "x") for cell in cells)]) as view:
        shown = [text for (text,) in view.rows("v::text")]
        if view.columns[0].type in (ColumnType.TEXT, ColumnType.EMPTY):
            assert shown == cells
        else:
            assert [text is None for text in shown] == [cell in ("", *NULL_LIKE) for cell in cells]


def test_short_rows_have_no_value_and_long_ones_keep_their_cells(rows_database: Database) -> None:
    rows = [("a", "b"), ("1", "2"), ("3",), ("4", "5", "six", ""), ("7", "")]
    with viewed(rows_database, rows) as view:
        assert view.rows() == [(1, 1, 2, None), (2, 3, None, None), (3, 4, 5, ["six", ""]), (4, 7, None, None)]


def test_a_version_of_several_segments_is_one_view_with_the_types_of_all_rows(rows_database: Database) -> None:
    header = ("number", "day")
    first = [header, ("1", "2024-03-01"), ("2", "2024-03-02")]
    empty = [header]
    third = [header, ("2.5", "2024-03-03")]
    with viewed(rows_database, first, empty, third) as view:
        assert [column.type for column in view.columns] == [ColumnType.DECIMAL, ColumnType.DATE]
        assert view.rows() == [
            (1, Decimal(1), date(2024, 3, 1), None),
            (2, Decimal(2), date(2024, 3, 2), None),
            (3, Decimal("2.5"), date(2024, 3, 3), None),
        ]


NAMES = [
    ("as they are", ["id", "이름", "Unit Price (%)"], ["id", "이름", "Unit Price (%)"]),
    ("quotes, per cent, line ends", ['a"b', "%s", "a\nb"], ['a"b', "%s", "a\nb"]),
    ("what the view itself has", ["row_number", "extra_cells"], ["row_number_2", "extra_cells_2"]),
    ("system columns", ["ctid", "xmin", "tableoid"], ["ctid", "xmin", "tableoid"]),
    ("63 bytes", ["가" * 30], ["가" * 21]),
    ("equal within 63 bytes", ["x" * 70, "x" * 71, "x" * 63], ["x" * 63, "x" * 61 + "_2", "x" * 61 + "_3"]),
    ("a name that another was given", ["a_2", "row_number", "row_number_2"], ["a_2", "row_number_2", "row_number_2_2"]),
]


@pytest.mark.parametrize(("columns", "expected"), [case[1:] for case in NAMES], ids=[name for name, *_ in NAMES])
def test_columns_are_named_by_the_header(rows_database: Database, columns: list[str], expected: list[str]) -> None:
    assert column_names(columns) == ["row_number", *expected, "extra_cells"]
    with viewed(rows_database, [columns, ["x"] * len(columns)]) as view:
        cursor = view.transaction.execute(f"SELECT * FROM {view.name}")
        assert cursor.description is not None
        assert [column.name for column in cursor.description] == ["row_number", *expected, "extra_cells"]


@given(columns=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)))
def test_any_names_are_told_apart_within_what_postgresql_keeps(columns: list[str]) -> None:
    names = column_names(columns)
    assert len(names) == len(columns) + 2
    assert len(set(names)) == len(names)
    assert all(1 <= len(name.encode()) <= 63 for name in names)


def test_a_view_shows_the_reader_nothing_that_its_transaction_does_not_name(rows_database: Database) -> None:
    with viewed(rows_database, [("a",), ("1",), ("2",)]) as view:
        assert len(view.rows()) == 2
        for tenant, bases in (("", ""), (TENANT, ""), ("", BASE), ("other", BASE), (TENANT, "other")):
            view.transaction.execute(
                "SELECT set_config('dari.tenant', %s, true), set_config('dari.knowledge_bases', %s, true)",
                (tenant, bases),
            )
            assert view.rows() == [], (tenant, bases)


def test_a_view_is_there_until_it_is_dropped(rows_database: Database) -> None:
    with viewed(rows_database, [("a",), ("1",)]) as view:
        segment = view.name.removeprefix("dari_rows.typed_")
        view.transaction.become(Role.INGEST)
        assert find_typed_view(view.transaction, segment) == view.name
        drop_typed_view(view.transaction, segment)
        drop_typed_view(view.transaction, segment)
        assert find_typed_view(view.transaction, segment) == ""


def test_a_view_of_as_many_columns_as_a_file_may_have(rows_database: Database) -> None:
    header = [f"column {number}" for number in range(1_500)]
    with viewed(rows_database, [header, ["1"] * 1_500]) as view:
        assert view.rows() == [(1, *[1] * 1_500, None)]


def test_the_way_a_session_writes_dates_changes_no_value(rows_database: Database) -> None:
    cells = ["2024-03-04", "2024-05-06"]
    with viewed(rows_database, [("v", "n"), *((cell, "x") for cell in cells)]) as view:
        for style in ("ISO, MDY", "SQL, DMY", "German", "Postgres, YMD"):
            view.transaction.execute(f"SET LOCAL datestyle = '{style}'")
            shown = view.transaction.execute(f"SELECT to_char(v, 'YYYY-MM-DD') FROM {view.name} ORDER BY row_number")
            assert [text for (text,) in shown.fetchall()] == cells


def test_who_is_not_the_reader_may_not_select_a_view(rows_database: Database) -> None:
    with viewed(rows_database, [("a",), ("1",)]) as view:
        view.transaction.become(Role.APP)
        view.transaction.execute("SAVEPOINT before")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            view.rows()
        view.transaction.execute("ROLLBACK TO before")
