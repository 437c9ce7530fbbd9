"""What is stored comes out again: the rows of a version, and the rejected rows of an upload, as CSV.

Both are read page by page, each page in a transaction of its own that is over before its bytes leave: a caller who
reads slowly, or not at all, holds two pages in memory and nothing in the database. A version never changes while it
exists, so that pages of different moments fit together; one that is removed meanwhile ends the export with an error.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from dari.core.uploads import RejectedRow
from dari.core.versions import Version

PAGE_BYTES = 2 * 1024 * 1024
"""Cells of a page; the row that reaches it is the last."""
_PIECE_BYTES = 1024 * 1024
"""Longest piece that is handed out: a row may be longer than a message may be."""
_FIRST_PAGE_ROWS = 2_048
_MOST_PAGE_ROWS = 65_536
_PAGE_ROOM = 1.1
"""How many more rows are looked at than fill a page by the page before: what is looked at and not taken costs time."""
_REJECTED_PAGE_ROWS = 256
"""Each has up to 4,096 bytes."""
_REJECTED_COLUMNS = "line,offset_bytes,length_bytes,reason,raw"


@dataclass(frozen=True, slots=True)
class RowsPage:
    """Rows that follow each other, as a CsvWriter takes them."""

    copy: bytes
    row_count: int
    """1 or more."""


class RowsReader(Protocol):
    """Reads versions as a role that sees nothing but the knowledge base named. All methods raise Unavailable."""

    def find(self, tenant: str, knowledge_base: str, number: int | None) -> Version:
        """The version of this number, or the current one. Raises NotFound."""
        ...

    def read_rows(self, version: Version, first_row_number: int, max_rows: int, max_bytes: int) -> RowsPage:
        """Rows from a number on: at least one, `max_rows` at most, and none behind the one that reaches `max_bytes`.

        The number is one of the version's. Raises NotFound where the version is gone.
        """
        ...


class CsvWriter(Protocol):
    """Writes CSV; see `_native.pyi`."""

    def header(self, columns: list[str]) -> bytes: ...
    def rows(self, copy: bytes) -> bytes: ...


class RejectedRowsReader(Protocol):
    """Lists rejected rows; `UploadStore` does."""

    def list_rejected(self, tenant: str, id: str, after_offset_bytes: int, limit: int) -> Sequence[RejectedRow]:
        """In the order of the file, those that begin behind the offset. Raises NotFound, Unavailable."""
        ...


class Exports:
    """Writes stored rows as CSV. Thread-safe; each iterator that it hands out belongs to one thread."""

    def __init__(
        self, rows: RowsReader, rejected_rows: RejectedRowsReader, make_writer: Callable[[bool], CsvWriter]
    ) -> None:
        """`make_writer` is told whether formulas are to be escaped."""
        self._rows = rows
        self._rejected_rows = rejected_rows
        self._make_writer = make_writer

    def rows(
        self, tenant: str, knowledge_base: str, number: int | None, *, escape_formulas: bool = False
    ) -> Iterator[bytes]:
        """The version of this number, or the current one: a header if there was one, then each row.

        No piece is empty or above 1 MiB.

        Raises NotFound, also in the middle where the version was removed, and Unavailable.
        """
        version = self._rows.find(tenant, knowledge_base, number)
        writer = self._make_writer(escape_formulas)
        if version.has_header:
            yield from _pieces(writer.header(list(version.columns)))
        for page in _one_ahead(self._pages(version)):
            yield from _pieces(writer.rows(page.copy))

    def _pages(self, version: Version) -> Iterator[RowsPage]:
        next_row_number = 1
        max_rows = _FIRST_PAGE_ROWS
        while next_row_number <= version.row_count:
            page = self._rows.read_rows(version, next_row_number, max_rows, PAGE_BYTES)
            yield page
            next_row_number += page.row_count
            max_rows = _rows_in_a_page(page)

    def rejected_rows(self, tenant: str, upload: str) -> Iterator[bytes]:
        """What of an upload's file is not stored as rows, as ExportRejectedRows in ingest.proto says.

        No piece is empty or above 1 MiB. Raises NotFound, also in the middle where the upload was removed, and
        Unavailable.
        """
        page = self._rejected_rows.list_rejected(tenant, upload, -1, _REJECTED_PAGE_ROWS)
        yield f"{_REJECTED_COLUMNS}\n".encode()
        while page:
            yield from _pieces("".join(map(_rejected_record, page)).encode())
            page = self._rejected_rows.list_rejected(tenant, upload, page[-1].byte_offset, _REJECTED_PAGE_ROWS)


def _one_ahead(pages: Iterator[RowsPage]) -> Iterator[RowsPage]:
    """The same pages; each is read while the one before is written and taken, so that the database need not wait."""
    with ThreadPoolExecutor(1, "export") as reader:
        reading = reader.submit(next, pages, None)
        while (page := reading.result()) is not None:
            reading = reader.submit(next, pages, None)
            yield page


def _rows_in_a_page(page: RowsPage) -> int:
    """How many rows fill the next page if they are like those of this one."""
    row_bytes = len(page.copy) / page.row_count
    return min(_MOST_PAGE_ROWS, 1 + int(_PAGE_ROOM * PAGE_BYTES / row_bytes))


def _rejected_record(row: RejectedRow) -> str:
    # A backslash is doubled, so that what stands for a byte is told from text that looks like it. NUL is UTF-8 too, but
    # many readers of CSV end there.
    raw = row.raw.replace(b"\\", rb"\\").decode(errors="backslashreplace").replace("\0", r"\x00").replace('"', '""')
    return f'{row.line},{row.byte_offset},{row.byte_length},{row.reason},"{raw}"\n'


def _pieces(data: bytes) -> Iterator[bytes]:
    if len(data) <= _PIECE_BYTES:
        if data:
            yield data
        return
    whole = memoryview(data)
    for start in range(0, len(data), _PIECE_BYTES):
        yield bytes(whole[start : start + _PIECE_BYTES])
