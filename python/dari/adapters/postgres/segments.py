"""The tables of a segment: the rows of one upload, the postings that find them, and the evidence of what they hold.

`dari_rows.rows_{segment}` has a column for each column of the file (c1, c2, …: a header may hold names that PostgreSQL
cannot, or twice the same after 63 bytes), each cell's text exactly as it came, NULL where the row is too short to have
it; cells beyond the columns stand in `extra_cells`. `dari_rows.postings_{segment}` tells for each lexeme in which
blocks of rows it stands, cut into buckets; a bucket is found by a plain index on a number.
`dari_rows.evidence_{segment}` has what the parser gathered about the columns: a row a batch, and one for all once the
segment is indexed.

All belong to the ingest role, and show the reader role nothing but to a transaction that names their tenant and
knowledge base. Under such a policy PostgreSQL uses an index for leakproof operators only: comparing numbers is, the
operators of arrays and tsvectors are not, so that a GIN index here would be passed by.

The ingest role does not read what it owns. It gives up the right to read and to change rows and postings when it makes
them; to force the policies upon it, too, must wait until they are indexed, as COPY refuses a table where they hold
(SQLSTATE 0A000). Evidence it must read, to merge it: of the tenant and knowledge base that its transaction names.
"""

import io
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from psycopg2.extensions import QuotedString

from dari.adapters.postgres.database import Transaction
from dari.core.uploads import Batch

EvidenceMerger = Callable[[list[bytes]], bytes]
"""Makes one evidence of several."""

_SEGMENT = re.compile(r"[0-9a-f]{32}")
_COPY_READ_BYTES = 64 * 1024
"""One message of COPY: it stays in the cache of the core that reads it. 1 MiB took a quarter more time."""
_EVIDENCE_BYTES_AT_ONCE = 4 * 1024 * 1024


def rows_table(segment: str) -> str:
    """Schema and name of the table of a segment's rows."""
    return f"dari_rows.rows_{_checked(segment)}"


def typed_view(segment: str) -> str:
    """Schema and name of the typed view of the version that a segment's upload made; see `typed_views`."""
    return f"dari_rows.typed_{_checked(segment)}"


@dataclass(frozen=True, slots=True)
class PlacedSegment:
    """A segment within a version."""

    name: str
    rows_before: int
    """Rows of the version that stand in earlier segments."""


def create_segment(transaction: Transaction, segment: str, tenant: str, knowledge_base: str, columns: int) -> None:
    """Make the empty tables of a segment. As the ingest role, which cannot read the rows and postings in them."""
    cells = "".join(f", c{number} text" for number in range(1, columns + 1))
    rows, postings, evidence = tables = _tables(segment)
    # A vacuum in the middle of a load finds nothing to clean and takes a core; publishing turns it on.
    transaction.execute(
        f"CREATE TABLE {rows} (row_number bigint NOT NULL{cells}, extra_cells text[]) WITH (autovacuum_enabled = off);"
        f"CREATE TABLE {postings} (bucket integer NOT NULL, first_row_number bigint NOT NULL, postings bytea NOT NULL)"
        " WITH (autovacuum_enabled = off);"
        f"CREATE TABLE {evidence} (start_offset_bytes bigint NOT NULL, evidence bytea NOT NULL)"
    )
    is_named = _is_named(tenant, knowledge_base)
    for table in tables:
        transaction.execute(
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
            f"CREATE POLICY named_by_transaction ON {table} FOR SELECT TO dari_reader USING ({is_named});"
            f"GRANT SELECT ON {table} TO dari_reader"
        )
    transaction.execute(
        f"CREATE POLICY filled_by_transaction ON {evidence} TO dari_ingest USING ({is_named});"
        f"ALTER TABLE {evidence} FORCE ROW LEVEL SECURITY;"
        f"REVOKE UPDATE, DELETE, REFERENCES, TRIGGER ON {', '.join(tables)} FROM dari_ingest;"
        f"REVOKE SELECT, TRUNCATE ON {rows}, {postings} FROM dari_ingest"
    )


def lock_for_copy(transaction: Transaction, segment: str) -> None:
    """Take every lock that `copy_into_segment` needs. As the ingest role."""
    transaction.execute(f"LOCK TABLE {', '.join(_tables(segment))} IN ROW EXCLUSIVE MODE")


def lock_for_indexing(transaction: Transaction, segment: str) -> None:
    """Wait for the batches that are on their way into the segment, and let no other in. As the ingest role.

    The rows stand for all tables: `lock_for_copy` locks them first.
    """
    # SHARE ROW EXCLUSIVE, which an owner without rights of its own may not LOCK before PostgreSQL 17. There are no
    # triggers: it changes nothing.
    transaction.execute(f"ALTER TABLE {rows_table(segment)} DISABLE TRIGGER USER")


