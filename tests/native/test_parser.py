"""The parser from Python: exact rows for any split, exact resumes, the interpreter free, memory bounded."""

import csv
import hashlib
import io
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dari._native import (
    Batch,
    Checkpoint,
    CsvWriter,
    ParseError,
    Parser,
    best_blocks,
    count_blocks,
    lexeme_hashes,
    profile,
)
from tests.native.copy_binary import decode_rows
from tests.native.readings import NO_HEADER, RFC_4180

KIB = 1024

# Everything that means something to a parser, often; and any other text.
cells = st.one_of(
    st.text(st.sampled_from('",\r\n a1가'), max_size=8),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    st.text(st.sampled_from("abc 123"), min_size=10, max_size=90),
)
tables = st.integers(2, 5).flatmap(
    lambda columns: st.lists(st.lists(cells, min_size=columns, max_size=columns), min_size=1)
)
cuts = st.lists(st.floats(0, 1), max_size=6)


def test_rows_postings_and_checkpoint_of_a_small_file() -> None:
    """What one file gives, in full."""
    parser = Parser(**RFC_4180)
    assert parser.feed(b'name,city\n"Kim ""K"" ",') == []
    assert parser.received_bytes == 23
    assert parser.feed("서울\r\n,x\nonly one\n1,2,3\n\0\n".encode()) == []
    (batch,) = parser.finish()
    assert decode_rows(batch.rows) == [
        (1, ['Kim "K" ', "서울"]),
        (2, ["", "x"]),
        (3, ["only one"]),
        (4, ["1", "2", "3"]),
    ]
    assert best_blocks(lexeme_hashes("서울"), [1.0], batch.postings, 9) == [((1, 4), 1.0)]
    assert count_blocks(lexeme_hashes("kim elsewhere"), batch.postings) == [1, 0]
    assert batch.rows_stored == 4
    (rejected,) = batch.rejected
    assert (rejected.line, rejected.byte_offset, rejected.byte_length) == (6, 49, 2)
    assert (rejected.reason, rejected.raw) == ("nul_byte", b"\0\n")
    checkpoint = batch.checkpoint
    assert (checkpoint.offset_bytes, checkpoint.line) == (51, 7)
    assert (checkpoint.rows_stored, checkpoint.rows_rejected, checkpoint.lines_set_aside) == (4, 1, 0)
    assert (checkpoint.rows_ragged, checkpoint.rows_repaired, checkpoint.rows_replaced) == (2, 0, 0)
    assert checkpoint.columns == ["name", "city"]
    assert len(checkpoint.state) < 1024
    name, city = profile(batch.evidence)
    assert (name.type, name.cell_count, name.empty_count, city.missing_count) == ("text", 4, 1, 1)


def test_a_file_is_read_as_it_is_written_without_a_word_about_it() -> None:
    """Encoding, delimiter, lines around the table: found out from the file, and told."""
    file = "판매 현황\r\n\r\n지역;건수;금액\r\n서울;1;2,5\r\n부산;3;4,5\r\n대구;5;6,5\r\n".encode("cp949")
    assert Parser().detected is None
    parser = Parser()
    parser.feed(file)
    (batch,) = parser.finish()
    assert decode_rows(batch.rows) == [(1, ["서울", "1", "2,5"]), (2, ["부산", "3", "4,5"]), (3, ["대구", "5", "6,5"])]
    assert [(row.reason, row.raw) for row in batch.rejected] == [("preamble", "판매 현황\r\n".encode("cp949"))]
    detected = parser.detected
    assert detected is not None
    reading = detected.reading
    assert (reading.encoding, reading.delimiter, reading.preamble_lines, reading.header_rows) == ("cp949", ";", 2, 1)
    assert 0 <= detected.confidence <= 1


