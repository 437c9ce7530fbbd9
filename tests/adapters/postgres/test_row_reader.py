"""Reading rows for search from real tables: several segments as one table, and what a query reads of them."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from dari.adapters.native import NativeLexer, NativePostings
from dari.adapters.postgres.database import Database
from dari.adapters.postgres.row_reader import PostgresRowReader
from dari.core.ranking import Question
from dari.core.search import BLOCK_ROWS, MAX_BLOCKS, Candidates, Hit, Search
from tests.fix_server import ServedDari
from tests.support.uploading import APPEND

LEXER = NativeLexer()
PER_UPLOAD = 3 * BLOCK_ROWS + 1
UPLOADS = 3
ROWS = PER_UPLOAD * UPLOADS


@pytest.fixture
def reader(server: ServedDari) -> Iterator[PostgresRowReader]:
    """Over a knowledge base of three uploads, its rows numbered through."""
    for upload in range(UPLOADS):
        numbers = range(upload * PER_UPLOAD + 1, (upload + 1) * PER_UPLOAD + 1)
        rows = "".join(f"row{number},AB-{number}/x,한국 {number % 7} 서울\n" for number in numbers)
        server.uploader.upload(f"id,code,note\n{rows}".encode(), f"u{upload}", mode=APPEND)
    database = Database(server.dsns.service_dsn, max_connections=2, wait_timeout_s=5, statement_timeout_s=30)
    with closing(database):
        yield PostgresRowReader(database, NativePostings())


def _candidates(reader: PostgresRowReader, query: str, min_blocks: int = 1, max_blocks: int = MAX_BLOCKS) -> Candidates:
    (found,) = reader.candidates("default", ["kb"], Question.of(query, LEXER).lexemes, min_blocks, max_blocks)
    return found


def _find(reader: PostgresRowReader, query: str, limit: int = 3) -> list[Hit]:
    return Search(reader, LEXER).find("default", ["kb"], query, limit)


def test_a_row_is_found_in_whichever_upload_it_came_and_under_its_number_in_the_version(
    reader: PostgresRowReader,
) -> None:
    for number in (1, PER_UPLOAD, PER_UPLOAD + 1, 2 * PER_UPLOAD, 2 * PER_UPLOAD + 1, ROWS):
        hit = _find(reader, f"row{number}")[0]
        assert (hit.version, hit.row_number, hit.cells[0]) == (UPLOADS, number, f"row{number}")
        assert hit.version_time is not None


def test_every_row_is_a_candidate_once_where_there_are_few(reader: PostgresRowReader) -> None:
    found = _candidates(reader, "서울")
    assert sorted(row.row_number for row in found.rows) == list(range(1, ROWS + 1))
    assert all(row.cells[0] == f"row{row.row_number}" for row in found.rows)
    assert (found.are_all, found.row_count) == (True, ROWS)
    assert set(found.blocks_with.values()) == {found.block_count}


def test_no_more_than_the_best_blocks_are_read_and_that_is_told(reader: PostgresRowReader) -> None:
    found = _candidates(reader, f"row{ROWS - 1} 서울", max_blocks=2)
    assert not found.are_all
    assert len(found.rows) <= 2 * BLOCK_ROWS
    assert ROWS - 1 in {row.row_number for row in found.rows}


def test_blocks_that_hold_next_to_nothing_of_the_best_are_read_only_to_fill_the_answer(
    reader: PostgresRowReader,
) -> None:
    query = f"row{ROWS - 1} 서울"
    assert not _candidates(reader, query).are_all
    assert {(row.row_number - 1) // PER_UPLOAD for row in _candidates(reader, query).rows} == {UPLOADS - 1}
    assert _candidates(reader, query, min_blocks=MAX_BLOCKS).are_all
    assert len(_find(reader, query, limit=12)) == 12


def test_the_parts_of_a_code_count_only_where_the_code_does_not_occur(reader: PostgresRowReader) -> None:
    """Every row has the part `ab`: where the code is there, reading that tells nothing."""
    (whole,) = LEXER.hashes("ab-9/x")[:1]
    assert set(_candidates(reader, "AB-9/x").blocks_with) == {whole}
    (row,) = [row for row in _candidates(reader, "AB-9/x").rows if row.row_number == 9]
    assert row.cells[1] == "AB-9/x"
    unknown = _candidates(reader, "AB-9/zz")
    assert set(unknown.blocks_with) == {*LEXER.hashes("ab"), *LEXER.hashes("9")}
    assert _find(reader, "AB-9/zz")[0].row_number == 9


def test_what_occurs_nowhere_reads_no_rows(reader: PostgresRowReader) -> None:
    found = _candidates(reader, "부산 nowhere")
    assert (found.rows, found.blocks_with, found.are_all) == ((), {}, True)
    assert _find(reader, "부산 nowhere") == []