def copy_into_segment(transaction: Transaction, segment: str, start_offset_bytes: int, batch: Batch) -> int:
    """Add a batch that begins at this byte of its file; returns how many rows PostgreSQL says it stored.

    As the ingest role, in a transaction that names the segment's tenant and knowledge base.
    """
    rows, postings, evidence = _tables(segment)
    stored = _copy_in(transaction, rows, batch.rows) if batch.rows else 0
    if batch.postings:
        _copy_in(transaction, postings, batch.postings)
    if batch.evidence:
        transaction.execute(f"INSERT INTO {evidence} VALUES (%s, %s)", (start_offset_bytes, batch.evidence))
    return stored


def index_segment(transaction: Transaction, segment: str, merge_evidence: EvidenceMerger) -> None:
    """Build what search needs, put the evidence of all batches together, and close the segment for good.

    As the ingest role, in a transaction that names the segment's tenant and knowledge base.
    """
    rows, postings, evidence = _tables(segment)
    transaction.execute(
        # What is looked up by is spread evenly: ten parts tell as much as a hundred, from a tenth of the pages.
        "SET LOCAL default_statistics_target = 10;"
        # Rows lie in the order of their numbers, so that this is a scan and no sort. A block-range index would be built
        # in half the time, but then each of a search's blocks costs a pass over all ranges: at a million rows 3 ms.
        f"CREATE INDEX ON {rows} (row_number);"
        f"CREATE INDEX ON {postings} (bucket);"
        f"ANALYZE {rows} (row_number); ANALYZE {postings} (bucket);"
        f"ALTER TABLE {rows} RESET (autovacuum_enabled), FORCE ROW LEVEL SECURITY;"
        f"ALTER TABLE {postings} RESET (autovacuum_enabled), FORCE ROW LEVEL SECURITY;"
        f"REVOKE INSERT ON {rows}, {postings} FROM dari_ingest"
    )
    _merge_evidence(transaction, evidence, merge_evidence)


def drop_segment(transaction: Transaction, segment: str) -> None:
    """Drop the tables of a segment, if they exist, and views over them. As the ingest role.

    Those of several segments in one transaction are dropped in the order of their names; see `lock_segments`. A view
    goes before its tables, as those who read it lock it first.
    """
    transaction.execute(f"DROP VIEW IF EXISTS {typed_view(segment)}")
    transaction.execute("; ".join(f"DROP TABLE IF EXISTS {table} CASCADE" for table in _tables(segment)))


def stored_segments(transaction: Transaction) -> list[str]:
    """The segments that have tables, by name. As any role."""
    cursor = transaction.execute(
        "SELECT substr(relname, 6) FROM pg_class WHERE relnamespace = 'dari_rows'::regnamespace AND relkind = 'r'"
        " AND starts_with(relname, 'rows_') ORDER BY 1"
    )
    return [segment for (segment,) in cursor.fetchall()]


