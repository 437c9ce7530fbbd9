"""Rows that the parser stores fit into PostgreSQL, and those that it rejects as too wide do not."""

import io
import random
import string
from contextlib import closing

import psycopg2
import pytest

from dari._native import Batch, Parser
from tests.fix_postgres import PostgresDsns
from tests.native.readings import NO_HEADER


def _text(length: int, seed: int) -> str:
    """No compression makes it shorter."""
    return "".join(random.Random(seed).sample(string.ascii_letters + string.digits, length))


def _mixed(columns: int, total: int) -> list[str]:
    """So many cells, all of about the same length, `total` characters in all."""
    longer = total % columns
    return [_text(total // columns + (number < longer), number) for number in range(columns)]


# 8,160 bytes hold a header of 23 and a bit a column, filled up to a multiple of 8; 8 of the row number; and the cells.
AT_THE_BORDER = [
    pytest.param(_mixed(400, 7_672), _mixed(400, 7_673), id="short cells stay in the row, with a byte each"),
    pytest.param(
        [_text(40, n) for n in range(448)], [_text(40, n) for n in range(449)], id="of longer ones 18 bytes stay"
    ),
    pytest.param(
        [_text(24, n) for n in range(448)], [_text(24, n) for n in range(449)], id="longer ones have 24 bytes"
    ),
    pytest.param(_mixed(334, 334 * 23), _mixed(338, 338 * 23), id="those of 23 bytes stay"),
]


@pytest.mark.parametrize(("widest", "too_wide"), AT_THE_BORDER)
def test_the_border_is_that_of_postgresql(
    postgres_server: PostgresDsns, widest: list[str], too_wide: list[str]
) -> None:
    """One byte or cell more, and PostgreSQL takes it as little as the parser."""
    batch = _parse(widest)
    assert not batch.rejected
    _copy(postgres_server, batch, len(widest))
    batch = _parse(too_wide)
    assert [row.reason for row in batch.rejected] == ["row_too_wide"]
    with pytest.raises(psycopg2.errors.ProgramLimitExceeded, match="row is too big"):
        _insert(postgres_server, too_wide)


@pytest.mark.parametrize("cell", ["a" * 32, "a" * 500, "ab" * 30, "abc" * 100, "0123456789abcdef" * 4], ids=len)
def test_what_compresses_well_is_never_more_than_postgresql_takes(postgres_server: PostgresDsns, cell: str) -> None:
    """A compressed cell stays in the row: how much it takes is not known exactly, but bounded."""
    stored = [columns for columns in range(280, 460, 4) if not _parse([cell] * columns).rejected]
    assert stored
    _copy(postgres_server, _parse([cell] * stored[-1]), stored[-1])


def test_cells_beyond_the_columns_count_as_one(postgres_server: PostgresDsns) -> None:
    """However many they are."""
    rows = [_mixed(400, 7_600), [*_mixed(400, 7_600), *(_text(40, number) for number in range(1_000))]]
    parser = Parser(**NO_HEADER)
    (batch,) = parser.feed("".join(",".join(row) + "\n" for row in rows).encode()) + parser.finish()
    assert batch.rows_stored == 2
    _copy(postgres_server, batch, 400)


def _parse(row: list[str]) -> Batch:
    parser = Parser(**NO_HEADER)
    (batch,) = parser.feed(",".join(row).encode()) + parser.finish()
    return batch


def _copy(server: PostgresDsns, batch: Batch, columns: int) -> None:
    with closing(psycopg2.connect(server.admin_dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(_table(columns))
        cursor.copy_expert("COPY t FROM STDIN (FORMAT binary)", io.BytesIO(batch.rows))
        assert cursor.rowcount == batch.rows_stored


def _insert(server: PostgresDsns, row: list[str]) -> None:
    with closing(psycopg2.connect(server.admin_dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(_table(len(row)))
        cursor.execute(f"INSERT INTO t VALUES (1, {', '.join(['%s'] * len(row))})", row)


def _table(columns: int) -> str:
    cells = ", ".join(f"c{number} text" for number in range(columns))
    return f"CREATE TEMPORARY TABLE t (row_number bigint NOT NULL, {cells}, extra_cells text[])"
