"""Counts what changed between two versions, inside PostgreSQL: no row leaves it.

Each row becomes two digests, of its key and of all of it; equal digests are counted and paired by one pass over both
versions. PostgreSQL spills to its disk what does not fit into work_mem, so that memory is bounded. It reads as the
role to which nothing but the named knowledge base is shown.
"""

from collections.abc import Sequence

from dari.adapters.postgres.database import Database, Role, Transaction, sqlstate
from dari.adapters.postgres.segments import lock_segments, rows_table
from dari.core.comparing import Difference
from dari.core.errors import FailedPrecondition, FieldViolation, InternalError, InvalidArgument, NotFound
from dari.core.versions import no_version

_TIMEOUT_S = 600.0
_UNDEFINED_TABLE = "42P01"
_COUNT = """
WITH contents AS (
    SELECT key_digest, row_digest, sum(before) AS before, sum(after) AS after FROM ({rows}) rows GROUP BY 1, 2
), keys AS (
    SELECT sum(least(before, after)) AS same, sum(before - least(before, after)) AS gone,
        sum(after - least(before, after)) AS come
    FROM contents GROUP BY key_digest
)
SELECT coalesce(sum(come - least(gone, come)), 0)::bigint, coalesce(sum(gone - least(gone, come)), 0)::bigint,
    coalesce(sum(least(gone, come)), 0)::bigint, coalesce(sum(same), 0)::bigint
FROM keys
"""


class PostgresVersionComparer:
    """A VersionComparer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def compare(
        self, tenant: str, knowledge_base: str, from_version: int, to_version: int, key_columns: Sequence[str]
    ) -> Difference:
        """See VersionComparer."""
        try:
            return self._compare(tenant, knowledge_base, from_version, to_version, key_columns)
        except InternalError as error:
            # A version that was removed at this moment took its tables along.
            if sqlstate(error) != _UNDEFINED_TABLE:
                raise
        return self._compare(tenant, knowledge_base, from_version, to_version, key_columns)

    def _compare(
        self, tenant: str, knowledge_base: str, from_version: int, to_version: int, key_columns: Sequence[str]
    ) -> Difference:
        with self._database.transaction(
            Role.APP,
            snapshot=True,
            statement_timeout_s=_TIMEOUT_S,
            tenant=tenant,
            knowledge_bases=[knowledge_base],
        ) as transaction:
            key = (tenant, knowledge_base)
            after, columns = _version(transaction, *key, to_version, None)
            before, columns_before = _version(transaction, *key, from_version, after)
            if columns != columns_before:
                raise _other_columns(knowledge_base, before, after)
            places = _places(columns, key_columns or _source_key(transaction, *key, columns), len(columns))
            of_before, of_after = (_segments(transaction, *key, version) for version in (before, after))
            transaction.become(Role.READER)
            lock_segments(transaction, {*of_before, *of_after})
            rows = [_digests(segment, places, len(columns), 1, 0) for segment in of_before]
            rows += [_digests(segment, places, len(columns), 0, 1) for segment in of_after]
            counts = transaction.execute(_COUNT.format(rows=" UNION ALL ".join(rows))).fetchone()
            added, removed, changed, unchanged = counts or (0, 0, 0, 0)
            return Difference(before, after, added, removed, changed, unchanged)


def _version(
    transaction: Transaction, tenant: str, knowledge_base: str, number: int, newer: int | None
) -> tuple[int, list[str]]:
    """Number and columns of a version; of 0 the current one, or the last that is there before `newer`."""
    found = transaction.execute(
        """
        SELECT v.number, v.columns
        FROM dari.knowledge_bases b
        JOIN dari.knowledge_base_versions v ON v.tenant = b.tenant AND v.knowledge_base = b.id
        WHERE b.tenant = %s AND b.id = %s
            AND CASE WHEN %s > 0 THEN v.number = %s ELSE v.number < coalesce(%s, b.current_version + 1) END
        ORDER BY v.number DESC LIMIT 1
        """,
        (tenant, knowledge_base, number, number, newer),
    ).fetchone()
    if found is not None:
        return found[0], list(found[1])
    is_there = transaction.execute(
        "SELECT FROM dari.knowledge_bases WHERE tenant = %s AND id = %s", (tenant, knowledge_base)
    ).rowcount
    if not is_there:
        raise NotFound.of(f"knowledgeBases/{knowledge_base}")
    raise no_version(knowledge_base, number or (newer - 1 if newer else None))


def _source_key(transaction: Transaction, tenant: str, knowledge_base: str, columns: Sequence[str]) -> list[str]:
    """The key that the source names, where the version has all of its columns."""
    found = transaction.execute(
        "SELECT key_columns FROM dari.knowledge_base_sources WHERE tenant = %s AND knowledge_base = %s",
        (tenant, knowledge_base),
    ).fetchone()
    key = list(found[0]) if found else []
    return key if set(key) <= set(columns) else []


def _segments(transaction: Transaction, tenant: str, knowledge_base: str, version: int) -> list[str]:
    rows = transaction.execute(
        "SELECT segment FROM dari.version_segments WHERE tenant = %s AND knowledge_base = %s AND version = %s"
        " AND row_count > 0 ORDER BY ordinal",
        (tenant, knowledge_base, version),
    ).fetchall()
    return [segment for (segment,) in rows]


def _places(columns: Sequence[str], key: Sequence[str], width: int) -> list[int]:
    """Where the key's columns stand, from 1; all of them without a key."""
    unknown = [name for name in key if name not in columns]
    if unknown:
        raise InvalidArgument.of(FieldViolation("key_columns", "must be names of columns of both versions"))
    return [columns.index(name) + 1 for name in key] or list(range(1, width + 1))


def _digests(segment: str, places: Sequence[int], width: int, before: int, after: int) -> str:
    cells = ", ".join(f"c{place}" for place in range(1, width + 1))
    key = ", ".join(f"c{place}" for place in places) if len(places) < width else f"{cells}, extra_cells"
    return (
        f"SELECT sha256(convert_to(ROW({key})::text, 'UTF8')) AS key_digest,"
        f" sha256(convert_to(ROW({cells}, extra_cells)::text, 'UTF8')) AS row_digest,"
        f" {before} AS before, {after} AS after FROM {rows_table(segment)}"
    )


def _other_columns(knowledge_base: str, before: int, after: int) -> FailedPrecondition:
    name = f"knowledgeBases/{knowledge_base}"
    return FailedPrecondition(
        f"Versions {before} and {after} of {name} have other columns; export both to compare them.",
        {"resource": name, "from_version": before, "to_version": after},
    )