def lock_segments(transaction: Transaction, segments: Iterable[str]) -> None:
    """Keep all that belongs to these segments from being dropped before the transaction ends. As the reader role.

    A snapshot keeps rows, but no tables. Fails with SQLSTATE 42P01 where a segment is gone. The rows are locked, before
    anything else is touched, since dropping begins with them.
    """
    tables = ", ".join(rows_table(segment) for segment in sorted(segments))
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

    A row has the cells that it had in its file: fewer than there are columns, or more. `segments` are the version's, in
    order; rows are numbered within the version. No more rows than hold `max_bytes`; the row that passes it is the last.
    """
    starts = [segment.rows_before for segment in segments]
    # A block's segment is the last that begins before the block's first row, whose number is one more.
    places = [bisect_left(starts, first) - 1 for first, _ in blocks]
    firsts = [first - starts[place] for place, (first, _) in zip(places, blocks, strict=True)]
    ends = [first + rows for first, (_, rows) in zip(firsts, blocks, strict=True)]
    cells = [f"c{number}" for number in range(1, columns + 1)]
    lengths = [f"coalesce(octet_length({cell}), 0)" for cell in cells]
    lengths.append("coalesce(octet_length(array_to_string(extra_cells, '')), 0)")
    # The end of a block comes as a column: an addition in the join is not leakproof, and would keep it from the index.
    found = " UNION ALL ".join(
        f"""
        SELECT best.place, r.row_number + {int(segments[place].rows_before)} AS row_number,
            {", ".join(cells)}, extra_cells
        FROM best JOIN {rows_table(segments[place].name)} r
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
            SELECT *, sum({_sum(lengths)}) OVER (
                ORDER BY place, row_number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS bytes_before
            FROM ({found}) AS found
        )
        SELECT row_number, extra_cells, {", ".join(cells)} FROM measured WHERE coalesce(bytes_before, 0) < %s
        """,
        (places, firsts, ends, max_bytes),
    )
    return [(number, _cells(texts, extra)) for number, extra, *texts in cursor.fetchall()]


def _cells(texts: Sequence[str | None], extra: Sequence[str] | None) -> tuple[str, ...]:
    """The cells that a row had in its file: those that it was too short to have stand as NULL at its end."""
    return (*(text for text in texts if text is not None), *(extra or ()))


def read_page(
    transaction: Transaction, segment: str, columns: int, first_row_number: int, max_rows: int, max_bytes: int
) -> tuple[bytes, int]:
    """Rows from a number on, as `COPY … (FORMAT binary)` in the order of the table's columns; and how many.

    At most `max_rows`; of these the last is the one with which the COPY reaches `max_bytes`. As the reader role.
    """
    names = [f"c{number}" for number in range(1, columns + 1)]
    lengths = [f"coalesce(octet_length({name}), 0)" for name in names]
    lengths.append("coalesce(octet_length(array_to_string(extra_cells, '')), 0)")
    # Fields have a length of four bytes each, a row its number and its count of fields.
    row_bytes = f"{_sum(lengths)} + {4 * (columns + 2) + 10}"
    # Rows of neighbouring batches may lie in any order.
    select = (
        f"SELECT row_number, {', '.join(names)}, extra_cells FROM ("
        f"SELECT *, sum({row_bytes}) OVER (ORDER BY row_number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
        f" AS bytes_before FROM {rows_table(segment)}"
        f" WHERE row_number >= {int(first_row_number)} AND row_number < {int(first_row_number + max_rows)}"
        f") measured WHERE coalesce(bytes_before, 0) < {int(max_bytes)} ORDER BY row_number"
    )
    copied = io.BytesIO()
    cursor = transaction.cursor()
    cursor.copy_expert(f"COPY ({select}) TO STDOUT (FORMAT binary)", copied)
    return copied.getvalue(), cursor.rowcount


def read_evidence(transaction: Transaction, segments: Iterable[str], merge: EvidenceMerger) -> bytes:
    """The evidence of all rows of the segments, merged; b"" where there is none. As the reader or the ingest role."""
    merged = b""
    for segment in segments:
        cursor = transaction.execute(f"SELECT evidence FROM {_evidence_table(segment)} ORDER BY start_offset_bytes")
        for (evidence,) in cursor:
            merged = merge([merged, bytes(evidence)]) if merged else bytes(evidence)
    return merged


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


def _merge_evidence(transaction: Transaction, table: str, merge: EvidenceMerger) -> None:
    """Leave one row of evidence, or none; no more than some pieces are in memory at once."""
    transaction.execute(
        f"DECLARE pieces NO SCROLL CURSOR FOR SELECT start_offset_bytes, evidence FROM {table} ORDER BY 1"
    )
    gathered: list[bytes] = []
    gathered_bytes = pieces = 0
    first_offset = None
    while (piece := transaction.execute("FETCH pieces").fetchone()) is not None:
        offset, evidence = piece
        first_offset = offset if first_offset is None else first_offset
        gathered.append(bytes(evidence))
        gathered_bytes += len(evidence)
        pieces += 1
        if gathered_bytes > _EVIDENCE_BYTES_AT_ONCE:
            gathered = [merge(gathered)]
            gathered_bytes = 0
    transaction.execute("CLOSE pieces")
    if pieces > 1:
        transaction.execute(f"TRUNCATE {table}")
        transaction.execute(f"INSERT INTO {table} VALUES (%s, %s)", (first_offset, merge(gathered)))


def _copy_in(transaction: Transaction, table: str, data: bytes) -> int:
    cursor = transaction.cursor()
    cursor.copy_expert(f"COPY {table} FROM STDIN (FORMAT binary)", io.BytesIO(data), size=_COPY_READ_BYTES)
    return cursor.rowcount


def _tables(segment: str) -> tuple[str, str, str]:
    """The tables of rows, postings and evidence."""
    return rows_table(segment), _postings_table(segment), _evidence_table(segment)


def _postings_table(segment: str) -> str:
    return f"dari_rows.postings_{_checked(segment)}"


def _evidence_table(segment: str) -> str:
    return f"dari_rows.evidence_{_checked(segment)}"


def _checked(segment: str) -> str:
    if not _SEGMENT.fullmatch(segment):
        raise ValueError("a segment is named by 32 hexadecimal digits")
    return segment


def _literal(text: str) -> str:
    quoted = QuotedString(text)
    quoted.encoding = "utf-8"
    return quoted.getquoted().decode()