def test_a_file_turns_korean_after_a_megabyte() -> None:
    """The encoding of a file that was ASCII is told by what comes; in any pieces, and behind any checkpoint."""
    rows = [f"{number},plain text {number}" for number in range(40_000)] + [f"{number},한국어" for number in range(9)]
    file = ("a,b\n" + "\n".join(rows)).encode("cp949")
    whole = Parser(batch_bytes=100_000)
    batches = whole.feed(file)
    assert whole.detected is not None
    batches += whole.finish()
    assert whole.detected is not None
    assert whole.detected.reading.encoding == "cp949"
    assert [",".join(cells) for batch in batches for _, cells in decode_rows(batch.rows)] == rows
    pieces = Parser(batch_bytes=100_000)
    again = [batch for at in range(0, len(file), 7_919) for batch in pieces.feed(file[at : at + 7_919])]
    again += pieces.finish()
    assert [_values(batch) for batch in again] == [_values(batch) for batch in batches]
    for index, batch in enumerate(batches[:-1]):
        resumed = Parser(batch_bytes=100_000, resume=_stored(batch.checkpoint))
        rest = resumed.feed(file[batch.checkpoint.offset_bytes :]) + resumed.finish()
        assert [_values(left) for left in rest] == [_values(left) for left in batches[index + 1 :]]


def test_what_is_exported_is_what_came() -> None:
    """Rows of any width, cell for cell; formulas are escaped only where that is asked for."""
    (batch,) = _read([b'a,b\n1," x"\n=1+1\n2,"3\n",4\n-5,\n'], **RFC_4180)
    writer = CsvWriter()
    assert writer.header(batch.checkpoint.columns) == b"a,b\n"
    assert writer.rows(batch.rows) == b'1," x"\n=1+1\n2,"3\n",4\n-5,\n'
    assert CsvWriter(escape_formulas=True).rows(batch.rows) == b'1," x"\n\'=1+1\n2,"3\n",4\n-5,\n'
    with pytest.raises(ValueError, match="cannot be read"):
        writer.rows(batch.rows[:-1])


REJECTED = [
    (b"1\n", "too_few_fields"),
    (b"1,2,3\n", "too_many_fields"),
    (b"\xb0\xa1,2\n", "invalid_bytes"),
    (b"1,\0\n", "nul_byte"),
    (b'"1"x\n', "text_after_quote"),
]


@pytest.mark.parametrize(("record", "reason"), REJECTED)
def test_a_bad_row_is_data_and_not_an_error(record: bytes, reason: str) -> None:
    """It is listed with its reason and its bytes; the rows around it are stored."""
    (batch,) = _read([b"a,b\n1,2\n" + record + b"3,4\n"], keeps_ragged_rows=False, **RFC_4180)
    assert decode_rows(batch.rows) == [(1, ["1", "2"]), (2, ["3", "4"])]
    assert [(row.line, row.reason, row.raw) for row in batch.rejected] == [(3, reason, record)]


ERRORS: list[tuple[dict[str, Any], bytes, tuple[str, int, int, int]]] = [
    ({"max_record_bytes": 5}, b"a,b\n1,2\n123,56\n", ("record_too_long", 3, 8, 5)),
    ({"max_cell_bytes": 5}, b"a,b\n1,2\n123,567890\n", ("cell_too_long", 3, 12, 5)),
    ({"max_columns": 2}, b"a,b,c\n", ("too_many_columns", 1, 0, 2)),
    ({}, b'a,b,c\n1,"2\n3,4\n', ("unclosed_quote", 2, 8, 0)),
    ({"max_header_bytes": 5}, b"a,b,cd\n", ("header_too_long", 1, 0, 5)),
    ({}, b"", ("empty_file", 1, 0, 0)),
    ({}, b"\n\n", ("no_header", 3, 2, 0)),
    ({}, b"a,\xff\n", ("header_invalid_bytes", 1, 0, 0)),
    ({}, b"a,\0\n", ("header_nul_byte", 1, 0, 0)),
]


