"""Keeps uploads, their ledger and their rows; see `core.uploads` for the invariant that the ledger holds."""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import uuid4

import psycopg2
from peewee import fn
from psycopg2.extras import execute_values

from dari.adapters.postgres.database import Database, Role, Transaction, sqlstate
from dari.adapters.postgres.outbox_store import store_alert
from dari.adapters.postgres.segments import (
    copy_into_segment,
    create_segment,
    drop_segment,
    index_segment,
    lock_for_copy,
    lock_for_indexing,
)
from dari.adapters.postgres.tables import (
    KnowledgeBases,
    KnowledgeBaseVersions,
    RejectedRows,
    UploadBatches,
    Uploads,
    VersionSegments,
)
from dari.adapters.postgres.typed_views import publish_typed_view
from dari.core.alerts import upload_failed
from dari.core.errors import HeaderConflict, InternalError, MalformedFile, NotFound, RivalWriter, UploadConflict
from dari.core.profiles import EvidenceCodec
from dari.core.telemetry import NO_TELEMETRY, Step, Telemetry
from dari.core.uploads import (
    ALONE,
    ENDED,
    Batch,
    CommittedCheckpoint,
    Dialect,
    Move,
    OpenUpload,
    ParseOptions,
    Reading,
    Receipt,
    StoredRejectedRow,
    Turn,
    Upload,
    UploadMode,
    UploadState,
    conflict_with,
    has_ended,
)

_INDEX_TIMEOUT_S = 3_600.0
# Locks on a knowledge base. The first keeps it from being deleted, the second also from getting another version.
_SHARED = "FOR KEY SHARE"
_EXCLUSIVE = "FOR NO KEY UPDATE"
_UNDEFINED_TABLE = "42P01"
_ROW_TOO_BIG = "54000"
"""SQLSTATE of a row that fits no page of PostgreSQL, which are 8 KiB; long cells lie elsewhere, but not short ones."""


