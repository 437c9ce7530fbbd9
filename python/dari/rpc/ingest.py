"""IngestService on the wire."""

import queue
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from enum import Enum
from functools import partial

import grpc

from dari.core.errors import Cancelled, DariError, DeadlineExceeded, FailedPrecondition, FieldViolation, InvalidArgument
from dari.core.event_log import EventLog
from dari.core.profiles import Profiles
from dari.core.search import Hit, Search, named_cells
from dari.core.upload_session import Uploads, UploadSession
from dari.core.upload_watch import watch_upload
from dari.core.uploads import (
    Committed,
    Dialect,
    OpenUpload,
    ParseOptions,
    Reading,
    Receipt,
    StoredRejectedRow,
    Upload,
    UploadMode,
    UploadState,
    UploadStore,
    check_chunk,
    check_finish,
)
from dari.core.watching import Watching
from dari.rpc import callers, names
from dari.rpc.exports import ExportCalls
from dari.rpc.profiles import get_profile
from dari.rpc.times import duration, timestamp
from dari.v1 import ingest_pb2 as pb
from dari.v1 import ingest_pb2_grpc

_MAX_KNOWLEDGE_BASES = 100
_MAX_QUERY_BYTES = 32_768
_MAX_HITS = 100
_DEFAULT_HITS = 10
_NONE = "none"


