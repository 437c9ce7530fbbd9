"""The parser beside Python's csv module on any text, row by row.

Known differences, all on purpose; `_is_listed_rightly` and `_agree` have them:

    the text                                    the csv module          dari
    ------------------------------------------  ----------------------  --------------------------------------------
    text behind a closing quote, or a quote     an error, where it is   repairs the line, rejects it, or ends: the
    that is never closed                        strict                  comparison ends there
    a record over several lines that has not    one record              its first line alone may have: it ends there
    the table's width
    a line without any character                an empty record         a row in a table of one column, else nothing
    lines behind the table, another table       records                 set aside as footer, or rejected
    a NUL                                       a character             the row is rejected
    a byte-order mark                           a character             skipped

    DARI_TEST_EXAMPLES=1000000 pytest tests/native/test_against_csv_module.py
"""

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dari._native import Batch, ParseError, Parser, RejectedRow
from tests.native.copy_binary import decode_rows

EXAMPLES = int(os.environ.get("DARI_TEST_EXAMPLES", "500"))

# What means something to a reader, often; and any other character.
pieces = st.one_of(
    st.sampled_from([",", "\n", '"', '""', ',"', '",', "\r\n", "\r", "a", "1", " ", "가", "\\.", "=1", "\0", "#", ";"]),
    st.characters(exclude_categories=["Cs"]),
)
lines = st.sampled_from(["a,b\n", '"x ""y""",2\n', '1,"two\nlines"\n', "1,2,3\n", "\n", "합계,3\n"])
texts = st.lists(st.one_of(pieces, lines), max_size=60).map("".join)


@dataclass(frozen=True)
class Record:
    """What the csv module reads, and the lines of the text that it stands on."""

    cells: list[str]
    first_line: int
    last_line: int


@given(texts, st.integers(0, 2), st.integers(1, 200), st.lists(st.floats(0, 1), max_size=5))
@example("a,b\n1,2\n", 1, 1, [])
@example('a\n""\n\n"x"\n', 1, 1, [])
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_record_of_the_csv_module_is_the_next_row_or_is_listed_with_its_reason(
    text: str, header_rows: int, batch_bytes: int, cuts: list[float]
) -> None:
    """For any text, header, batch size and split; an error has its cause in what the csv module sees."""
    text = text.removeprefix("\ufeff")
    records = list(_records(text))
    try:
        batches = _read(text.encode(), header_rows, batch_bytes, cuts)
    except ParseError as error:
        if not _explains(error.args[0], text, records, header_rows):
            raise
    else:
        _agree(records, batches, header_rows, text)


def _records(text: str) -> Iterator[Record]:
    """Up to the first that is malformed."""
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, strict=True)
    last_line = 0
    try:
        for cells in reader:
            yield Record(cells, last_line + 1, reader.line_num)
            last_line = reader.line_num
    except csv.Error:
        return


def _is_whole(text: str) -> bool:
    """Whether the csv module finds nothing malformed."""
    try:
        list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
        return False
    return True


def _read(file: bytes, header_rows: int, batch_bytes: int, cuts: list[float]) -> list[Batch]:
    parser = Parser(
        encoding="utf-8", delimiter=",", quote='"', escape="", comment="", trims_blanks=False, preamble_lines=0,
        header_rows=header_rows, batch_bytes=batch_bytes,
    )  # fmt: skip
    places = [0, *sorted(int(cut * len(file)) for cut in cuts), len(file)]
    batches = [batch for start, end in pairwise(places) for batch in parser.feed(file[start:end])]
    return batches + parser.finish()


def _agree(records: list[Record], batches: list[Batch], header_rows: int, text: str) -> None:
    columns = len(batches[-1].checkpoint.columns)
    rows = iter([cells for batch in batches for _, cells in decode_rows(batch.rows)])
    listed = {row.line: row for batch in batches for row in batch.rejected}
    headers_left = header_rows
    is_in_table = False
    for record in records:
        runs_over_lines = record.last_line > record.first_line
        if runs_over_lines and len(record.cells) != columns:
            return
        if headers_left and record.cells:
            headers_left -= 1
            is_in_table = True
        elif record.first_line in listed:
            assert _is_listed_rightly(listed.pop(record.first_line), record)
        elif record.cells or (columns == 1 and is_in_table and not headers_left):
            is_in_table = True
            assert next(rows) == (record.cells or [""])
    if _is_whole(text):
        assert next(rows, None) is None, "a row that the csv module does not have"
        assert not listed


def _is_listed_rightly(row: RejectedRow, record: Record) -> bool:
    if row.reason == "nul_byte":
        return any("\0" in cell for cell in record.cells)
    return row.reason in ("footer", "other_table")


def _malformed_header(text: str) -> str:
    """The text, where some quote in it is open at the end or has text behind it."""
    return "" if _is_whole(text) else text


def _explains(code: str, text: str, records: list[Record], header_rows: int) -> bool:
    """Whether the csv module sees why a file ends with this error."""
    headers = [record.cells for record in records if record.cells][:header_rows]
    return {
        "empty_file": not any(record.cells for record in records),
        "no_header": len(headers) < header_rows,
        "unclosed_quote": not _is_whole(text),
        # Where its quoting is malformed, the header of the csv module is another one, or none.
        "header_nul_byte": any("\0" in cell for cells in headers for cell in cells) or "\0" in _malformed_header(text),
        "header_text_after_quote": not _is_whole(text),
    }.get(code, False)