class PostgresUploadStore:
    """An UploadStore."""

    def __init__(self, database: Database, evidence: EvidenceCodec, telemetry: Telemetry = NO_TELEMETRY) -> None:
        self._telemetry = telemetry
        self._database = database
        self._evidence = evidence

    def open(self, tenant: str, request: OpenUpload) -> Upload:
        """See UploadStore."""
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            if _lock_knowledge_base(transaction, tenant, request.knowledge_base, _SHARED) is None:
                raise NotFound.of(f"knowledgeBases/{request.knowledge_base}")
            Uploads.insert(_new_row(tenant, request)).on_conflict_ignore().execute(transaction.peewee)
            upload = read_upload(_lock(transaction, tenant, request.id))
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
            return read_upload(next(iter(opened)))

    def commit(self, upload: Upload, move: Move, turn: Turn = ALONE) -> None:
        """See UploadStore."""
        with self._lost_tables_told(upload):
            self._commit(upload, move, turn)

    def fail(self, upload: Upload, failure: str) -> None:
        """See UploadStore."""
        with self._database.transaction(Role.APP, tenant=upload.tenant) as transaction:
            if _lock_knowledge_base(transaction, upload.tenant, upload.knowledge_base, _SHARED) is None:
                return
            failed = _end(transaction, UploadState.FAILED, failure, _is_mine(upload))
            if failed:
                store_alert(transaction, upload_failed(upload.tenant, upload.knowledge_base, upload.id))
        self._drop(failed)

    def cancel(self, tenant: str, id: str) -> Upload:
        """See UploadStore."""
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            upload = read_upload(_find(transaction, tenant, id))
            _hold_knowledge_base(transaction, upload)
            cancelled = _end(transaction, UploadState.CANCELLED, "", _is(tenant, id))
            upload = read_upload(_find(transaction, tenant, id))
        if upload.state is UploadState.COMPLETED:
            raise UploadConflict(
                f"{upload.name} is complete; replace its rows by another upload.",
                {"upload": upload.name, "field": "state"},
            )
        self._drop(cancelled)
        return upload

    def publish(self, upload: Upload) -> Receipt:
        """See UploadStore."""
        with self._lost_tables_told(upload):
            self._index(upload)
        with self._of_knowledge_base(upload) as transaction:
            current_version = _hold_knowledge_base(transaction, upload, _EXCLUSIVE)
            row = _lock_mine(transaction, upload)
            if row["state"] == UploadState.INDEXING.value:
                _check_header(transaction, upload, row["columns"])
                version = _add_version(transaction, read_upload(row), current_version)
                publish_typed_view(
                    transaction, self._evidence, upload.tenant, upload.knowledge_base, version, upload.segment
                )
                _complete(transaction, upload, version)
                row = _lock(transaction, upload.tenant, upload.id)
            receipt = read_upload(row).receipt
            if receipt is None:
                raise InternalError("An internal error occurred.", {"upload": upload.name})
            return receipt

    def get(self, tenant: str, id: str) -> Upload:
        """See UploadStore."""
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            return read_upload(_find(transaction, tenant, id))

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
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            return [read_upload(row) for row in query.execute(transaction.peewee)]

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
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            _find(transaction, tenant, id)
            return [
                StoredRejectedRow(
                    row["line"], row["offset_bytes"], row["length_bytes"], row["reason"], bytes(row["raw_bytes"])
                )
                for row in query.execute(transaction.peewee)
            ]

    def _commit(self, upload: Upload, move: Move, turn: Turn) -> None:
        batch, after = move.batch, move.batch.checkpoint
        with self._of_knowledge_base(upload) as transaction:
            _hold_knowledge_base(transaction, upload)
            if move.makes_tables:
                # The compare-and-set comes first here: of two streams that make the same tables one would fail late.
                _move_offset(transaction, upload, move)
                _check_header(transaction, upload, after.columns)
            if after.offset_bytes > move.since.offset_bytes:
                transaction.become(Role.INGEST)
                if move.makes_tables:
                    create_segment(
                        transaction, upload.segment, upload.tenant, upload.knowledge_base, len(after.columns)
                    )
                else:
                    turn.await_locks()
                    lock_for_copy(transaction, upload.segment)
                    turn.has_locks()
                with self._telemetry.step(Step.COPY, rows=batch.rows_stored):
                    stored = _copy(transaction, upload, move)
                if stored != batch.rows_stored:
                    raise InternalError(
                        "An internal error occurred.", {"expected_rows": batch.rows_stored, "rows": stored}
                    )
                transaction.become(Role.APP)
            if not move.makes_tables:
                turn.await_commit()
                _move_offset(transaction, upload, move)
            if after.offset_bytes > move.since.offset_bytes:
                _write_ledger(transaction, upload, move)

    @contextmanager
    def _lost_tables_told(self, upload: Upload) -> Iterator[None]:
        """Say why the tables are gone: they go with their upload, where it is cancelled, expires or is deleted."""
        try:
            yield
        except InternalError as error:
            if sqlstate(error) != _UNDEFINED_TABLE:
                raise
            with self._database.transaction(Role.APP, tenant=upload.tenant) as transaction:
                _hold_knowledge_base(transaction, upload)
                _lock_mine(transaction, upload)
            raise

    def _of_knowledge_base(
        self, upload: Upload, statement_timeout_s: float | None = None
    ) -> AbstractContextManager[Transaction]:
        """A transaction that may become the ingest role, and then see the evidence of this knowledge base."""
        return self._database.transaction(
            Role.APP,
            tenant=upload.tenant,
            knowledge_bases=[upload.knowledge_base],
            statement_timeout_s=statement_timeout_s,
        )

    def _drop(self, segments: Sequence[str]) -> None:
        """Drop the tables of uploads that have ended.

        In a transaction of its own: a batch of theirs may hold the tables, and wait for the upload. Where this is cut
        short, housekeeping finds them.
        """
        if segments:
            with self._database.transaction(Role.INGEST, tenant=None) as transaction:
                for segment in segments:
                    drop_segment(transaction, segment)

    def _index(self, upload: Upload) -> None:
        """Build the search index in a transaction of its own, unless it is built."""
        started_s = time.monotonic()
        with self._of_knowledge_base(upload, _INDEX_TIMEOUT_S) as transaction:
            _hold_knowledge_base(transaction, upload)
            if not _lacks_index(_find(transaction, upload.tenant, upload.id)):
                return
            # The tables before the upload, as a batch does: one of the stream before may hold them still, and ask for
            # the upload next, to find that it is not its own any more.
            transaction.become(Role.INGEST)
            lock_for_indexing(transaction, upload.segment)
            transaction.become(Role.APP)
            if not _lacks_index(_lock_mine(transaction, upload)):
                return
            transaction.become(Role.INGEST)
            index_segment(transaction, upload.segment, self._evidence.merge)
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
        "hints": _hints(request.options.dialect),
        "replaces_invalid_bytes": request.options.replaces_invalid_bytes,
        "keeps_ragged_rows": request.options.keeps_ragged_rows,
        "max_rejected_rows": request.max_rejected_rows,
        "max_rejected_share": request.max_rejected_share,
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
    _check_mine(row, upload)
    return row


