"""The tables of a segment: the rows of one upload, and the lexeme sets of its blocks.

`dari_rows.rows_{segment}` has a column for each column of the file (c1, c2, …: a header may hold names that PostgreSQL
cannot, or twice the same after 63 bytes), each cell's text exactly as it came. `dari_rows.blocks_{segment}` has the
set of lexeme hashes of each run of rows, under a GIN index. Both belong to the ingest role and show the reader role
nothing but to a transaction that names their tenant and knowledge base.
"""

import io
import re
from collections.abc import Sequence

from psycopg2.extensions import QuotedString

from dari.adapters.postgres.database import Transaction

_SEGMENT = re.compile(r"[0-9a-f]{32}")
_COPY_READ_BYTES = 1024 * 1024
_INDEX_MEMORY = "64MB"


def create_segment(transaction: Transaction, segment: str, tenant: str, knowledge_base: str, columns: int) -> None:
    """Make the empty tables of a segment. As the ingest role."""
    cells = "".join(f", c{number} text NOT NULL" for number in range(1, columns + 1))
    rows, blocks = _rows_table(segment), _blocks_table(segment)
    # A vacuum in the middle of a load finds nothing to clean and takes a core; publishing turns it on.
    transaction.execute(
        f"CREATE TABLE {rows} (row_number bigint NOT NULL{cells}) WITH (autovacuum_enabled = off);"
        f"CREATE TABLE {blocks} (first_row_number bigint NOT NULL, row_count integer NOT NULL,"
        " lexemes integer[] NOT NULL) WITH (autovacuum_enabled = off)"
    )
    for table in (rows, blocks):
        transaction.execute(
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
            f"CREATE POLICY named_by_transaction ON {table} FOR SELECT TO dari_reader USING"
            f" (current_setting('dari.tenant', true) = {_literal(tenant)} AND {_literal(knowledge_base)}"
            " = ANY (string_to_array(current_setting('dari.knowledge_bases', true), ',')));"
            f"GRANT SELECT ON {table} TO dari_reader"
        )


def copy_into_segment(transaction: Transaction, segment: str, rows: bytes, blocks: bytes) -> int:
    """Add encoded rows and blocks; returns how many rows PostgreSQL says it stored. As the ingest role."""
    stored = _copy(transaction, _rows_table(segment), rows) if rows else 0
    if blocks:
        _copy(transaction, _blocks_table(segment), blocks)
    return stored


def index_segment(transaction: Transaction, segment: str) -> None:
    """Build what search needs, again from nothing where it was begun before. As the ingest role."""
    rows, blocks = _rows_table(segment), _blocks_table(segment)
    transaction.execute(f"SET LOCAL maintenance_work_mem = '{_INDEX_MEMORY}'")
    transaction.execute(
        # Rows lie in the order of their numbers: a block-range index costs nothing and is as good.
        f"CREATE INDEX ON {rows} USING brin (row_number) WITH (pages_per_range = 8);"
        f"CREATE INDEX ON {blocks} USING gin (lexemes) WITH (fastupdate = off);"
        f"ANALYZE {rows} (row_number); ANALYZE {blocks};"
        f"ALTER TABLE {rows} RESET (autovacuum_enabled); ALTER TABLE {blocks} RESET (autovacuum_enabled)"
    )


def drop_segment(transaction: Transaction, segment: str) -> None:
    """Drop the tables of a segment, if they exist. As the ingest role."""
    transaction.execute(f"DROP TABLE IF EXISTS {_rows_table(segment)}, {_blocks_table(segment)}")


def count_blocks(transaction: Transaction, segment: str, hashes: Sequence[int]) -> tuple[int, dict[int, int]]:
    """How many blocks a segment has, and in how many of them each lexeme stands. As the reader role."""
    blocks = _blocks_table(segment)
    cursor = transaction.execute(
        f"SELECT NULL::integer, count(*) FROM {blocks} UNION ALL"
        f" SELECT h, (SELECT count(*) FROM {blocks} WHERE lexemes @> ARRAY[h]) FROM unnest(%s::integer[]) AS h",
        (list(hashes),),
    )
    (_, total), *found = cursor.fetchall()
    return total, {lexeme: count for lexeme, count in found if count}


def best_rows(
    transaction: Transaction, segment: str, columns: int, weights: dict[int, float], max_blocks: int
) -> list[tuple[int, tuple[str, ...]]]:
    """The rows (number, cells) of the blocks in which the heaviest lexemes meet. As the reader role."""
    rows, blocks = _rows_table(segment), _blocks_table(segment)
    cells = "".join(f", r.c{number}" for number in range(1, columns + 1))
    cursor = transaction.execute(
        f"""
        WITH weighted(lexeme, weight) AS (SELECT * FROM unnest(%s::integer[], %s::float8[])),
        best AS MATERIALIZED (
            SELECT b.first_row_number, b.row_count, sum(w.weight) AS score
            FROM weighted w JOIN {blocks} b ON b.lexemes @> ARRAY[w.lexeme]
            GROUP BY 1, 2 ORDER BY score DESC, 1 LIMIT %s
        )
        SELECT r.row_number{cells}
        FROM best JOIN {rows} r
        ON r.row_number >= best.first_row_number AND r.row_number < best.first_row_number + best.row_count
        """,
        (list(weights), list(weights.values()), max_blocks),
    )
    return [(number, tuple(texts)) for number, *texts in cursor.fetchall()]


def _copy(transaction: Transaction, table: str, data: bytes) -> int:
    cursor = transaction.cursor()
    cursor.copy_expert(f"COPY {table} FROM STDIN (FORMAT binary)", io.BytesIO(data), size=_COPY_READ_BYTES)
    return cursor.rowcount


def _rows_table(segment: str) -> str:
    return f"dari_rows.rows_{_checked(segment)}"


def _blocks_table(segment: str) -> str:
    return f"dari_rows.blocks_{_checked(segment)}"


def _checked(segment: str) -> str:
    if not _SEGMENT.fullmatch(segment):
        raise ValueError("a segment is named by 32 hexadecimal digits")
    return segment


def _literal(text: str) -> str:
    quoted = QuotedString(text)
    quoted.encoding = "utf-8"
    return quoted.getquoted().decode()
