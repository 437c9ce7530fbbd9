"""Keeps uploads, their ledger and their rows; see `core.uploads` for the invariant that the ledger holds."""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

import psycopg2
from peewee import fn
from psycopg2.extras import execute_values

from dari.adapters.postgres.database import Database, Role, Transaction, sqlstate
from dari.adapters.postgres.segments import copy_into_segment, create_segment, drop_segment, index_segment
from dari.adapters.postgres.tables import (
    KnowledgeBases,
    KnowledgeBaseVersions,
    RejectedRows,
    UploadBatches,
    Uploads,
    VersionSegments,
)
from dari.core.errors import HeaderConflict, InternalError, MalformedFile, NotFound, RivalWriter
from dari.core.uploads import (
    Batch,
    Checkpoint,
    Dialect,
    OpenUpload,
    Receipt,
    StoredRejectedRow,
    Upload,
    UploadMode,
    UploadState,
    conflict_with,
)

_INDEX_TIMEOUT_S = 3_600.0
# Locks on a knowledge base. The first keeps it from being deleted, the second also from getting another version.
_SHARED = "FOR KEY SHARE"
_EXCLUSIVE = "FOR NO KEY UPDATE"
_ROW_TOO_BIG = "54000"
"""SQLSTATE of a row that fits no page of PostgreSQL, which are 8 KiB; long cells lie elsewhere, but not short ones."""


