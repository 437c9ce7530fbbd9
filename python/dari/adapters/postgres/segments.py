"""The tables of a segment: the rows of one upload, and the lexeme sets of its blocks.

`dari_rows.rows_{segment}` has a column for each column of the file (c1, c2, …: a header may hold names that PostgreSQL
cannot, or twice the same after 63 bytes), each cell's text exactly as it came. It shows the reader role nothing but to
a transaction that names its tenant and knowledge base.

`dari_rows.blocks_{segment}` has the set of lexeme hashes of each run of rows, under a GIN index. The reader role may
not read it: under row-level security PostgreSQL applies only leakproof operators before the policy, and those of arrays
are not, so that every search would read all sets and no index. It asks two functions of the owner instead, which hold
the same condition as the policy.
"""

import io
import re
from collections.abc import Iterable, Sequence

from psycopg2.extensions import QuotedString

from dari.adapters.postgres.database import Transaction

_SEGMENT = re.compile(r"[0-9a-f]{32}")
_COPY_READ_BYTES = 1024 * 1024
_INDEX_MEMORY = "64MB"
# What the planner takes the functions' results for: near the truth, and few enough for the index on row_number.
_LEXEMES_GUESSED = 16
_BLOCKS_GUESSED = 24


def create_segment(transaction: Transaction, segment: str, tenant: str, knowledge_base: str, columns: int) -> None:
    """Make the empty tables of a segment. As the ingest role."""
    cells = "".join(f", c{number} text NOT NULL" for number in range(1, columns + 1))
    rows, blocks = _rows_table(segment), _blocks_table(segment)
    # A vacuum in the middle of a load finds nothing to clean and takes a core; publishing turns it on.
    transaction.execute(
        f"CREATE TABLE {rows} (row_number bigint NOT NULL{cells}) WITH (autovacuum_enabled = off);"
        f"CREATE TABLE {blocks} (first_row_number bigint NOT NULL, row_count integer NOT NULL,"
        " lexemes integer[] NOT NULL) WITH (autovacuum_enabled = off);"
        # Hashes do not become shorter: trying to compress them took half of the time of storing them.
        f"ALTER TABLE {blocks} ALTER lexemes SET STORAGE EXTERNAL"
    )
    is_named = _is_named(tenant, knowledge_base)
    for table in (rows, blocks):
        transaction.execute(
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
            f"CREATE POLICY named_by_transaction ON {table} FOR SELECT TO dari_reader USING ({is_named})"
        )
    transaction.execute(f"GRANT SELECT ON {rows} TO dari_reader")
    _create_functions(transaction, segment, is_named)


def copy_into_segment(transaction: Transaction, segment: str, rows: bytes, blocks: bytes) -> int:
    """Add encoded rows and blocks; returns how many rows PostgreSQL says it stored. As the ingest role."""
    stored = _copy(transaction, _rows_table(segment), rows) if rows else 0
    if blocks:
        _copy(transaction, _blocks_table(segment), blocks)
    return stored


def index_segment(transaction: Transaction, segment: str) -> None:
    """Build what search needs. As the ingest role."""
    rows, blocks = _rows_table(segment), _blocks_table(segment)
    transaction.execute(f"SET LOCAL maintenance_work_mem = '{_INDEX_MEMORY}'")
    transaction.execute(
        # Rows lie in the order of their numbers: a block-range index costs nothing and is as good.
        f"CREATE INDEX ON {rows} USING brin (row_number) WITH (pages_per_range = 8);"
        f"CREATE INDEX ON {blocks} USING gin (lexemes) WITH (fastupdate = off);"
        # Statistics of the lexemes would take a fifth of the index's time, and change no plan.
        f"ANALYZE {rows} (row_number); ANALYZE {blocks} (first_row_number);"
        f"ALTER TABLE {rows} RESET (autovacuum_enabled); ALTER TABLE {blocks} RESET (autovacuum_enabled)"
    )


def drop_segment(transaction: Transaction, segment: str) -> None:
    """Drop the tables of a segment, if they exist. As the ingest role.

    Those of several segments in one transaction are dropped in the order of their names; see `lock_segments`.
    """
    transaction.execute(
        f"DROP TABLE IF EXISTS {_rows_table(segment)};"
        f"DROP FUNCTION IF EXISTS {_count_function(segment)}, {_best_function(segment)};"
        f"DROP TABLE IF EXISTS {_blocks_table(segment)}"
    )


def lock_segments(transaction: Transaction, segments: Iterable[str]) -> None:
    """Keep all that belongs to these segments from being dropped before the transaction ends. As the reader role.

    A snapshot keeps rows, but no tables and no functions. Fails with SQLSTATE 42P01 where a segment is gone. The rows
    are locked, before anything else is touched, since dropping begins with them.
    """
    tables = ", ".join(_rows_table(segment) for segment in sorted(segments))
    if tables:
        transaction.execute(f"LOCK TABLE {tables} IN ACCESS SHARE MODE")


