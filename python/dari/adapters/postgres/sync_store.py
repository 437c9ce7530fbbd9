"""Keeps the sources of knowledge bases, their leases and their syncs; see `core.sync`.

Locks are taken in the order knowledge base, then source, as whoever changes or deletes a knowledge base takes them.
"""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from dari.adapters.postgres.database import Database, Role, Transaction
from dari.core.errors import FailedPrecondition, NotFound
from dari.core.schedules import Schedule
from dari.core.sources import KnowledgeBaseSource, OnShrink
from dari.core.sync import Claim, Outcome, SourceMark, Sync, SyncState

SOURCE_COLUMNS = (
    "uri", "credentials_secret", "interval_s", "cron", "on_shrink", "max_shrink_share", "key_columns", "paused",
)  # fmt: skip
"""What `read_source` reads."""
_KEPT_SYNCS = 1_000
"""Of each knowledge base; older ones go when another ends."""
_SYNC_COLUMNS = (
    "knowledge_base, number, state, code, fetched_bytes, uploads, version, rows_before, rows_found, create_time,"
    " complete_time, next_time"
)
_CLAIM = """
UPDATE dari.knowledge_base_sources SET lease = %s, lease_until = clock_timestamp() + make_interval(secs => %s)
WHERE (tenant, knowledge_base) = (
    SELECT s.tenant, s.knowledge_base FROM dari.knowledge_base_sources s
    WHERE lease_until <= clock_timestamp() AND (
        NOT paused AND next_time <= clock_timestamp()
        OR EXISTS (
            SELECT FROM dari.syncs r
            WHERE r.tenant = s.tenant AND r.knowledge_base = s.knowledge_base AND r.state = 'RUNNING'))
    ORDER BY next_time NULLS FIRST LIMIT 1 FOR NO KEY UPDATE OF s SKIP LOCKED)
RETURNING tenant, knowledge_base
"""
_BEGIN = """
INSERT INTO dari.syncs (tenant, knowledge_base, number, state, accepts_shrink, version_before, rows_before)
SELECT b.tenant, b.id,
    1 + coalesce((SELECT max(number) FROM dari.syncs s WHERE s.tenant = b.tenant AND s.knowledge_base = b.id), 0),
    'RUNNING', %s, coalesce(b.current_version, 0), coalesce(v.row_count, 0)
FROM dari.knowledge_bases b
LEFT JOIN dari.knowledge_base_versions v
    ON v.tenant = b.tenant AND v.knowledge_base = b.id AND v.number = b.current_version
WHERE b.tenant = %s AND b.id = %s
ON CONFLICT DO NOTHING
"""
_CLAIMED = """
SELECT b.create_time::text, s.uri, s.credentials_secret, s.interval_s, s.cron, s.on_shrink, s.max_shrink_share,
    s.key_columns, s.paused, s.etag, s.last_modified, s.sha256, s.is_held, s.seen_version, s.failures,
    r.number, r.accepts_shrink, r.version_before, r.rows_before, r.create_time
FROM dari.knowledge_base_sources s
JOIN dari.syncs r ON r.tenant = s.tenant AND r.knowledge_base = s.knowledge_base AND r.state = 'RUNNING'
JOIN dari.knowledge_bases b ON b.tenant = s.tenant AND b.id = s.knowledge_base
WHERE s.tenant = %s AND s.knowledge_base = %s
"""
_END_SYNC = """
UPDATE dari.syncs SET state = %s, code = %s, fetched_bytes = %s, uploads = %s, version = %s, rows_found = %s,
    complete_time = clock_timestamp(), next_time = %s
WHERE tenant = %s AND knowledge_base = %s AND number = %s
"""
_END_SOURCE = """
UPDATE dari.knowledge_base_sources SET lease = NULL, lease_until = '-infinity', next_time = %s,
    failures = CASE WHEN %s THEN failures + 1 ELSE 0 END, is_held = CASE WHEN %s THEN is_held ELSE %s END
WHERE tenant = %s AND knowledge_base = %s AND lease = %s
"""
_SEE = """
UPDATE dari.knowledge_base_sources SET etag = %s, last_modified = %s, sha256 = %s, seen_version = %s
WHERE tenant = %s AND knowledge_base = %s
"""
_FORGET = """
DELETE FROM dari.syncs WHERE tenant = %s AND knowledge_base = %s AND number <= %s
"""