class PostgresUploadStore:
    """An UploadStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, tenant: str, request: OpenUpload) -> Upload:
        """See UploadStore."""
        with self._database.transaction(Role.APP) as transaction:
            if _lock_knowledge_base(transaction, tenant, request.knowledge_base, _SHARED) is None:
                raise NotFound.of(f"knowledgeBases/{request.knowledge_base}")
            Uploads.insert(_new_row(tenant, request)).on_conflict_ignore().execute(transaction.peewee)
            upload = _upload(_lock(transaction, tenant, request.id))
            conflict = conflict_with(upload, request)
            if conflict is not None:
                raise conflict
            if upload.state is UploadState.COMPLETED:
                return upload
            opened = (
                Uploads.update({Uploads.writer_epoch: Uploads.writer_epoch + 1, Uploads.update_time: fn.now()})
                .where(_is(tenant, request.id))
                .returning(Uploads)
                .dicts()
                .execute(transaction.peewee)
            )
            return _upload(next(iter(opened)))

    def commit(self, upload: Upload, since: Checkpoint, batch: Batch, sha256: bytes | None = None) -> None:
        """See UploadStore."""
        after = batch.checkpoint
        state = UploadState.OPEN if sha256 is None else UploadState.INDEXING
        with self._database.transaction(Role.APP) as transaction:
            _hold_knowledge_base(transaction, upload)
            # The compare-and-set comes first: a rival's stream waits here for nothing but one short transaction.
            moved = (
                Uploads.update(
                    {
                        Uploads.state: state.value,
                        Uploads.sha256: sha256,
                        Uploads.committed_offset_bytes: after.offset_bytes,
                        Uploads.next_line: after.line,
                        Uploads.rows_stored: after.rows_stored,
                        Uploads.rows_rejected: after.rows_rejected,
                        Uploads.columns: list(after.columns),
                        Uploads.sha256_state: after.sha256_state,
                        Uploads.update_time: fn.now(),
                    }
                )
                .where(
                    _is_mine(upload)
                    & (Uploads.committed_offset_bytes == since.offset_bytes)
                    & (Uploads.state == UploadState.OPEN.value)
                )
                .execute(transaction.peewee)
            )
            if not moved:
                raise _rival(upload)
            is_first = not since.columns and bool(after.columns)
            if is_first:
                _check_header(transaction, upload, after.columns)
            if after.offset_bytes == since.offset_bytes:
                return  # The end of a file that ended with the batch before.
            UploadBatches.insert(
                tenant=upload.tenant,
                upload=upload.id,
                start_offset_bytes=since.offset_bytes,
                end_offset_bytes=after.offset_bytes,
                rows_stored=batch.rows_stored,
                rows_rejected=len(batch.rejected),
            ).execute(transaction.peewee)
            _insert_rejected(transaction, upload, batch)
            transaction.become(Role.INGEST)
            if is_first:
                create_segment(transaction, upload.segment, upload.tenant, upload.knowledge_base, len(after.columns))
            stored = _copy(transaction, upload, batch)
            if stored != batch.rows_stored:
                raise InternalError("An internal error occurred.", {"expected_rows": batch.rows_stored, "rows": stored})

    def fail(self, upload: Upload, failure: str) -> None:
        """See UploadStore."""
        with self._database.transaction(Role.APP) as transaction:
            if _lock_knowledge_base(transaction, upload.tenant, upload.knowledge_base, _SHARED) is None:
                return
            failed = (
                Uploads.update(
                    {Uploads.state: UploadState.FAILED.value, Uploads.failure: failure, Uploads.update_time: fn.now()}
                )
                .where(_is_mine(upload) & (Uploads.state != UploadState.COMPLETED.value))
                .execute(transaction.peewee)
            )
            if failed:
                transaction.become(Role.INGEST)
                drop_segment(transaction, upload.segment)

    def publish(self, upload: Upload) -> Receipt:
        """See UploadStore."""
        self._index(upload)
        with self._database.transaction(Role.APP) as transaction:
            current_version = _hold_knowledge_base(transaction, upload, _EXCLUSIVE)
            row = _lock_mine(transaction, upload)
            if row["state"] == UploadState.INDEXING.value:
                _check_header(transaction, upload, row["columns"])
                version = _add_version(transaction, _upload(row), current_version)
                _complete(transaction, upload, version)
                row = _lock(transaction, upload.tenant, upload.id)
            receipt = _upload(row).receipt
            if receipt is None:
                raise InternalError("An internal error occurred.", {"upload": upload.name})
            return receipt

    def get(self, tenant: str, id: str) -> Upload:
        """See UploadStore."""
        with self._database.transaction(Role.APP) as transaction:
            return _upload(_find(transaction, tenant, id))

    def list(self, tenant: str, knowledge_base: str, before: tuple[datetime, str] | None, limit: int) -> list[Upload]:
        """See UploadStore."""
        query = (
            Uploads.select()
            .where(Uploads.tenant == tenant)
            .order_by(Uploads.create_time.desc(), Uploads.id)
            .limit(limit)
            .dicts()
        )
        if knowledge_base:
            query = query.where(Uploads.knowledge_base == knowledge_base)
        if before is not None:
            create_time, id = before
            same_time = (Uploads.create_time == create_time) & (Uploads.id > id)
            query = query.where((Uploads.create_time < create_time) | same_time)
        with self._database.transaction(Role.APP) as transaction:
            return [_upload(row) for row in query.execute(transaction.peewee)]

    def list_rejected(self, tenant: str, id: str, after_offset_bytes: int, limit: int) -> "Sequence[StoredRejectedRow]":
        """See UploadStore."""
        query = (
            RejectedRows.select()
            .where(
                (RejectedRows.tenant == tenant)
                & (RejectedRows.upload == id)
                & (RejectedRows.offset_bytes > after_offset_bytes)
            )
            .order_by(RejectedRows.offset_bytes)
            .limit(limit)
            .dicts()
        )
        with self._database.transaction(Role.APP) as transaction:
            _find(transaction, tenant, id)
            return [
                StoredRejectedRow(
                    row["line"], row["offset_bytes"], row["length_bytes"], row["reason"], bytes(row["raw_bytes"])
                )
                for row in query.execute(transaction.peewee)
            ]

    def _index(self, upload: Upload) -> None:
        """Build the search index in a transaction of its own, unless it is built."""
        started_s = time.monotonic()
        with self._database.transaction(Role.APP, statement_timeout_s=_INDEX_TIMEOUT_S) as transaction:
            _hold_knowledge_base(transaction, upload)
            row = _lock_mine(transaction, upload)
            if row["state"] != UploadState.INDEXING.value or row["index_duration_s"] is not None:
                return
            transaction.become(Role.INGEST)
            index_segment(transaction, upload.segment)
            transaction.become(Role.APP)
            (
                Uploads.update({Uploads.index_duration_s: time.monotonic() - started_s, Uploads.update_time: fn.now()})
                .where(_is(upload.tenant, upload.id))
                .execute(transaction.peewee)
            )


def _new_row(tenant: str, request: OpenUpload) -> dict[str, object]:
    return {
        "tenant": tenant,
        "id": request.id,
        "knowledge_base": request.knowledge_base,
        "mode": request.mode.value,
        "delimiter": request.dialect.delimiter,
        "quote": request.dialect.quote,
        "has_header": request.dialect.has_header,
        "max_rejected_rows": request.max_rejected_rows,
        "segment": uuid4().hex,
    }


def _is(tenant: str, id: str) -> Any:
    return (Uploads.tenant == tenant) & (Uploads.id == id)


def _is_mine(upload: Upload) -> Any:
    """The upload, unless another stream has opened it since, or it is another one that took the name of a deleted."""
    return (
        _is(upload.tenant, upload.id)
        & (Uploads.writer_epoch == upload.writer_epoch)
        & (Uploads.segment == upload.segment)
    )


def _find(transaction: Transaction, tenant: str, id: str) -> dict[str, Any]:
    row: dict[str, Any] | None = Uploads.select().where(_is(tenant, id)).dicts().first(transaction.peewee)
    if row is None:
        raise NotFound.of(f"uploads/{id}")
    return row


def _lock(transaction: Transaction, tenant: str, id: str) -> dict[str, Any]:
    row: dict[str, Any] | None = Uploads.select().where(_is(tenant, id)).for_update().dicts().first(transaction.peewee)
    if row is None:
        # The knowledge base was deleted, and its uploads with it.
        raise NotFound.of(f"uploads/{id}")
    return row


def _lock_mine(transaction: Transaction, upload: Upload) -> dict[str, Any]:
    row = _lock(transaction, upload.tenant, upload.id)
    if (row["writer_epoch"], row["segment"]) != (upload.writer_epoch, upload.segment):
        raise _rival(upload)
    return row


def _hold_knowledge_base(transaction: Transaction, upload: Upload, lock: str = _SHARED) -> int | None:
    """Lock it before the upload, as its deletion does; returns its current version. Raises NotFound."""
    found = _lock_knowledge_base(transaction, upload.tenant, upload.knowledge_base, lock)
    if found is None:
        raise NotFound.of(f"knowledgeBases/{upload.knowledge_base}")
    return found[0]


def _lock_knowledge_base(transaction: Transaction, tenant: str, id: str, lock: Any) -> tuple[int | None] | None:
    """Its current version, while nobody else may delete it, nor publish where the lock is exclusive."""
    found: tuple[int | None] | None = (
        KnowledgeBases.select(KnowledgeBases.current_version)
        .where((KnowledgeBases.tenant == tenant) & (KnowledgeBases.id == id))
        .for_update(lock)
        .tuples()
        .first(transaction.peewee)
    )
    return found


def _rival(upload: Upload) -> RivalWriter:
    return RivalWriter(
        f"Another stream has opened {upload.name} since, or it was deleted; this one ends.", {"upload": upload.name}
    )


def _check_header(transaction: Transaction, upload: Upload, columns: Sequence[str]) -> None:
    if upload.mode is not UploadMode.APPEND:
        return
    current = (
        KnowledgeBaseVersions.select(KnowledgeBaseVersions.columns)
        .join(
            KnowledgeBases,
            on=(KnowledgeBases.tenant == KnowledgeBaseVersions.tenant)
            & (KnowledgeBases.id == KnowledgeBaseVersions.knowledge_base)
            & (KnowledgeBases.current_version == KnowledgeBaseVersions.number),
        )
        .where((KnowledgeBases.tenant == upload.tenant) & (KnowledgeBases.id == upload.knowledge_base))
        .tuples()
        .first(transaction.peewee)
    )
    expected = list(current[0]) if current else list(columns)
    if expected == list(columns):
        return
    differing = (at for at, pair in enumerate(zip(expected, columns, strict=False), start=1) if pair[0] != pair[1])
    first = next(differing, min(len(expected), len(columns)) + 1)
    name = f"knowledgeBases/{upload.knowledge_base}"
    raise HeaderConflict(
        f"{name} has {len(expected)} columns and the file {len(columns)}; they first differ at column {first}."
        " Append a file with the same columns, or replace.",
        {
            "knowledge_base": name,
            "expected_columns": len(expected),
            "received_columns": len(columns),
            "first_difference": first,
        },
    )


def _copy(transaction: Transaction, upload: Upload, batch: Batch) -> int:
    try:
        return copy_into_segment(transaction, upload.segment, batch.rows, batch.postings)
    except psycopg2.Error as error:
        if sqlstate(error) != _ROW_TOO_BIG:
            raise
        raise MalformedFile(
            f"A row before byte {batch.checkpoint.offset_bytes} has more cells than fit into a row of PostgreSQL: some"
            " hundreds where each has ten characters or more. Send fewer columns, under a new upload_id.",
            {"code": "row_too_wide", "before_byte": batch.checkpoint.offset_bytes},
        ) from error


def _insert_rejected(transaction: Transaction, upload: Upload, batch: Batch) -> None:
    if not batch.rejected:
        return
    execute_values(
        transaction.cursor(),
        "INSERT INTO dari.rejected_rows (tenant, upload, offset_bytes, line, length_bytes, reason, raw) VALUES %s",
        [
            (upload.tenant, upload.id, row.byte_offset, row.line, row.byte_length, row.reason, row.raw)
            for row in batch.rejected
        ],
        page_size=500,
    )


def _add_version(transaction: Transaction, upload: Upload, current: int | None) -> int:
    """Write the version that this upload makes; returns its number."""
    kept: list[tuple[str, int]] = []
    if upload.mode is UploadMode.APPEND and current is not None:
        kept = list(
            VersionSegments.select(VersionSegments.segment, VersionSegments.row_count)
            .where(
                (VersionSegments.tenant == upload.tenant)
                & (VersionSegments.knowledge_base == upload.knowledge_base)
                & (VersionSegments.version == current)
            )
            .order_by(VersionSegments.ordinal)
            .tuples()
            .execute(transaction.peewee)
        )
    segments = [*kept, (upload.segment, upload.rows_stored)]
    version = {"tenant": upload.tenant, "knowledge_base": upload.knowledge_base}
    number = (current or 0) + 1
    KnowledgeBaseVersions.insert(
        **version, number=number, row_count=sum(count for _, count in segments), columns=upload.columns
    ).execute(transaction.peewee)
    rows_before = 0
    for ordinal, (segment, row_count) in enumerate(segments, start=1):
        VersionSegments.insert(
            **version,
            version=number,
            ordinal=ordinal,
            segment=segment,
            rows_before=rows_before,
            row_count=row_count,
        ).execute(transaction.peewee)
        rows_before += row_count
    KnowledgeBases.update({KnowledgeBases.current_version: number}).where(
        (KnowledgeBases.tenant == upload.tenant) & (KnowledgeBases.id == upload.knowledge_base)
    ).execute(transaction.peewee)
    return number


def _complete(transaction: Transaction, upload: Upload, version: int) -> None:
    Uploads.update(
        {
            Uploads.state: UploadState.COMPLETED.value,
            Uploads.version: version,
            Uploads.complete_time: fn.now(),
            Uploads.update_time: fn.now(),
        }
    ).where(_is(upload.tenant, upload.id)).execute(transaction.peewee)


def _upload(row: dict[str, Any]) -> Upload:
    dialect = Dialect(row["delimiter"], row["quote"], row["has_header"])
    mode, state = UploadMode(row["mode"]), UploadState(row["state"])
    receipt = None
    if state is UploadState.COMPLETED:
        receipt = Receipt(
            upload=row["id"],
            knowledge_base=row["knowledge_base"],
            version=row["version"],
            mode=mode,
            size_bytes=row["committed_offset_bytes"],
            sha256=bytes(row["sha256"]),
            rows_stored=row["rows_stored"],
            rows_rejected=row["rows_rejected"],
            columns=tuple(row["columns"]),
            dialect=dialect,
            create_time=row["create_time"],
            complete_time=row["complete_time"],
            index_duration_s=row["index_duration_s"],
        )
    return Upload(
        tenant=row["tenant"],
        id=row["id"],
        knowledge_base=row["knowledge_base"],
        mode=mode,
        dialect=dialect,
        max_rejected_rows=row["max_rejected_rows"],
        state=state,
        writer_epoch=row["writer_epoch"],
        offset_bytes=row["committed_offset_bytes"],
        line=row["next_line"],
        rows_stored=row["rows_stored"],
        rows_rejected=row["rows_rejected"],
        columns=list(row["columns"]),
        sha256_state=bytes(row["sha256_state"]),
        segment=row["segment"],
        failure=row["failure"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        receipt=receipt,
    )