class IngestService(ingest_pb2_grpc.IngestServiceServicer):
    """Message in, core call, message out; see ingest.proto."""

    def __init__(
        self,
        *,
        uploads: Uploads,
        store: UploadStore,
        watching: Watching,
        search: Search,
        exports: ExportCalls,
        profiles: Profiles,
        log: EventLog,
        idle_timeout_s: float,
        max_rejected_rows: int,
        max_rejected_share: float,
    ) -> None:
        self._uploads = uploads
        self._store = store
        self._watching = watching
        self._search = search
        self._exports = exports
        self._profiles = profiles
        self._log = log
        self._idle_timeout_s = idle_timeout_s
        self._max_rejected_rows = max_rejected_rows
        self._max_rejected_share = max_rejected_share

    def Ingest(
        self, request_iterator: Iterator[pb.IngestRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.IngestResponse]:
        """See ingest.proto."""
        with _inbox(request_iterator, self._idle_timeout_s) as inbox:
            request = self._open_request(inbox.take("open"))
            with self._uploads.open(callers.tenant_of(context), request, inbox.wake) as opened:
                if isinstance(opened, Receipt):
                    yield _opened(f"uploads/{opened.upload}", opened.size_bytes)
                    yield _completed(opened)
                    return
                upload = opened.upload
                self._log.info("upload_opened", upload=upload.name, committed_offset=opened.committed_offset_bytes)
                yield _opened(upload.name, opened.committed_offset_bytes)
                yield from self._work(opened, inbox)

    def GetUpload(self, request: pb.GetUploadRequest, context: grpc.ServicerContext) -> pb.GetUploadResponse:
        """See ingest.proto."""
        id = names.upload_id("name", request.name)
        return pb.GetUploadResponse(upload=_upload(self._store.get(callers.tenant_of(context), id)))

    def ListUploads(self, request: pb.ListUploadsRequest, context: grpc.ServicerContext) -> pb.ListUploadsResponse:
        """See ingest.proto."""
        size = names.page_size(request.page_size)
        base = names.optional_resource_id("knowledge_base", request.knowledge_base, "knowledgeBases")
        before = names.read_time_token(request.page_token)
        found = self._store.list(callers.tenant_of(context), base, before, size + 1)
        uploads, token = names.page(found, size, _upload, lambda upload: (upload.create_time.isoformat(), upload.id))
        return pb.ListUploadsResponse(uploads=uploads, next_page_token=token)

    def WatchUpload(
        self, request: pb.WatchUploadRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchUploadResponse]:
        """See ingest.proto."""
        id = names.upload_id("name", request.name)
        with closing(self._watching.looks(partial(callers.call_when_left, context))) as looks:
            for upload in watch_upload(partial(self._store.get, callers.tenant_of(context), id), looks):
                yield pb.WatchUploadResponse(upload=_upload(upload))

    def CancelUpload(self, request: pb.CancelUploadRequest, context: grpc.ServicerContext) -> pb.CancelUploadResponse:
        """See ingest.proto."""
        upload = self._store.cancel(callers.tenant_of(context), names.upload_id("name", request.name))
        self._log.info("upload_cancelled", upload=upload.name, state=upload.state.value)
        return pb.CancelUploadResponse(upload=_upload(upload))

    def ListRejectedRows(
        self, request: pb.ListRejectedRowsRequest, context: grpc.ServicerContext
    ) -> pb.ListRejectedRowsResponse:
        """See ingest.proto."""
        size = names.page_size(request.page_size)
        id = names.upload_id("upload", request.upload)
        after = names.read_offset_token(request.page_token)
        found = self._store.list_rejected(callers.tenant_of(context), id, after, size + 1)
        rows, token = names.page(found, size, _rejected_row, lambda row: (str(row.byte_offset),))
        return pb.ListRejectedRowsResponse(rejected_rows=rows, next_page_token=token)

    def ExportRejectedRows(
        self, request: pb.ExportRejectedRowsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ExportRejectedRowsResponse]:
        """See ingest.proto."""
        return self._exports.rejected_rows(callers.tenant_of(context), request, context.cancel)

    def ExportRows(
        self, request: pb.ExportRowsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ExportRowsResponse]:
        """See ingest.proto."""
        return self._exports.rows(callers.tenant_of(context), request, context.cancel)

    def GetProfile(self, request: pb.GetProfileRequest, context: grpc.ServicerContext) -> pb.GetProfileResponse:
        """See ingest.proto."""
        return get_profile(self._profiles, callers.tenant_of(context), request)

    def Search(self, request: pb.SearchRequest, context: grpc.ServicerContext) -> pb.SearchResponse:
        """See ingest.proto."""
        bases = _check_search(request)
        limit = request.limit or _DEFAULT_HITS
        hits = self._search.find(callers.tenant_of(context), sorted(bases), request.query, limit, must_exist=True)
        return pb.SearchResponse(hits=names.fitting(map(_hit, hits)))

    def _open_request(self, message: pb.IngestRequest) -> OpenUpload:
        opening = message.open
        base = names.id_in(opening.knowledge_base, "knowledgeBases")
        request = OpenUpload(
            id=opening.upload_id,
            knowledge_base=base,
            mode=_MODES.get(opening.mode, UploadMode.REPLACE),
            options=ParseOptions(
                _hints(opening.dialect),
                replaces_invalid_bytes=opening.invalid_bytes == pb.INVALID_BYTES_REPLACE,
                keeps_ragged_rows=opening.ragged_rows != pb.RAGGED_ROWS_REJECT,
            ),
            max_rejected_rows=(
                opening.max_rejected_rows if opening.HasField("max_rejected_rows") else self._max_rejected_rows
            ),
            max_rejected_share=(
                opening.max_rejected_share if opening.HasField("max_rejected_share") else self._max_rejected_share
            ),
        )
        violations = list(request.violations())
        if not base:
            violations.append(names.wrong_name("open.knowledge_base", "knowledgeBases"))
        if opening.mode not in _MODES:
            violations.append(FieldViolation("open.mode", "must be REPLACE or APPEND"))
        for field, value, choices in (
            ("dialect.encoding", opening.dialect.encoding, pb.Encoding),
            ("invalid_bytes", opening.invalid_bytes, pb.InvalidBytes),
            ("ragged_rows", opening.ragged_rows, pb.RaggedRows),
        ):
            if value not in choices.values():
                violations.append(FieldViolation(f"open.{field}", "must be a value of its enum"))
        if violations:
            raise InvalidArgument.of(*violations)
        return request

    def _work(self, session: UploadSession, inbox: "_Inbox") -> Iterator[pb.IngestResponse]:
        while True:
            try:
                message = inbox.take_or_wake("chunk", "finish")
            except DariError as error:
                error.metadata["committed_offset"] = str(session.committed_offset_bytes)
                raise
            if message is None:
                yield from map(_committed, session.committed())
                continue
            if message.HasField("chunk"):
                check_chunk(message.chunk.offset_bytes, message.chunk.data)
                yield from map(_committed, session.chunk(message.chunk.offset_bytes, message.chunk.data))
                continue
            check_finish(message.finish.total_size_bytes, message.finish.sha256)
            for step in session.finish(message.finish.total_size_bytes, message.finish.sha256):
                if isinstance(step, Committed):
                    yield _committed(step)
                    continue
                self._log.info(
                    "upload_completed",
                    upload=session.upload.name,
                    version=step.version,
                    size_bytes=step.size_bytes,
                    rows_stored=step.rows_stored,
                    rows_rejected=step.rows_rejected,
                    lines_set_aside=step.lines_set_aside,
                )
                yield _completed(step)
            return


class _Inbox:
    """A client's messages, read on a thread of its own, so that waiting for one can come to an end.

    One message is read ahead, no more: what the client sends beyond it stays in gRPC's flow control.
    """

    def __init__(self, requests: Iterator[pb.IngestRequest], idle_timeout_s: float) -> None:
        self._requests = requests
        self._idle_timeout_s = idle_timeout_s
        self._queue: queue.SimpleQueue[pb.IngestRequest | Exception | _Sign] = queue.SimpleQueue()
        self._room = threading.Semaphore(1)
        self._closed = False
        threading.Thread(target=self._read, name="ingest-inbox", daemon=True).start()

    def take(self, *expected: str) -> pb.IngestRequest:
        """As `take_or_wake`, whoever calls `wake`."""
        while (message := self.take_or_wake(*expected)) is None:
            pass
        return message

    def take_or_wake(self, *expected: str) -> pb.IngestRequest | None:
        """The next message, which must be of a kind named in `expected`; None where `wake` was called before it came.

        Raises DeadlineExceeded after the idle timeout, Cancelled where the client left, FailedPrecondition where it
        ended the stream too early, InvalidArgument for a message of another kind.
        """
        try:
            message = self._queue.get(timeout=self._idle_timeout_s)
        except queue.Empty:
            raise DeadlineExceeded(
                f"The client sent nothing for {self._idle_timeout_s:g} s; open the upload again to go on.",
                {"idle_timeout_s": f"{self._idle_timeout_s:g}"},
            ) from None
        if message is _Sign.WAKE:
            return None
        if isinstance(message, Exception):
            raise Cancelled("The client went away.") from message
        kinds = " or ".join(expected)
        if isinstance(message, _Sign):
            raise FailedPrecondition(
                f"The stream ended where {kinds} was expected; open the upload again to go on.", {"expected": kinds}
            )
        self._room.release()
        if message.WhichOneof("message") not in expected:
            raise InvalidArgument.of(FieldViolation("message", f"must be {kinds}"))
        return message

    def wake(self) -> None:
        """Let `take_or_wake` return. From any thread."""
        self._queue.put(_Sign.WAKE)

    def close(self) -> None:
        """Let the reading thread end."""
        self._closed = True
        self._room.release()

    def _read(self) -> None:
        try:
            for message in self._requests:
                self._room.acquire()
                if self._closed:
                    return
                self._queue.put(message)
            self._queue.put(_Sign.END)
        except Exception as error:  # noqa: BLE001 - gRPC ends the iterator of a cancelled call by a bare Exception
            self._queue.put(error)


class _Sign(Enum):
    """What stands in an inbox beside messages."""

    WAKE = "wake"
    END = "end"


@contextmanager
def _inbox(requests: Iterator[pb.IngestRequest], idle_timeout_s: float) -> Iterator[_Inbox]:
    inbox = _Inbox(requests, idle_timeout_s)
    try:
        yield inbox
    finally:
        inbox.close()


_MODES = {
    pb.UPLOAD_MODE_REPLACE: UploadMode.REPLACE,
    pb.UPLOAD_MODE_APPEND: UploadMode.APPEND,
}
_ENCODINGS = {
    "ascii": pb.ENCODING_ASCII,
    "utf-8": pb.ENCODING_UTF_8,
    "utf-16le": pb.ENCODING_UTF_16LE,
    "utf-16be": pb.ENCODING_UTF_16BE,
    "cp949": pb.ENCODING_CP949,
    "shift_jis": pb.ENCODING_SHIFT_JIS,
    "gb18030": pb.ENCODING_GB18030,
    "windows-1252": pb.ENCODING_WINDOWS_1252,
}
_ENCODING_NAMES = {value: name for name, value in _ENCODINGS.items()}


def _hints(message: pb.Dialect) -> Dialect:
    """What is not set stays None; an encoding that the enum does not know, too."""
    given = {field.name: value for field, value in message.ListFields() if field.name != "encoding"}
    for field in ("quote", "escape", "comment"):
        if given.get(field) == _NONE:
            given[field] = ""
        elif given.get(field) == "":
            del given[field]
    return Dialect(encoding=_ENCODING_NAMES.get(message.encoding), **given)


def _dialect(dialect: Dialect) -> pb.Dialect:
    return pb.Dialect(
        encoding=_ENCODINGS.get(dialect.encoding or "", pb.ENCODING_UNSPECIFIED),
        delimiter=dialect.delimiter,
        quote=dialect.quote or _NONE,
        escape=dialect.escape or _NONE,
        comment=dialect.comment or _NONE,
        trims_blanks=dialect.trims_blanks,
        preamble_lines=dialect.preamble_lines,
        header_rows=dialect.header_rows,
    )


def _reading(reading: Reading) -> pb.Reading:
    return pb.Reading(
        dialect=_dialect(reading.dialect),
        runner_up=None if reading.runner_up is None else _dialect(reading.runner_up),
        confidence=reading.confidence,
    )


def _check_search(request: pb.SearchRequest) -> set[str]:
    """The ids of the knowledge bases. Raises InvalidArgument."""
    violations = []
    if not 1 <= len(request.knowledge_bases) <= _MAX_KNOWLEDGE_BASES:
        violations.append(FieldViolation("knowledge_bases", f"must name 1 to {_MAX_KNOWLEDGE_BASES}"))
    bases = [names.id_in(name, "knowledgeBases") for name in request.knowledge_bases[:_MAX_KNOWLEDGE_BASES]]
    wrong = (at for at, base in enumerate(bases) if not base)
    violations += (names.wrong_name(f"knowledge_bases[{at}]", "knowledgeBases") for at in wrong)
    if not 1 <= len(request.query.encode()) <= _MAX_QUERY_BYTES:
        violations.append(FieldViolation("query", f"must have 1 to {_MAX_QUERY_BYTES} bytes"))
    if not 0 <= request.limit <= _MAX_HITS:
        violations.append(FieldViolation("limit", f"must be 1 to {_MAX_HITS}"))
    if violations:
        raise InvalidArgument.of(*violations)
    return set(bases)


def _opened(upload: str, offset_bytes: int) -> pb.IngestResponse:
    return pb.IngestResponse(opened=pb.UploadOpened(upload=upload, committed_offset_bytes=offset_bytes))


def _committed(committed: Committed) -> pb.IngestResponse:
    return pb.IngestResponse(
        committed=pb.BatchCommitted(
            offset_bytes=committed.offset_bytes,
            rows_stored=committed.rows_stored,
            rows_rejected=committed.rows_rejected,
        )
    )


def _completed(receipt: Receipt) -> pb.IngestResponse:
    return pb.IngestResponse(completed=pb.UploadCompleted(receipt=_receipt(receipt)))


def _receipt(receipt: Receipt) -> pb.Receipt:
    return pb.Receipt(
        upload=f"uploads/{receipt.upload}",
        knowledge_base=f"knowledgeBases/{receipt.knowledge_base}",
        version=receipt.version,
        mode=pb.UploadMode.Value(f"UPLOAD_MODE_{receipt.mode.value}"),
        size_bytes=receipt.size_bytes,
        sha256=receipt.sha256,
        rows_stored=receipt.rows_stored,
        rows_rejected=receipt.rows_rejected,
        columns=receipt.columns,
        reading=_reading(receipt.reading),
        lines_set_aside=receipt.lines_set_aside,
        rows_ragged=receipt.rows_ragged,
        rows_repaired=receipt.rows_repaired,
        rows_replaced=receipt.rows_replaced,
        create_time=timestamp(receipt.create_time),
        complete_time=timestamp(receipt.complete_time),
        index_duration=duration(receipt.index_duration_s),
    )


def _upload(upload: Upload) -> pb.Upload:
    return pb.Upload(
        name=upload.name,
        knowledge_base=f"knowledgeBases/{upload.knowledge_base}",
        mode=pb.UploadMode.Value(f"UPLOAD_MODE_{upload.mode.value}"),
        state=pb.UploadState.Value(f"UPLOAD_STATE_{upload.state.value}"),
        committed_offset_bytes=upload.checkpoint.offset_bytes,
        rows_stored=upload.checkpoint.rows_stored,
        rows_rejected=upload.checkpoint.rows_rejected,
        failure=upload.failure if upload.state is UploadState.FAILED else "",
        create_time=timestamp(upload.create_time),
        update_time=timestamp(upload.update_time),
        receipt=None if upload.receipt is None else _receipt(upload.receipt),
    )


def _rejected_row(row: StoredRejectedRow) -> pb.RejectedRow:
    return pb.RejectedRow(
        line=row.line,
        offset_bytes=row.byte_offset,
        length_bytes=row.byte_length,
        reason=pb.RejectionReason.Value(f"REJECTION_REASON_{row.reason.upper()}"),
        raw=row.raw,
    )


def _hit(hit: Hit) -> pb.SearchHit:
    return pb.SearchHit(
        knowledge_base=f"knowledgeBases/{hit.knowledge_base}",
        version=hit.version,
        row_number=hit.row_number,
        score=hit.score,
        cells=[pb.Cell(column=column, text=text) for column, text in named_cells(hit.columns, hit.cells)],
    )