@pytest.mark.parametrize(("options", "file", "expected"), ERRORS, ids=[expected[0] for _, _, expected in ERRORS])
def test_a_file_that_cannot_be_read_on_says_where_and_why(
    options: dict[str, Any], file: bytes, expected: tuple[str, int, int, int]
) -> None:
    """Code, line, byte and limit; then the parser refuses further use."""
    parser = Parser(**RFC_4180, **options)
    with pytest.raises(ParseError) as caught:
        _finish(parser, file)
    assert caught.value.args == expected
    assert isinstance(caught.value, ValueError)
    for use in (lambda: parser.feed(b"x"), parser.finish, parser.sha256):
        with pytest.raises(RuntimeError, match="has failed"):
            use()


def test_after_the_end_nothing_can_follow() -> None:
    """The digest is known only then."""
    parser = Parser()
    parser.feed(b"a\n")
    with pytest.raises(RuntimeError, match="after finish"):
        parser.sha256()
    parser.finish()
    assert parser.sha256() == hashlib.sha256(b"a\n").digest()
    assert parser.received_bytes == 2
    with pytest.raises(RuntimeError, match="has ended"):
        parser.feed(b"x")
    with pytest.raises(RuntimeError, match="has ended"):
        parser.finish()


WRONG_OPTIONS: list[dict[str, Any]] = [
    {"encoding": "ascii"},
    {"encoding": "utf-7"},
    {"escape": "가"},
    {"comment": "##"},
    {"preamble_lines": -1},
    {"header_rows": 9},
    {"max_header_bytes": 0},
    {"delimiter": ""},
    {"delimiter": "\n"},
    {"delimiter": ";;"},
    {"delimiter": "가"},
    {"delimiter": ",", "quote": ","},
    {"quote": "''"},
    {"batch_bytes": 0},
    {"batch_bytes": 2**40},
    {"block_rows": -1},
    {"max_record_bytes": 2**32 + 1},
    {"max_cell_bytes": 0},
    {"max_columns": 1_599},
    {"resume": Checkpoint(1, 1, 0, 0, 0, 0, 0, 0, [], b"")},
]


@pytest.mark.parametrize("options", WRONG_OPTIONS, ids=lambda options: ",".join(map(str, options)))
def test_an_option_out_of_range_is_refused(options: dict[str, Any]) -> None:
    """At once, and not at the first byte that it spoils."""
    with pytest.raises(ValueError, match=r"must be|does not belong"):
        Parser(**options)


# Python's writer quotes a lone CR in a cell only where CR is in its line end: with LF it must quote all cells.
WRITERS: list[dict[str, Any]] = [
    {"lineterminator": "\r\n"},
    {"lineterminator": "\n", "quoting": csv.QUOTE_ALL},
    {"lineterminator": "\r", "quoting": csv.QUOTE_ALL},
]


@given(tables, cuts, st.sampled_from(WRITERS), st.integers(1, 200))
def test_any_split_of_a_file_gives_the_rows_that_the_csv_module_reads(
    table: list[list[str]], cuts: list[float], writer: dict[str, Any], batch_bytes: int
) -> None:
    """On files that Python's writer made, for any pieces and any batch size, cell by cell."""
    text = io.StringIO(newline="")
    csv.writer(text, **writer).writerows(table)
    file = text.getvalue().removeprefix("\ufeff").encode()
    batches = _read(_split(file, cuts), batch_bytes=batch_bytes, **NO_HEADER)
    rows = [row for batch in batches for row in decode_rows(batch.rows)]
    assert rows == list(enumerate(csv.reader(io.StringIO(file.decode(), newline="")), start=1))
    assert not [row for batch in batches for row in batch.rejected]


