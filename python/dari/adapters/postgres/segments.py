"""The tables of a segment: the rows of one upload, and the postings that find them.

`dari_rows.rows_{segment}` has a column for each column of the file (c1, c2, …: a header may hold names that PostgreSQL
cannot, or twice the same after 63 bytes), each cell's text exactly as it came. `dari_rows.postings_{segment}` tells for
each lexeme in which blocks of rows it stands, cut into buckets; a bucket is found by a plain index on a number.

Both belong to the ingest role, and show the reader role nothing but to a transaction that names their tenant and
knowledge base. Under such a policy PostgreSQL uses an index for leakproof operators only: comparing numbers is, the
operators of arrays and tsvectors are not, so that a GIN index here would be passed by.
"""

import io
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg2.extensions import QuotedString

from dari.adapters.postgres.database import Transaction

_SEGMENT = re.compile(r"[0-9a-f]{32}")
_COPY_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PlacedSegment:
    """A segment within a version."""

    name: str
    rows_before: int
    """Rows of the version that stand in earlier segments."""


def create_segment(transaction: Transaction, segment: str, tenant: str, knowledge_base: str, columns: int) -> None:
    """Make the empty tables of a segment. As the ingest role."""
    cells = "".join(f", c{number} text NOT NULL" for number in range(1, columns + 1))
    rows, postings = _rows_table(segment), _postings_table(segment)
    # A vacuum in the middle of a load finds nothing to clean and takes a core; publishing turns it on.
    transaction.execute(
        f"CREATE TABLE {rows} (row_number bigint NOT NULL{cells}) WITH (autovacuum_enabled = off);"
        f"CREATE TABLE {postings} (bucket integer NOT NULL, first_row_number bigint NOT NULL, postings bytea NOT NULL)"
        " WITH (autovacuum_enabled = off)"
    )
    is_named = _is_named(tenant, knowledge_base)
    for table in (rows, postings):
        transaction.execute(
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
            f"CREATE POLICY named_by_transaction ON {table} FOR SELECT TO dari_reader USING ({is_named});"
            f"GRANT SELECT ON {table} TO dari_reader"
        )


def copy_into_segment(transaction: Transaction, segment: str, rows: bytes, postings: bytes) -> int:
    """Add encoded rows and postings; returns how many rows PostgreSQL says it stored. As the ingest role."""
    stored = _copy_in(transaction, _rows_table(segment), rows) if rows else 0
    if postings:
        _copy_in(transaction, _postings_table(segment), postings)
    return stored


def index_segment(transaction: Transaction, segment: str) -> None:
    """Build what search needs. As the ingest role."""
    rows, postings = _rows_table(segment), _postings_table(segment)
    transaction.execute(
        # Rows lie in the order of their numbers, so that this is a scan and no sort. A block-range index would be built
        # in half the time, but then each of a search's blocks costs a pass over all ranges: at a million rows 3 ms.
        f"CREATE INDEX ON {rows} (row_number);"
        f"CREATE INDEX ON {postings} (bucket);"
        f"ANALYZE {rows} (row_number); ANALYZE {postings} (bucket);"
        f"ALTER TABLE {rows} RESET (autovacuum_enabled); ALTER TABLE {postings} RESET (autovacuum_enabled)"
    )


def drop_segment(transaction: Transaction, segment: str) -> None:
    """Drop the tables of a segment, if they exist. As the ingest role.

    Those of several segments in one transaction are dropped in the order of their names; see `lock_segments`.
    """
    transaction.execute(f"DROP TABLE IF EXISTS {_rows_table(segment)}; DROP TABLE IF EXISTS {_postings_table(segment)}")


def lock_segments(transaction: Transaction, segments: Iterable[str]) -> None:
    """Keep all that belongs to these segments from being dropped before the transaction ends. As the reader role.

    A snapshot keeps rows, but no tables. Fails with SQLSTATE 42P01 where a segment is gone. The rows are locked, before
    anything else is touched, since dropping begins with them.
    """
    tables = ", ".join(_rows_table(segment) for segment in sorted(segments))
    if tables:
        transaction.execute(f"LOCK TABLE {tables} IN ACCESS SHARE MODE")


