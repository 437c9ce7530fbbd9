"""The oracle of every upload: each row is stored once or listed once as rejected, each byte is counted once.

It looks past all of dari's code, into the tables, as PostgreSQL's administrator.
"""

from contextlib import closing

import psycopg2
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - psycopg2 names a class in lower case

from tests.support.known_file import Expected

_STORED = """
SELECT count(*), coalesce(sum(('x' || substr(md5(array_to_string({cells}, chr(31))), 1, 15))::bit(60)::bigint), 0),
       count(DISTINCT row_number), coalesce(min(row_number), 1), coalesce(max(row_number), 0)
FROM dari_rows.rows_{segment}
"""


def assert_exactly_once(admin_dsn: str, upload_id: str, expected: Expected, *, state: str = "COMPLETED") -> None:
    """Stored rows, rejected rows, ledger and counters are the file's. `state` is where the upload must be."""
    with closing(psycopg2.connect(admin_dsn)) as session, session.cursor() as cursor:
        cursor.execute(
            "SELECT segment, state, committed_offset_bytes, rows_stored, rows_rejected FROM dari.uploads WHERE id = %s",
            (upload_id,),
        )
        ((segment, *told),) = cursor.fetchall()
        assert told == [state, expected.size_bytes, expected.rows_stored, expected.rows_rejected]
        count, rows_hash, numbers, first, last = stored(cursor, segment)
        assert (count, int(rows_hash)) == (expected.rows_stored, expected.rows_hash)
        assert (numbers, first, last) == (count, 1, count), "each row has its own number, without a gap"
        assert_ledger_whole(cursor, upload_id, expected)
        cursor.execute("SELECT count(*) FROM dari.rejected_rows WHERE upload = %s", (upload_id,))
        assert cursor.fetchone() == (expected.rows_rejected,)


def assert_nothing_partial(cursor: Cursor, upload_id: str) -> None:
    """What is in the tables of an upload that is not complete is what its ledger says, to the row."""
    cursor.execute(
        "SELECT segment, rows_stored, rows_rejected, committed_offset_bytes FROM dari.uploads WHERE id = %s",
        (upload_id,),
    )
    ((segment, rows_stored, rows_rejected, offset),) = cursor.fetchall()
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (f"dari_rows.rows_{segment}",))
    if cursor.fetchone() == (True,):
        count, _, numbers, _, last = stored(cursor, segment)
        assert count == numbers == last == rows_stored
    else:
        assert rows_stored == 0
    assert_ledger_whole(cursor, upload_id, Expected(offset, rows_stored, rows_rejected, 0))


def stored(cursor: Cursor, segment: str) -> tuple[int, int, int, int, int]:
    """Rows, their hash, distinct row numbers, the smallest and the largest of them."""
    cursor.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 1 AND NOT attisdropped"
        " ORDER BY attnum",
        (f"dari_rows.rows_{segment}",),
    )
    names = [name for (name,) in cursor.fetchall()]
    # A cell that a row is too short to have is NULL, which array_to_string leaves out.
    *columns, extra_cells = names
    cells = f"ARRAY[{', '.join(columns)}] || {extra_cells}"
    cursor.execute(_STORED.format(cells=cells, segment=segment))
    ((count, rows_hash, numbers, first, last),) = cursor.fetchall()
    return count, rows_hash, numbers, first, last


def assert_ledger_whole(cursor: Cursor, upload_id: str, expected: Expected) -> None:
    """The ranges follow each other from the first byte to the last, and their counts add up."""
    cursor.execute(
        "SELECT start_offset_bytes, end_offset_bytes, rows_stored, rows_rejected FROM dari.upload_batches"
        " WHERE upload = %s ORDER BY start_offset_bytes",
        (upload_id,),
    )
    ranges = cursor.fetchall()
    ends = [0, *(end for _, end, _, _ in ranges)]
    assert [start for start, _, _, _ in ranges] == ends[:-1]
    assert ends[-1] == expected.size_bytes
    assert sum(count for _, _, count, _ in ranges) == expected.rows_stored
    assert sum(count for _, _, _, count in ranges) == expected.rows_rejected