# It reads a file once for each of its batches: how long that takes is no fault.
@settings(deadline=None)
@given(tables, st.integers(1, 60), st.binary(max_size=40))
def test_a_parser_resumed_at_any_checkpoint_gives_exactly_what_is_left(
    table: list[list[str]], batch_bytes: int, noise: bytes
) -> None:
    """Rows, rejected rows, checkpoints and digest, from plain values that went through a database."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(table)
    file = text.getvalue().encode() + noise.replace(b'"', b"")
    whole = Parser(batch_bytes=batch_bytes, **NO_HEADER)
    batches = whole.feed(file) + whole.finish()
    for index, batch in enumerate(batches[:-1]):
        resumed = Parser(batch_bytes=batch_bytes, **NO_HEADER, resume=_stored(batch.checkpoint))
        assert resumed.received_bytes == batch.checkpoint.offset_bytes
        rest = resumed.feed(file[batch.checkpoint.offset_bytes :]) + resumed.finish()
        assert [_values(left) for left in rest] == [_values(left) for left in batches[index + 1 :]]
        assert resumed.sha256() == whole.sha256() == hashlib.sha256(file).digest()


def test_other_threads_run_while_a_file_is_parsed() -> None:
    """With a switch interval of minutes a waiting thread gets the interpreter only where it is released on purpose."""
    file = b"a,b\n" + b"1,some text to parse\n" * 100_000
    woken, ran = threading.Lock(), threading.Event()
    woken.acquire()

    def wait_and_run() -> None:
        with woken:
            ran.set()

    thread = threading.Thread(target=wait_and_run)
    interval = sys.getswitchinterval()
    thread.start()
    try:
        sys.setswitchinterval(1_000)
        woken.release()
        held_before = not ran.is_set()
        # The thread needs a moment to wake, so it gets several feeds; if each held the interpreter, none would help.
        ran_inside = any(Parser().feed(file) is not None and ran.is_set() for _ in range(100))
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert held_before
    assert ran_inside


MEASURE = """
import resource
from dari._native import Parser

def peak_kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

chunk = b"".join(b"%d,some words and a code AB-%d,2024-01-31\\n" % (n, n) for n in range(7_000))
parser = Parser()
parser.feed(b"a,b,c\\n")
idle = peak_kib()
peaks = []
for _ in range(3):
    for _ in range(32 * 2**20 // len(chunk)):
        parser.feed(chunk)
    peaks.append(peak_kib())
print(idle, *peaks)
"""


def test_memory_does_not_grow_with_the_file() -> None:
    """At its peak an upload takes 32 MiB more than idle, and the third 32 MiB of a file no more than the first."""
    run = subprocess.run([sys.executable, "-c", MEASURE], check=True, capture_output=True, text=True, timeout=120)
    idle, first, _, third = map(int, run.stdout.split())
    assert first - idle < 32 * KIB
    assert third - first < 4 * KIB


def _read(pieces: Iterable[bytes], **options: Any) -> list[Batch]:
    parser = Parser(**options)
    batches = [batch for piece in pieces for batch in parser.feed(piece)]
    return batches + parser.finish()


def _finish(parser: Parser, file: bytes) -> None:
    parser.feed(file)
    parser.finish()


def _split(file: bytes, cuts: Sequence[float]) -> list[bytes]:
    places = [0, *sorted(int(cut * len(file)) for cut in cuts), len(file)]
    return [file[start:end] for start, end in pairwise(places)]


def _stored(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint after a way through the database."""
    return Checkpoint(*_state(checkpoint))


def _state(checkpoint: Checkpoint) -> tuple[int, int, int, int, int, int, int, int, list[str], bytes]:
    return (
        checkpoint.offset_bytes,
        checkpoint.line,
        checkpoint.rows_stored,
        checkpoint.rows_rejected,
        checkpoint.lines_set_aside,
        checkpoint.rows_ragged,
        checkpoint.rows_repaired,
        checkpoint.rows_replaced,
        checkpoint.columns,
        checkpoint.state,
    )


def _values(batch: Batch) -> tuple[object, ...]:
    rejected = [(row.line, row.byte_offset, row.byte_length, row.reason, row.raw) for row in batch.rejected]
    return batch.rows, batch.postings, batch.evidence, batch.rows_stored, rejected, _state(batch.checkpoint)