class PostgresSyncStore:
    """A SyncStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def request(self, tenant: str, knowledge_base: str, *, accepts_shrink: bool) -> Sync:
        """See SyncStore."""
        key = (tenant, knowledge_base)
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            _lock_source(transaction, *key)
            transaction.execute(_BEGIN, (accepts_shrink, *key))
            row = transaction.execute(
                f"SELECT {_SYNC_COLUMNS} FROM dari.syncs WHERE tenant = %s AND knowledge_base = %s"
                " AND state = 'RUNNING'",
                key,
            ).fetchone()
            if row is None:
                raise NotFound.of(f"knowledgeBases/{knowledge_base}")
            return _sync(row)

    def list(self, tenant: str, knowledge_base: str, before: tuple[datetime, str] | None, limit: int) -> list[Sync]:
        """See SyncStore."""
        time, (base, number) = (before[0], _place(before[1])) if before else (None, ("", 0))
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            rows = transaction.execute(
                f"""
                SELECT {_SYNC_COLUMNS} FROM dari.syncs
                WHERE tenant = %s AND (%s = '' OR knowledge_base = %s) AND (%s::timestamptz IS NULL
                    OR create_time < %s OR create_time = %s AND (knowledge_base, number) > (%s, %s))
                ORDER BY create_time DESC, knowledge_base, number LIMIT %s
                """,
                (tenant, knowledge_base, knowledge_base, time, time, time, base, number, limit),
            ).fetchall()
            return [_sync(row) for row in rows]

    def claim(self, lease_s: float) -> Claim | None:
        """See SyncStore."""
        lease = uuid4()
        # Whose turn it is spans tenants, what is done then does not. A lease whose holder dies in between is over soon.
        with self._database.transaction(Role.HOUSEKEEPER, tenant=None) as transaction:
            key = transaction.execute(_CLAIM, (str(lease), lease_s)).fetchone()
        if key is None:
            return None
        with self._database.transaction(Role.APP, tenant=key[0]) as transaction:
            transaction.execute(_BEGIN, (False, *key))
            row = transaction.execute(_CLAIMED, key).fetchone()
            return None if row is None else _claim(key, lease, row)

    def renew(self, claim: Claim, lease_s: float) -> bool:
        """See SyncStore."""
        with self._database.transaction(Role.APP, tenant=claim.tenant) as transaction:
            return bool(
                transaction.execute(
                    "UPDATE dari.knowledge_base_sources"
                    " SET lease_until = clock_timestamp() + make_interval(secs => %s)"
                    " WHERE tenant = %s AND knowledge_base = %s AND lease = %s",
                    (lease_s, claim.tenant, claim.knowledge_base, str(claim.lease)),
                ).rowcount
            )

    def end(self, claim: Claim, outcome: Outcome) -> None:
        """See SyncStore."""
        key = (claim.tenant, claim.knowledge_base)
        has_failed, is_held = outcome.state is SyncState.FAILED, outcome.state is SyncState.HELD
        with self._database.transaction(Role.APP, tenant=claim.tenant) as transaction:
            freed = transaction.execute(
                _END_SOURCE, (outcome.next_time, has_failed, has_failed, is_held, *key, str(claim.lease))
            )
            if not freed.rowcount:
                return
            transaction.execute(
                _END_SYNC,
                (
                    outcome.state.value, outcome.code, outcome.fetched_bytes, list(outcome.uploads), outcome.version,
                    outcome.rows_found, outcome.next_time, *key, claim.number,
                ),
            )  # fmt: skip
            if outcome.mark is not None:
                mark, version = outcome.mark, outcome.version or claim.version_before
                transaction.execute(_SEE, (mark.etag, mark.last_modified, mark.sha256, version, *key))
            transaction.execute(_FORGET, (*key, claim.number - _KEPT_SYNCS))


def write_source(
    transaction: Transaction, tenant: str, knowledge_base: str, source: KnowledgeBaseSource | None
) -> None:
    """Give a knowledge base a source, another one, or none; what was known of another URI is forgotten. As the app."""
    key = (tenant, knowledge_base)
    if source is None:
        transaction.execute("DELETE FROM dari.knowledge_base_sources WHERE tenant = %s AND knowledge_base = %s", key)
        transaction.execute(
            "UPDATE dari.syncs SET state = 'FAILED', code = 'source_removed', complete_time = clock_timestamp()"
            " WHERE tenant = %s AND knowledge_base = %s AND state = 'RUNNING'",
            key,
        )
        return
    is_scheduled = bool(source.schedule.interval_s or source.schedule.cron)
    cron_time = source.schedule.next_after(_now(transaction)) if source.schedule.cron else None
    transaction.execute(
        _WRITE_SOURCE,
        (
            *key, source.uri, source.credentials_secret, source.schedule.interval_s, source.schedule.cron,
            source.on_shrink.value, source.max_shrink_share, list(source.key_columns), source.paused,
            cron_time or (_now(transaction) if is_scheduled else None),
        ),
    )  # fmt: skip


_WRITE_SOURCE = """
INSERT INTO dari.knowledge_base_sources AS s (tenant, knowledge_base, uri, credentials_secret, interval_s, cron,
    on_shrink, max_shrink_share, key_columns, paused, next_time)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (tenant, knowledge_base) DO UPDATE SET
    (uri, credentials_secret, interval_s, cron, on_shrink, max_shrink_share, key_columns, paused) =
    (excluded.uri, excluded.credentials_secret, excluded.interval_s, excluded.cron, excluded.on_shrink,
        excluded.max_shrink_share, excluded.key_columns, excluded.paused),
    next_time = CASE
        WHEN (s.uri, s.interval_s, s.cron) = (excluded.uri, excluded.interval_s, excluded.cron) THEN s.next_time
        ELSE excluded.next_time END,
    failures = CASE WHEN s.uri = excluded.uri THEN s.failures ELSE 0 END,
    etag = CASE WHEN s.uri = excluded.uri THEN s.etag ELSE '' END,
    last_modified = CASE WHEN s.uri = excluded.uri THEN s.last_modified ELSE '' END,
    sha256 = CASE WHEN s.uri = excluded.uri THEN s.sha256 ELSE '' END,
    is_held = s.is_held AND s.uri = excluded.uri