def _check_mine(row: dict[str, Any], upload: Upload) -> None:
    """Raise UploadConflict where the upload has ended badly, RivalWriter where it is another stream's."""
    if row["segment"] == upload.segment:
        ended = has_ended(read_upload(row))
        if ended is not None:
            raise ended
    if (row["writer_epoch"], row["segment"]) != (upload.writer_epoch, upload.segment):
        raise _rival(upload)


def _lacks_index(row: dict[str, Any]) -> bool:
    return row["state"] == UploadState.INDEXING.value and row["index_duration_s"] is None


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


def _move_offset(transaction: Transaction, upload: Upload, move: Move) -> None:
    """The compare-and-set: it takes place where no other stream has opened the upload, nor moved it."""
    after = move.batch.checkpoint
    state = UploadState.OPEN if move.sha256 is None else UploadState.INDEXING
    changes: dict[Any, object] = {
        Uploads.state: state.value,
        Uploads.sha256: move.sha256,
        Uploads.committed_offset_bytes: after.offset_bytes,
        Uploads.next_line: after.line,
        Uploads.rows_stored: after.rows_stored,
        Uploads.rows_rejected: after.rows_rejected,
        Uploads.lines_set_aside: after.lines_set_aside,
        Uploads.rows_ragged: after.rows_ragged,
        Uploads.rows_repaired: after.rows_repaired,
        Uploads.rows_replaced: after.rows_replaced,
        Uploads.parser_state: after.state,
        Uploads.update_time: fn.now(),
    }
    if move.makes_tables:
        changes |= {Uploads.columns: list(after.columns), Uploads.reading: _reading_json(move.reading)}
    moved = (
        Uploads.update(changes)
        .where(
            _is_mine(upload)
            & (Uploads.committed_offset_bytes == move.since.offset_bytes)
            & (Uploads.state == UploadState.OPEN.value)
        )
        .execute(transaction.peewee)
    )
    if not moved:
        _lock_mine(transaction, upload)
        raise _rival(upload)


def _write_ledger(transaction: Transaction, upload: Upload, move: Move) -> None:
    UploadBatches.insert(
        tenant=upload.tenant,
        upload=upload.id,
        start_offset_bytes=move.since.offset_bytes,
        end_offset_bytes=move.batch.checkpoint.offset_bytes,
        rows_stored=move.batch.rows_stored,
        rows_rejected=move.batch.checkpoint.rows_rejected - move.since.rows_rejected,
    ).execute(transaction.peewee)
    _insert_rejected(transaction, upload, move.batch)


