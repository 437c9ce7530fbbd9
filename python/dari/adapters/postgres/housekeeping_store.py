"""Finds uploads that were left alone, and removes what is over; see `core.housekeeping`.

What removes runs under an advisory lock that ends with its transaction: one server at a time does it. Tables are
dropped in transactions of their own, since a batch that is being stored, or a reader, may hold them.
"""

from collections.abc import Callable
from typing import Any

from dari.adapters.postgres.database import Database, Role, Transaction, sqlstate
from dari.adapters.postgres.outbox_store import store_alert
from dari.adapters.postgres.segments import drop_segment, stored_segments
from dari.adapters.postgres.tables import Uploads
from dari.adapters.postgres.typed_views import drop_typed_view, stored_typed_views
from dari.adapters.postgres.upload_store import read_upload
from dari.core.alerts import upload_failed
from dari.core.errors import Unavailable
from dari.core.uploads import Upload, UploadState

_ADVISORY_LOCK = int.from_bytes(b"dari-hsk", "big")
_AT_ONCE = 100
"""Uploads or versions in one transaction; what is left comes with the next round."""
_DROP_LOCK_TIMEOUT = "1s"
"""Longest wait for readers of a table. Those who come meanwhile wait behind the drop."""
_LOCK_NOT_AVAILABLE = "55P03"

_EXPIRE = """
UPDATE dari.uploads SET state = 'FAILED', update_time = now(),
    failure = 'It expired: nothing came for ' || %s || ' s. Send the file again under a new upload_id.'
WHERE (tenant, id) IN (
    SELECT tenant, id FROM dari.uploads
    WHERE state = 'OPEN' AND update_time < now() - make_interval(secs => %s)
    LIMIT %s FOR NO KEY UPDATE SKIP LOCKED)
RETURNING tenant, knowledge_base, id
"""
_REMOVE_VERSIONS = """
DELETE FROM dari.knowledge_base_versions
WHERE (tenant, knowledge_base, number) IN (
    SELECT tenant, knowledge_base, number FROM (
        SELECT tenant, knowledge_base, number,
            lead(create_time) OVER (PARTITION BY tenant, knowledge_base ORDER BY number) AS superseded_time,
            row_number() OVER (PARTITION BY tenant, knowledge_base ORDER BY number DESC) AS place
        FROM dari.knowledge_base_versions
    ) versions
    WHERE place > 1 + %s AND superseded_time < now() - make_interval(secs => %s)
    LIMIT %s)
"""
_SKIP_LOCKED: Any = "FOR UPDATE SKIP LOCKED"
_LIVE_SEGMENTS = """
SELECT segment FROM dari.uploads WHERE state IN ('OPEN', 'INDEXING')
UNION SELECT segment FROM dari.version_segments
"""
_LIVE_TYPED_VIEWS = """
SELECT u.segment FROM dari.uploads u
JOIN dari.knowledge_base_versions v
    ON v.tenant = u.tenant AND v.knowledge_base = u.knowledge_base AND v.number = u.version
"""


class PostgresHousekeepingStore:
    """A HousekeepingStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def unfinished(self) -> list[Upload]:
        """See HousekeepingStore."""
        query = (
            Uploads.select()
            .where(Uploads.state == UploadState.INDEXING.value)
            .order_by(Uploads.update_time)
            .limit(_AT_ONCE)
            .for_update(_SKIP_LOCKED)
            .dicts()
        )
        with self._database.transaction(Role.HOUSEKEEPER, tenant=None) as transaction:
            return [read_upload(row) for row in query.execute(transaction.peewee)]

    def expire_uploads(self, upload_expiry_s: float) -> int:
        """See HousekeepingStore."""
        with self._database.transaction(Role.HOUSEKEEPER, tenant=None) as transaction:
            if not _is_alone(transaction):
                return 0
            parameters = (f"{upload_expiry_s:g}", upload_expiry_s, _AT_ONCE)
            expired = transaction.execute(_EXPIRE, parameters).fetchall()
            for tenant, knowledge_base, upload in expired:
                store_alert(transaction, upload_failed(tenant, knowledge_base, upload, code="expired"))
            return len(expired)

    def remove_versions(self, version_grace_s: float, keep_versions: int) -> int:
        """See HousekeepingStore."""
        with self._database.transaction(Role.HOUSEKEEPER, tenant=None) as transaction:
            if not _is_alone(transaction):
                return 0
            return transaction.execute(_REMOVE_VERSIONS, (keep_versions, version_grace_s, _AT_ONCE)).rowcount

    def drop_segments(self) -> int:
        """See HousekeepingStore."""
        # A segment that has no use any more never has one again, so that this may be looked up before it is dropped.
        with self._database.transaction(Role.HOUSEKEEPER, tenant=None, snapshot=True) as transaction:
            stored = stored_segments(transaction)
            live = {segment for (segment,) in transaction.execute(_LIVE_SEGMENTS).fetchall()}
            views = stored_typed_views(transaction)
            live_views = {segment for (segment,) in transaction.execute(_LIVE_TYPED_VIEWS).fetchall()}
        # A segment may outlive the version that it came with, whose view goes.
        for segment in views:
            if segment not in live_views:
                self._drop(segment, drop_typed_view)
        return sum(self._drop(segment, drop_segment) for segment in stored if segment not in live)

    def _drop(self, segment: str, drop: Callable[[Transaction, str], None]) -> bool:
        try:
            with self._database.transaction(Role.INGEST, tenant=None) as transaction:
                if not _is_alone(transaction):
                    return False
                transaction.execute("SELECT set_config('lock_timeout', %s, true)", (_DROP_LOCK_TIMEOUT,))
                drop(transaction, segment)
                return True
        except Unavailable as error:
            if sqlstate(error) != _LOCK_NOT_AVAILABLE:
                raise
            return False


def _is_alone(transaction: Transaction) -> bool:
    """Whether no other server is at this, until the transaction ends."""
    row = transaction.execute("SELECT pg_try_advisory_xact_lock(%s)", (_ADVISORY_LOCK,)).fetchone()
    return row == (True,)