"""


def read_source(row: dict[str, Any]) -> KnowledgeBaseSource | None:
    """A source out of its row of dari.knowledge_base_sources; None where its columns are NULL."""
    if row["uri"] is None:
        return None
    return KnowledgeBaseSource(
        uri=row["uri"],
        credentials_secret=row["credentials_secret"],
        schedule=Schedule(row["interval_s"], row["cron"]),
        on_shrink=OnShrink(row["on_shrink"]),
        max_shrink_share=row["max_shrink_share"],
        key_columns=tuple(row["key_columns"]),
        paused=row["paused"],
    )


def _lock_source(transaction: Transaction, tenant: str, knowledge_base: str) -> None:
    key = (tenant, knowledge_base)
    held = transaction.execute("SELECT FROM dari.knowledge_bases WHERE tenant = %s AND id = %s FOR KEY SHARE", key)
    if not held.rowcount:
        raise NotFound.of(f"knowledgeBases/{knowledge_base}")
    found = transaction.execute(
        "SELECT FROM dari.knowledge_base_sources WHERE tenant = %s AND knowledge_base = %s FOR UPDATE", key
    )
    if not found.rowcount:
        name = f"knowledgeBases/{knowledge_base}"
        raise FailedPrecondition(f"{name} has no source; set one with UpdateKnowledgeBase.", {"resource": name})


def _now(transaction: Transaction) -> datetime:
    row = transaction.execute("SELECT now()").fetchone()
    return row[0]  # type: ignore[index, no-any-return]  # a SELECT without FROM has one row


def _place(text: str) -> tuple[str, int]:
    base, _, number = text.partition("/")
    return base, int(number)


def _sync(row: tuple[Any, ...]) -> Sync:
    base, number, state, code, fetched_bytes, uploads, *rest = row
    return Sync(base, number, SyncState(state), code, fetched_bytes, tuple(uploads), *rest)


def _claim(key: tuple[Any, ...], lease: UUID, row: tuple[Any, ...]) -> Claim:
    (
        incarnation, uri, secret, interval_s, cron, on_shrink, max_shrink_share, key_columns, paused, etag,
        last_modified, sha256, is_held, seen_version, failures, number, accepts_shrink, version_before, rows_before,
        start_time,
    ) = row  # fmt: skip
    source = KnowledgeBaseSource(
        uri, secret, Schedule(interval_s, cron), OnShrink(on_shrink), max_shrink_share, tuple(key_columns), paused
    )
    is_known = seen_version == version_before and bool(sha256)
    return Claim(
        tenant=key[0],
        knowledge_base=key[1],
        incarnation=incarnation,
        lease=lease,
        number=number,
        source=source,
        mark=SourceMark(etag, last_modified, bytes(sha256)) if is_known else SourceMark(),
        is_held=is_held and is_known,
        accepts_shrink=accepts_shrink,
        version_before=version_before,
        rows_before=rows_before,
        failures=failures,
        start_time=start_time,
    )