def _end(transaction: Transaction, state: UploadState, failure: str, condition: Any) -> list[str]:
    """End the uploads, but those that have ended; returns their segments, in the order in which to drop them."""
    ended = (
        Uploads.update({Uploads.state: state.value, Uploads.failure: failure, Uploads.update_time: fn.now()})
        .where(condition & Uploads.state.not_in([state.value for state in ENDED]))
        .returning(Uploads.segment)
        .tuples()
        .execute(transaction.peewee)
    )
    return sorted(segment for (segment,) in ended)


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


def _copy(transaction: Transaction, upload: Upload, move: Move) -> int:
    try:
        return copy_into_segment(transaction, upload.segment, move.since.offset_bytes, move.batch)
    except psycopg2.Error as error:
        if sqlstate(error) != _ROW_TOO_BIG:
            raise
        start, end = move.since.offset_bytes, move.batch.checkpoint.offset_bytes
        raise MalformedFile(
            f"A row between bytes {start} and {end} has more cells than fit into a row of PostgreSQL: some"
            " hundreds where each has ten characters or more. Send fewer columns, under a new upload_id.",
            {"code": "row_too_wide", "byte_offset": start, "before_byte": end},
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
    segments = [*kept, (upload.segment, upload.checkpoint.rows_stored)]
    version = {"tenant": upload.tenant, "knowledge_base": upload.knowledge_base}
    number = (current or 0) + 1
    KnowledgeBaseVersions.insert(
        **version, number=number, row_count=sum(count for _, count in segments), columns=upload.checkpoint.columns
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


def read_upload(row: dict[str, Any]) -> Upload:
    """An upload out of its row of dari.uploads."""
    state = UploadState(row["state"])
    return Upload(
        tenant=row["tenant"],
        id=row["id"],
        knowledge_base=row["knowledge_base"],
        mode=UploadMode(row["mode"]),
        options=ParseOptions(Dialect(**row["hints"]), row["replaces_invalid_bytes"], row["keeps_ragged_rows"]),
        max_rejected_rows=row["max_rejected_rows"],
        max_rejected_share=row["max_rejected_share"],
        state=state,
        writer_epoch=row["writer_epoch"],
        checkpoint=CommittedCheckpoint(
            offset_bytes=row["committed_offset_bytes"],
            line=row["next_line"],
            **_counts(row),
            columns=list(row["columns"]),
            state=bytes(row["parser_state"]),
        ),
        reading=_reading(row["reading"]),
        segment=row["segment"],
        failure=row["failure"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        receipt=_receipt(row) if state is UploadState.COMPLETED else None,
    )


def _receipt(row: dict[str, Any]) -> Receipt:
    reading = _reading(row["reading"])
    if reading is None:
        raise InternalError("An internal error occurred.", {"upload": row["id"]})
    return Receipt(
        upload=row["id"],
        knowledge_base=row["knowledge_base"],
        version=row["version"],
        mode=UploadMode(row["mode"]),
        size_bytes=row["committed_offset_bytes"],
        sha256=bytes(row["sha256"]),
        **_counts(row),
        columns=tuple(row["columns"]),
        reading=reading,
        create_time=row["create_time"],
        complete_time=row["complete_time"],
        index_duration_s=row["index_duration_s"],
    )


def _counts(row: dict[str, Any]) -> dict[str, Any]:
    names = ("rows_stored", "rows_rejected", "lines_set_aside", "rows_ragged", "rows_repaired", "rows_replaced")
    return {name: row[name] for name in names}


def _hints(dialect: Dialect) -> dict[str, object]:
    return {name: value for name, value in asdict(dialect).items() if value is not None}


def _reading(stored: dict[str, Any] | None) -> Reading | None:
    if stored is None:
        return None
    runner_up = stored["runner_up"]
    return Reading(
        Dialect(**stored["dialect"]), None if runner_up is None else Dialect(**runner_up), stored["confidence"]
    )


def _reading_json(reading: Reading | None) -> dict[str, object] | None:
    return None if reading is None else asdict(reading)