def read_postings(transaction: Transaction, segments: Sequence[PlacedSegment], buckets: Sequence[int]) -> bytes:
    """All postings of these buckets in one or more segments, as `COPY … (FORMAT binary)`. As the reader role.

    Rows are numbered within the version.
    """
    wanted = ",".join(str(int(bucket)) for bucket in buckets)
    select = " UNION ALL ".join(
        f"SELECT bucket, first_row_number + {int(segment.rows_before)}, postings FROM {_postings_table(segment.name)}"
        f" WHERE bucket = ANY ('{{{wanted}}}'::integer[])"
        for segment in segments
    )
    copied = io.BytesIO()
    transaction.cursor().copy_expert(f"COPY ({select}) TO STDOUT (FORMAT binary)", copied)
    return copied.getvalue()


def read_blocks(
    transaction: Transaction,
    segments: Sequence[PlacedSegment],
    columns: int,
    blocks: Sequence[tuple[int, int]],
    max_bytes: int,
) -> list[tuple[int, tuple[str, ...]]]:
    """The rows (number, cells) of blocks (first row number, rows), best block first. As the reader role.

    `segments` are the version's, in order; rows are numbered within the version. No more rows than hold `max_bytes`;
    the row that passes it is the last.
    """
    starts = [segment.rows_before for segment in segments]
    # A block's segment is the last that begins before the block's first row, whose number is one more.
    places = [bisect_left(starts, first) - 1 for first, _ in blocks]
    firsts = [first - starts[place] for place, (first, _) in zip(places, blocks, strict=True)]
    ends = [first + rows for first, (_, rows) in zip(firsts, blocks, strict=True)]
    cells = [f"c{number}" for number in range(1, columns + 1)]
    # The end of a block comes as a column: an addition in the join is not leakproof, and would keep it from the index.
    found = " UNION ALL ".join(
        f"""
        SELECT best.place, r.row_number + {int(segments[place].rows_before)} AS row_number, {", ".join(cells)}
        FROM best JOIN {_rows_table(segments[place].name)} r
        ON r.row_number >= best.first_row_number AND r.row_number < best.end_row_number
        WHERE best.segment = {place}
        """
        for place in sorted(set(places))
    )
    cursor = transaction.execute(
        f"""
        WITH best AS MATERIALIZED (
            SELECT * FROM unnest(%s::integer[], %s::bigint[], %s::bigint[]) WITH ORDINALITY
            AS best (segment, first_row_number, end_row_number, place)
        ),
        measured AS (
            SELECT *, sum({_sum([f"octet_length({cell})" for cell in cells])}) OVER (
                ORDER BY place, row_number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS bytes_before
            FROM ({found}) AS found
        )
        SELECT row_number, {", ".join(cells)} FROM measured WHERE coalesce(bytes_before, 0) < %s
        """,
        (places, firsts, ends, max_bytes),
    )
    return [(number, tuple(texts)) for number, *texts in cursor.fetchall()]


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


def _copy_in(transaction: Transaction, table: str, data: bytes) -> int:
    cursor = transaction.cursor()
    cursor.copy_expert(f"COPY {table} FROM STDIN (FORMAT binary)", io.BytesIO(data), size=_COPY_READ_BYTES)
    return cursor.rowcount


def _rows_table(segment: str) -> str:
    return f"dari_rows.rows_{_checked(segment)}"


def _postings_table(segment: str) -> str:
    return f"dari_rows.postings_{_checked(segment)}"


def _checked(segment: str) -> str:
    if not _SEGMENT.fullmatch(segment):
        raise ValueError("a segment is named by 32 hexadecimal digits")
    return segment


def _literal(text: str) -> str:
    quoted = QuotedString(text)
    quoted.encoding = "utf-8"
    return quoted.getquoted().decode()