def count_blocks(transaction: Transaction, segment: str, hashes: Sequence[int]) -> tuple[int, dict[int, int]]:
    """How many blocks a segment has, and in how many of them each lexeme stands. As the reader role."""
    cursor = transaction.execute(
        f"SELECT lexeme, block_count FROM {_count_function(segment)}(%s::integer[])", (list(hashes),)
    )
    counts: dict[int | None, int] = dict(cursor.fetchall())
    total = counts.pop(None, 0)
    return total, {lexeme: count for lexeme, count in counts.items() if lexeme is not None and count}


def best_rows(
    transaction: Transaction, segment: str, columns: int, weights: dict[int, float], max_blocks: int, max_bytes: int
) -> list[tuple[int, tuple[str, ...]]]:
    """The rows (number, cells) of the blocks in which the heaviest lexemes meet. As the reader role.

    Rows of the best blocks come first, and no more of them than hold `max_bytes`; the row that passes it is the last.
    """
    names = [f"c{number}" for number in range(1, columns + 1)]
    # The end of a block comes as a column: an addition in the join is not leakproof, and would keep it from the index.
    cursor = transaction.execute(
        f"""
        WITH best AS MATERIALIZED (
            SELECT * FROM {_best_function(segment)}(%s::integer[], %s::float8[], %s)
        ),
        measured AS (
            SELECT r.*, sum({_sum([f"octet_length({name})" for name in names])}) OVER (
                ORDER BY best.score DESC, r.row_number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS bytes_before
            FROM best JOIN {_rows_table(segment)} r
            ON r.row_number >= best.first_row_number AND r.row_number < best.end_row_number
        )
        SELECT row_number, {", ".join(names)} FROM measured WHERE coalesce(bytes_before, 0) < %s
        """,
        (list(weights), list(weights.values()), max_blocks, max_bytes),
    )
    return [(number, tuple(texts)) for number, *texts in cursor.fetchall()]


def _create_functions(transaction: Transaction, segment: str, is_named: str) -> None:
    """What the reader role may ask about the blocks of a segment that its transaction names."""
    blocks, count, best = _blocks_table(segment), _count_function(segment), _best_function(segment)
    transaction.execute(
        f"""
        CREATE FUNCTION {count}(hashes integer[]) RETURNS TABLE (lexeme integer, block_count bigint)
        STABLE SECURITY DEFINER ROWS {_LEXEMES_GUESSED} BEGIN ATOMIC
            SELECT NULL::integer, count(*) FROM {blocks} WHERE {is_named}
            UNION ALL
            SELECT h, (SELECT count(*) FROM {blocks} WHERE lexemes @> ARRAY[h]) FROM unnest(hashes) AS h
            WHERE {is_named};
        END;
        CREATE FUNCTION {best}(hashes integer[], weights float8[], max_blocks integer)
        RETURNS TABLE (first_row_number bigint, end_row_number bigint, score float8)
        STABLE SECURITY DEFINER ROWS {_BLOCKS_GUESSED} BEGIN ATOMIC
            SELECT b.first_row_number, b.first_row_number + b.row_count, sum(w.weight)
            FROM unnest(hashes, weights) AS w (lexeme, weight) JOIN {blocks} b ON b.lexemes @> ARRAY[w.lexeme]
            WHERE {is_named} GROUP BY 1, 2 ORDER BY 3 DESC, 1 LIMIT max_blocks;
        END;
        REVOKE ALL ON FUNCTION {count}, {best} FROM PUBLIC;
        GRANT EXECUTE ON FUNCTION {count}, {best} TO dari_reader
        """
    )


def _is_named(tenant: str, knowledge_base: str) -> str:
    """The condition that a transaction names a segment's tenant and knowledge base; false where it names none."""
    # The planner takes a comparison for true of one row in 200, so that reading the table would seem cheaper than its
    # index; of coalesce() it knows nothing, and takes it for true of every other row.
    return (
        f"coalesce(current_setting('dari.tenant', true) = {_literal(tenant)} AND {_literal(knowledge_base)}"
        " = ANY (string_to_array(current_setting('dari.knowledge_bases', true), ',')), false)"
    )


def _sum(terms: Sequence[str]) -> str:
    """The terms added in pairs: added in a row, a thousand of them nest deeper than PostgreSQL's stack may be."""
    if len(terms) == 1:
        return terms[0]
    middle = len(terms) // 2
    return f"({_sum(terms[:middle])} + {_sum(terms[middle:])})"


def _copy(transaction: Transaction, table: str, data: bytes) -> int:
    cursor = transaction.cursor()
    cursor.copy_expert(f"COPY {table} FROM STDIN (FORMAT binary)", io.BytesIO(data), size=_COPY_READ_BYTES)
    return cursor.rowcount


def _rows_table(segment: str) -> str:
    return f"dari_rows.rows_{_checked(segment)}"


def _blocks_table(segment: str) -> str:
    return f"dari_rows.blocks_{_checked(segment)}"


def _count_function(segment: str) -> str:
    return f"dari_rows.count_{_checked(segment)}"


def _best_function(segment: str) -> str:
    return f"dari_rows.best_{_checked(segment)}"


def _checked(segment: str) -> str:
    if not _SEGMENT.fullmatch(segment):
        raise ValueError("a segment is named by 32 hexadecimal digits")
    return segment


def _literal(text: str) -> str:
    quoted = QuotedString(text)
    quoted.encoding = "utf-8"
    return quoted.getquoted().decode()
