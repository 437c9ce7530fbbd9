"""Exports over rows that a fake reader hands in; its COPY is a row a line, and its CSV too."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dari.core.errors import NotFound
from dari.core.exports import PAGE_BYTES, Exports, RowsPage
from dari.core.uploads import StoredRejectedRow
from dari.core.versions import Version, no_version

MIB = 1024 * 1024
VERSION = Version("t", "kb", 3, datetime(2026, 1, 1, tzinfo=UTC), 0, ("a", "b"))


class StoredRows:
    """A RowsReader that holds itself to the port's promise; each row's text is its COPY."""

    def __init__(self, rows: Sequence[bytes], goes_at_row: int | None = None) -> None:
        self._rows = rows
        self._goes_at_row = goes_at_row
        self.pages: list[int] = []

    def find(self, tenant: str, knowledge_base: str, number: int | None) -> Version:
        return replace(VERSION, row_count=len(self._rows))

    def read_rows(self, version: Version, first_row_number: int, max_rows: int, max_bytes: int) -> RowsPage:
        if self._goes_at_row is not None and first_row_number >= self._goes_at_row:
            raise no_version("kb", version.number)
        taken: list[bytes] = []
        bytes_left = max_bytes
        for row in self._rows[first_row_number - 1 : first_row_number - 1 + max_rows]:
            taken.append(row)
            bytes_left -= len(row)
            if bytes_left <= 0:
                break
        self.pages.append(len(taken))
        return RowsPage(b"".join(taken), len(taken))


class Writer:
    """A CsvWriter of a CSV without rules."""

    def __init__(self, escapes: bool) -> None:
        self._mark = b"'" if escapes else b""

    def header(self, columns: list[str]) -> bytes:
        return ",".join(columns).encode() + b"\n"

    def rows(self, copy: bytes) -> bytes:
        return self._mark + copy


@dataclass
class Rejected:
    """A RejectedRowsReader."""

    rows: list[StoredRejectedRow]
    goes_at_offset: int | None = None
    largest_page: int = 0

    def list_rejected(self, tenant: str, id: str, after_offset_bytes: int, limit: int) -> list[StoredRejectedRow]:
        if self.goes_at_offset is not None and after_offset_bytes >= self.goes_at_offset:
            raise NotFound.of(f"uploads/{id}")
        self.largest_page = max(self.largest_page, limit)
        return [row for row in self.rows if row.byte_offset > after_offset_bytes][:limit]


def _exported(rows: Sequence[bytes], *, escape_formulas: bool = False) -> list[bytes]:
    exports = Exports(StoredRows(rows), Rejected([]), Writer)
    return list(exports.rows("t", "kb", None, escape_formulas=escape_formulas))


def _rejected(rows: list[StoredRejectedRow]) -> list[bytes]:
    return list(Exports(StoredRows([]), Rejected(rows), Writer).rejected_rows("t", "u"))


def test_a_version_without_rows_is_its_header() -> None:
    assert _exported([]) == [b"a,b\n"]


def test_the_writer_is_told_whether_formulas_are_escaped() -> None:
    assert _exported([b"x"], escape_formulas=True) == [b"a,b\n", b"'x"]


@given(
    rows=st.lists(
        st.builds(
            lambda mark, size: mark * size,
            st.sampled_from([b"a", b"b", b"c"]),
            st.one_of(st.integers(1, 100), st.sampled_from([MIB, 3 * MIB])),
        ),
        max_size=6,
    )
)
def test_any_rows_come_out_once_and_in_order_in_pieces_that_fit_a_message(rows: list[bytes]) -> None:
    header, *pieces = _exported(rows)
    assert header == b"a,b\n"
    assert b"".join(pieces) == b"".join(rows)
    assert all(1 <= len(piece) <= MIB for piece in pieces)


def test_pages_grow_to_what_the_rows_allow() -> None:
    """Short rows: more than the first page holds. Long ones among them: fewer, and back again."""
    short, long = [b"s" * 100] * 200_000, [b"L" * 10_000] * 2_000
    reader = StoredRows([*short, *long, *short])
    list(Exports(reader, Rejected([]), Writer).rows("t", "kb", None))
    assert sum(reader.pages) == 402_000
    assert len(reader.pages) < 2 * (402_000 * 100 + 2_000 * 10_000) / PAGE_BYTES
    assert max(reader.pages) > 10_000
    assert min(reader.pages[:-1]) < 250


def test_one_page_is_read_ahead_and_no_more() -> None:
    reader = StoredRows([b"x" * (PAGE_BYTES // 2)] * 20)
    _, *pieces = zip(Exports(reader, Rejected([]), Writer).rows("t", "kb", None), _pages_read(reader), strict=False)
    assert len(pieces) == 20
    for number, (_, read) in enumerate(pieces):
        page = number // 2 + 1
        assert page <= read <= page + 1


def _pages_read(reader: StoredRows) -> Iterator[int]:
    """How many pages were asked for by now."""
    while True:
        yield len(reader.pages)


def test_a_version_that_is_removed_in_the_middle_ends_the_export_with_an_error() -> None:
    exports = Exports(StoredRows([b"x" * 1_000] * 10_000, goes_at_row=5_000), Rejected([]), Writer)
    pieces = exports.rows("t", "kb", None)
    assert next(pieces) == b"a,b\n"
    assert next(pieces)
    with pytest.raises(NotFound, match="no version 3"):
        list(pieces)


REJECTED = [
    ("text as it is", b"a,b\n", "a,b\n"),
    ("a quote is doubled as in any CSV", b'a "b" c', 'a ""b"" c'),
    ("Korean in UTF-8", "서울,부산".encode(), "서울,부산"),
    ("a byte that is no UTF-8", b"caf\xe9", r"caf\xe9"),
    ("Korean in CP949", "서울".encode("cp949"), r"\xbc\xad\xbf\xef"),
    ("a character that is cut off", "서울".encode()[:5], r"서\xec\x9a"),
    ("text that looks like an escaped byte", rb"\xe9", r"\\xe9"),
    ("a surrogate half", b"\xed\xa0\x80", r"\xed\xa0\x80"),
    ("NUL, at which many readers end", b"a\0b", r"a\x00b"),
    ("nothing", b"", ""),
]


@pytest.mark.parametrize(("raw", "expected"), [case[1:] for case in REJECTED], ids=[name for name, *_ in REJECTED])
def test_the_raw_bytes_of_a_rejected_row_are_told(raw: bytes, expected: str) -> None:
    csv = b"".join(_rejected([StoredRejectedRow(7, 120, 9, "invalid_bytes", raw)])).decode()
    assert csv == f'line,offset_bytes,length_bytes,reason,raw\n7,120,9,invalid_bytes,"{expected}"\n'


@given(raw=st.binary(max_size=60))
def test_any_raw_bytes_can_be_told_from_all_others(raw: bytes) -> None:
    csv = b"".join(_rejected([StoredRejectedRow(1, 0, 1, "footer", raw)])).decode()
    told = csv.partition("\n")[2].removeprefix('1,0,1,footer,"').removesuffix('"\n').replace('""', '"')
    assert _untold(told) == raw


def _untold(told: str) -> bytes:
    r"""The bytes that \xNN and a doubled backslash stand for."""

    def parts() -> Iterator[bytes]:
        at = 0
        while at < len(told):
            if told[at] != "\\":
                yield told[at].encode()
                at += 1
            elif told[at + 1] == "\\":
                yield b"\\"
                at += 2
            else:
                assert told[at + 1] == "x"
                yield bytes.fromhex(told[at + 2 : at + 4])
                at += 4

    return b"".join(parts())


def test_all_rejected_rows_come_out_page_by_page_in_the_order_of_the_file() -> None:
    rows = [StoredRejectedRow(line, line * 10, 10, "too_few_fields", b"\xff" * 4_096) for line in range(1, 1_001)]
    reader = Rejected(rows)
    header, *pieces = Exports(StoredRows([]), reader, Writer).rejected_rows("t", "u")
    assert header == b"line,offset_bytes,length_bytes,reason,raw\n"
    assert [line.partition(b",")[0] for line in b"".join(pieces).splitlines()] == [b"%d" % n for n in range(1, 1_001)]
    assert all(1 <= len(piece) <= MIB for piece in pieces)
    assert reader.largest_page < len(rows)


def test_an_upload_without_rejected_rows_is_a_header() -> None:
    assert _rejected([]) == [b"line,offset_bytes,length_bytes,reason,raw\n"]


def test_an_upload_that_is_removed_in_the_middle_ends_the_export_with_an_error() -> None:
    rows = [StoredRejectedRow(line, line, 1, "footer", b"x") for line in range(1, 1_001)]
    with pytest.raises(NotFound):
        list(Exports(StoredRows([]), Rejected(rows, goes_at_offset=500), Writer).rejected_rows("t", "u"))
