"""A dari made of dictionaries, on a real gRPC server, for tests of the client and the command line.

It keeps the Ingest protocol as ingest.proto tells it: offsets, resume at the last whole line of a batch, receipts that
are given again, checksums, rivals, other columns. `faults` says which stream breaks, where, and how. Rows are lines,
and the first line of a file is its columns; nothing else is parsed. What a server finds out by parsing, a test puts in:
`findings`, `rejected_rows`, `profile`.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc
from google.protobuf import any_pb2
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from dari.v1 import chat_pb2, chat_pb2_grpc, ingest_pb2, ingest_pb2_grpc, mapping_pb2, mapping_pb2_grpc


@dataclass(frozen=True)
class Fault:
    """Breaks one Ingest stream."""

    after_bytes: int
    """When so many bytes of the stream have come; 0 at `open`; -1 after `finish`, before the receipt."""
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    reason: str = "UNAVAILABLE"


@dataclass
class FakeUpload:
    """What the fake knows of an upload."""

    opening: ingest_pb2.OpenUpload
    safe: bytearray = field(default_factory=bytearray)
    """The committed bytes."""
    writer: object = None
    """The stream that opened it last."""
    receipt: ingest_pb2.Receipt | None = None
    is_cancelled: bool = False


def refuse(
    context: grpc.ServicerContext,
    code: grpc.StatusCode,
    reason: str,
    message: str,
    metadata: dict[str, str] | None = None,
    violations: tuple[tuple[str, str], ...] = (),
) -> NoReturn:
    """End a call the way dari does: google.rpc.Status with one ErrorInfo, and a BadRequest where fields are wrong."""
    details = [ErrorInfo(reason=reason, domain="dari", metadata=metadata or {})] if reason else []
    wrong = [BadRequest.FieldViolation(field=name, description=text) for name, text in violations]
    status = Status(code=Code.Value(code.name), message=message)
    for detail in [*details, *([BadRequest(field_violations=wrong)] if wrong else [])]:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status raises")


class FakeIngest(ingest_pb2_grpc.IngestServiceServicer):
    """IngestService over byte arrays."""

    def __init__(self, batch_bytes: int, versions: dict[str, int]) -> None:
        self.batch_bytes = batch_bytes
        self.uploads: dict[str, FakeUpload] = {}
        self.versions = versions
        self.faults: deque[Fault] = deque()
        self.openings: list[ingest_pb2.OpenUpload] = []
        self.chunks_taken = 0
        self.may_take = threading.Event()
        """Cleared, the server takes no further chunk: a database that does not move."""
        self.may_take.set()
        self.opened = threading.Event()
        """Set once a client's first bytes came, which it sends when it has the answer to `open`."""
        self.findings = ingest_pb2.Receipt()
        """Merged into every receipt."""
        self.rejected_rows: list[ingest_pb2.RejectedRow] = []
        """Of every upload."""
        self.files: dict[tuple[str, int], bytes] = {}
        """What ExportRows gives, by knowledge base and version."""
        self.export_piece_bytes = 10
        self.exports: list[ingest_pb2.ExportRowsRequest] = []
        self.export_breaks = False
        """Every export breaks after its first piece."""
        self.profile = ingest_pb2.Profile()
        self.watched: deque[list[ingest_pb2.Upload | grpc.StatusCode]] = deque()
        """What each WatchUpload gives, one list a call; it ends with the status, or OK behind the last upload."""

    def Ingest(
        self, requests: Iterator[ingest_pb2.IngestRequest], context: grpc.ServicerContext
    ) -> Iterator[ingest_pb2.IngestResponse]:
        opening = next(requests).open
        self.openings.append(opening)
        fault = self.faults.popleft() if self.faults else None
        if opening.knowledge_base not in self.versions:
            name = opening.knowledge_base
            refuse(context, grpc.StatusCode.NOT_FOUND, "NOT_FOUND", f"{name} does not exist.", {"resource": name})
        if fault and fault.after_bytes == 0:
            self._break(context, fault)
        known = self.uploads.setdefault(opening.upload_id, FakeUpload(opening))
        if known.opening != opening:
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_CONFLICT", "Opened before otherwise.")
        if known.is_cancelled:
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_CONFLICT", "The upload was cancelled.")
        if known.receipt is not None:
            yield ingest_pb2.IngestResponse(completed=ingest_pb2.UploadCompleted(receipt=known.receipt))
            return
        yield from self._take(known, requests, context, fault)

    def _take(
        self,
        known: FakeUpload,
        requests: Iterator[ingest_pb2.IngestRequest],
        context: grpc.ServicerContext,
        fault: Fault | None,
    ) -> Iterator[ingest_pb2.IngestResponse]:
        known.writer = context
        yield ingest_pb2.IngestResponse(
            opened=ingest_pb2.UploadOpened(
                upload=f"uploads/{known.opening.upload_id}", committed_offset_bytes=len(known.safe)
            )
        )
        pending, came = bytearray(), 0
        for request in requests:
            self.opened.set()
            self.may_take.wait()
            if known.writer is not context:
                refuse(context, grpc.StatusCode.ABORTED, "RIVAL_WRITER", "Another stream took the upload over.")
            if request.HasField("finish"):
                if fault and fault.after_bytes == -1:
                    self._commit(known, pending, len(pending))
                    self._break(context, fault)
                yield from self._finish(known, pending, request.finish, context)
                return
            self.chunks_taken += 1
            expected = len(known.safe) + len(pending)
            chunk = request.chunk
            if chunk.offset_bytes > expected:
                refuse(
                    context, grpc.StatusCode.OUT_OF_RANGE, "OFFSET_GAP", "A gap.", {"expected_offset": str(expected)}
                )
            came += len(chunk.data)
            if fault and 0 < fault.after_bytes <= came:
                self._break(context, fault)
            pending += chunk.data[expected - chunk.offset_bytes :]
            if len(pending) >= self.batch_bytes and b"\n" in pending:
                self._commit(known, pending, pending.rindex(b"\n") + 1)
                yield self._committed(known)

    @staticmethod
    def _break(context: grpc.ServicerContext, fault: Fault) -> NoReturn:
        refuse(context, fault.code, fault.reason, "The fault that the test ordered.", {"neighbour": "database"})

    @staticmethod
    def _commit(known: FakeUpload, pending: bytearray, length: int) -> None:
        known.safe += pending[:length]
        del pending[:length]

    @staticmethod
    def _committed(known: FakeUpload) -> ingest_pb2.IngestResponse:
        rows = known.safe.count(b"\n")
        return ingest_pb2.IngestResponse(
            committed=ingest_pb2.BatchCommitted(offset_bytes=len(known.safe), rows_stored=rows, rows_rejected=0)
        )

    def _finish(
        self,
        known: FakeUpload,
        pending: bytearray,
        finish: ingest_pb2.FinishUpload,
        context: grpc.ServicerContext,
    ) -> Iterator[ingest_pb2.IngestResponse]:
        self._commit(known, pending, len(pending))
        digest = hashlib.sha256(known.safe).digest()
        if finish.total_size_bytes != len(known.safe) or finish.sha256 != digest:
            refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "CHECKSUM_MISMATCH", "Other bytes came.")
        yield self._committed(known)
        name = known.opening.knowledge_base
        columns, _, rows = bytes(known.safe).partition(b"\n")
        before = self.files.get((name, self.versions[name]))
        if known.opening.mode == ingest_pb2.UPLOAD_MODE_APPEND and before is not None:
            if columns != before.partition(b"\n")[0]:
                refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "HEADER_CONFLICT", "The columns are others.")
            rows = before.partition(b"\n")[2] + rows
        self.versions[name] += 1
        self.files[name, self.versions[name]] = columns + b"\n" + rows
        known.receipt = ingest_pb2.Receipt(
            upload=f"uploads/{known.opening.upload_id}",
            knowledge_base=name,
            version=self.versions[name],
            mode=known.opening.mode,
            size_bytes=len(known.safe),
            sha256=digest,
            rows_stored=known.safe.count(b"\n"),
            columns=columns.decode(errors="replace").split(","),
        )
        known.receipt.MergeFrom(self.findings)
        yield ingest_pb2.IngestResponse(completed=ingest_pb2.UploadCompleted(receipt=known.receipt))

    def GetUpload(
        self, request: ingest_pb2.GetUploadRequest, context: grpc.ServicerContext
    ) -> ingest_pb2.GetUploadResponse:
        return ingest_pb2.GetUploadResponse(upload=self._upload(self._known(request.name, context)))

    def ListUploads(
        self, request: ingest_pb2.ListUploadsRequest, context: grpc.ServicerContext
    ) -> ingest_pb2.ListUploadsResponse:
        """Pages of three, newest first."""
        del context
        uploads = [
            self._upload(known)
            for known in reversed(self.uploads.values())
            if request.knowledge_base in ("", known.opening.knowledge_base)
        ]
        at = int(request.page_token or 0)
        following = str(at + 3) if at + 3 < len(uploads) else ""
        return ingest_pb2.ListUploadsResponse(uploads=uploads[at : at + 3], next_page_token=following)

    def WatchUpload(
        self, request: ingest_pb2.WatchUploadRequest, context: grpc.ServicerContext
    ) -> Iterator[ingest_pb2.WatchUploadResponse]:
        for step in self.watched.popleft():
            if isinstance(step, grpc.StatusCode):
                refuse(context, step, step.name, "The fault that the test ordered.")
            yield ingest_pb2.WatchUploadResponse(upload=step)

    def CancelUpload(
        self, request: ingest_pb2.CancelUploadRequest, context: grpc.ServicerContext
    ) -> ingest_pb2.CancelUploadResponse:
        known = self._known(request.name, context)
        if known.receipt is not None:
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_CONFLICT", "The upload is complete.")
        known.is_cancelled = True
        return ingest_pb2.CancelUploadResponse(upload=self._upload(known))

    def ListRejectedRows(
        self, request: ingest_pb2.ListRejectedRowsRequest, context: grpc.ServicerContext
    ) -> ingest_pb2.ListRejectedRowsResponse:
        """Pages of two at most."""
        self._known(request.upload, context)
        at, most = int(request.page_token or 0), min(2, request.page_size)
        following = str(at + most) if at + most < len(self.rejected_rows) else ""
        return ingest_pb2.ListRejectedRowsResponse(
            rejected_rows=self.rejected_rows[at : at + most], next_page_token=following
        )

    def ExportRejectedRows(
        self, request: ingest_pb2.ExportRejectedRowsRequest, context: grpc.ServicerContext
    ) -> Iterator[ingest_pb2.ExportRejectedRowsResponse]:
        self._known(request.upload, context)
        text = b"line,offset_bytes,length_bytes,reason,raw\n"
        for row in self.rejected_rows:
            reason = ingest_pb2.RejectionReason.Name(row.reason).removeprefix("REJECTION_REASON_").lower()
            raw = row.raw.decode().replace('"', '""')
            text += f'{row.line},{row.offset_bytes},{row.length_bytes},{reason},"{raw}"\n'.encode()
        for piece in self._pieces(text, context):
            yield ingest_pb2.ExportRejectedRowsResponse(data=piece)

    def ExportRows(
        self, request: ingest_pb2.ExportRowsRequest, context: grpc.ServicerContext
    ) -> Iterator[ingest_pb2.ExportRowsResponse]:
        self.exports.append(request)
        name = request.knowledge_base
        if name not in self.versions:
            refuse(context, grpc.StatusCode.NOT_FOUND, "NOT_FOUND", f"{name} does not exist.", {"resource": name})
        for piece in self._pieces(self.files[name, request.version or self.versions[name]], context):
            yield ingest_pb2.ExportRowsResponse(data=piece)

    def GetProfile(
        self, request: ingest_pb2.GetProfileRequest, context: grpc.ServicerContext
    ) -> ingest_pb2.GetProfileResponse:
        del request, context
        return ingest_pb2.GetProfileResponse(profile=self.profile)

    def _pieces(self, text: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for start in range(0, len(text), self.export_piece_bytes):
            yield text[start : start + self.export_piece_bytes]
            if self.export_breaks:
                refuse(context, grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "The fault that the test ordered.")

    def _known(self, name: str, context: grpc.ServicerContext) -> FakeUpload:
        known = self.uploads.get(name.removeprefix("uploads/"))
        if known is None:
            refuse(context, grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "No such upload.", {"resource": name})
        return known

    @staticmethod
    def _upload(known: FakeUpload) -> ingest_pb2.Upload:
        return ingest_pb2.Upload(
            name=f"uploads/{known.opening.upload_id}",
            knowledge_base=known.opening.knowledge_base,
            mode=known.opening.mode,
            state=ingest_pb2.UPLOAD_STATE_CANCELLED
            if known.is_cancelled
            else ingest_pb2.UPLOAD_STATE_COMPLETED
            if known.receipt
            else ingest_pb2.UPLOAD_STATE_OPEN,
            committed_offset_bytes=len(known.safe),
            rows_stored=known.safe.count(b"\n"),
            receipt=known.receipt,
        )


class FakeChat(chat_pb2_grpc.ChatServiceServicer):
    """ChatService that plays `script`: events, or an exception-like call on the context."""

    def __init__(self) -> None:
        self.requests: list[chat_pb2.ChatRequest] = []
        self.script: Callable[[chat_pb2.ChatRequest, grpc.ServicerContext], Iterator[chat_pb2.ChatResponse]] = (
            lambda request, context: iter(())
        )
        self.upstreams: list[chat_pb2.Upstream] = []
        self.changes: list[list[chat_pb2.Upstream]] = []
        """What WatchUpstreams tells behind `upstreams`, before the server stops."""
        self.goes_on = threading.Event()
        """Cleared, WatchUpstreams has no end."""
        self.goes_on.set()
        self.accept_languages: list[str] = []
        """Of each Chat that named one."""

    def Chat(self, request: chat_pb2.ChatRequest, context: grpc.ServicerContext) -> Iterator[chat_pb2.ChatResponse]:
        self.requests.append(request)
        named = [str(value) for key, value in context.invocation_metadata() if key == "accept-language"]
        self.accept_languages.extend(named)
        yield from self.script(request, context)

    def ListUpstreams(
        self, request: chat_pb2.ListUpstreamsRequest, context: grpc.ServicerContext
    ) -> chat_pb2.ListUpstreamsResponse:
        del request, context
        return chat_pb2.ListUpstreamsResponse(upstreams=self.upstreams)

    def WatchUpstreams(
        self, request: chat_pb2.WatchUpstreamsRequest, context: grpc.ServicerContext
    ) -> Iterator[chat_pb2.WatchUpstreamsResponse]:
        for told in (self.upstreams, *self.changes):
            yield chat_pb2.WatchUpstreamsResponse(upstreams=told)
        self.goes_on.wait()
        refuse(context, grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "This server is stopping; watch again.")


class FakeMapping(mapping_pb2_grpc.MappingServiceServicer):
    """MappingService over dictionaries of messages; links and grants are remembered as they were asked for."""

    def __init__(self, versions: dict[str, int]) -> None:
        self.syncs: list[mapping_pb2.Sync] = []
        self.versions = versions
        self.made: dict[str, Any] = {}
        self.asked: list[Any] = []
        self.resolved = mapping_pb2.ResolveChatConfigurationResponse()
        """Of every chat configuration."""

    def _make(self, name: str, message: Any, context: grpc.ServicerContext) -> Any:
        if name in self.made:
            refuse(context, grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS", f"{name} exists.", {"resource": name})
        message.name = name
        self.made[name] = message
        return message

    def _get(self, name: str, context: grpc.ServicerContext) -> Any:
        if name not in self.made:
            refuse(context, grpc.StatusCode.NOT_FOUND, "NOT_FOUND", f"{name} does not exist.", {"resource": name})
        return self.made[name]

    def CreateAiModel(self, request: Any, context: grpc.ServicerContext) -> Any:
        if not request.ai_model_id.replace("-", "").isalnum():
            refuse(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                "INVALID_FIELD",
                "ai_model_id: must be a-z, 0-9 and '-'",
                {"fields": "ai_model_id"},
                (("ai_model_id", "must be a-z, 0-9 and '-'"),),
            )
        made = self._make(f"aiModels/{request.ai_model_id}", request.ai_model, context)
        return mapping_pb2.CreateAiModelResponse(ai_model=made)

    def CreateChatConfiguration(self, request: Any, context: grpc.ServicerContext) -> Any:
        name = f"chatConfigurations/{request.chat_configuration_id}"
        made = self._make(name, request.chat_configuration, context)
        return mapping_pb2.CreateChatConfigurationResponse(chat_configuration=made)

    def CreateKnowledgeBase(self, request: Any, context: grpc.ServicerContext) -> Any:
        name = f"knowledgeBases/{request.knowledge_base_id}"
        made = self._make(name, request.knowledge_base, context)
        self.versions[name] = 0
        return mapping_pb2.CreateKnowledgeBaseResponse(knowledge_base=made)

    def GetKnowledgeBase(self, request: Any, context: grpc.ServicerContext) -> Any:
        if request.name in self.versions:
            base = mapping_pb2.KnowledgeBase(name=request.name, current_version=self.versions[request.name])
            return mapping_pb2.GetKnowledgeBaseResponse(knowledge_base=base)
        return mapping_pb2.GetKnowledgeBaseResponse(knowledge_base=self._get(request.name, context))

    def GetAiModel(self, request: Any, context: grpc.ServicerContext) -> Any:
        return mapping_pb2.GetAiModelResponse(ai_model=self._get(request.name, context))

    def ListSyncs(self, request: Any, context: grpc.ServicerContext) -> Any:
        return mapping_pb2.ListSyncsResponse(syncs=self.syncs)

    def ListAiModels(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Pages of one, so that a client that reads only the first page is found out."""
        del context
        models = [made for name, made in sorted(self.made.items()) if name.startswith("aiModels/")]
        at = int(request.page_token or 0)
        following = str(at + 1) if at + 1 < len(models) else ""
        return mapping_pb2.ListAiModelsResponse(ai_models=models[at : at + 1], next_page_token=following)

    def ListChatConfigurations(self, request: Any, context: grpc.ServicerContext) -> Any:
        del request, context
        made = [made for name, made in sorted(self.made.items()) if name.startswith("chatConfigurations/")]
        return mapping_pb2.ListChatConfigurationsResponse(chat_configurations=made)

    def ListKnowledgeBases(self, request: Any, context: grpc.ServicerContext) -> Any:
        del request, context
        made = [made for name, made in sorted(self.made.items()) if name.startswith("knowledgeBases/")]
        return mapping_pb2.ListKnowledgeBasesResponse(knowledge_bases=made)

    def DeleteAiModel(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._get(request.name, context)
        if not request.force:
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "STILL_LINKED", "It is linked.", {"links": "x"})
        del self.made[request.name]
        return mapping_pb2.DeleteAiModelResponse()

    def LinkAiModel(self, request: Any, context: grpc.ServicerContext) -> Any:
        del context
        self.asked.append(request)
        link = mapping_pb2.AiModelLink(
            chat_configuration=request.chat_configuration,
            ai_model=request.ai_model,
            priority=request.priority,
            disabled=request.disabled,
        )
        return mapping_pb2.LinkAiModelResponse(link=link)

    def LinkKnowledgeBase(self, request: Any, context: grpc.ServicerContext) -> Any:
        del context
        self.asked.append(request)
        link = mapping_pb2.KnowledgeBaseLink(
            chat_configuration=request.chat_configuration,
            knowledge_base=request.knowledge_base,
            effect=request.effect,
        )
        return mapping_pb2.LinkKnowledgeBaseResponse(link=link)

    def GrantKnowledgeBase(self, request: Any, context: grpc.ServicerContext) -> Any:
        del context
        self.asked.append(request)
        grant = mapping_pb2.KnowledgeBaseGrant(
            ai_model=request.ai_model, knowledge_base=request.knowledge_base, effect=request.effect
        )
        return mapping_pb2.GrantKnowledgeBaseResponse(grant=grant)

    def UpdateKnowledgeBase(self, request: Any, context: grpc.ServicerContext) -> Any:
        now = self._get(request.knowledge_base.name, context)
        request.update_mask.MergeMessage(request.knowledge_base, now, replace_repeated_field=True)
        return mapping_pb2.UpdateKnowledgeBaseResponse(knowledge_base=now)

    def UpdateChatConfiguration(self, request: Any, context: grpc.ServicerContext) -> Any:
        now = self._get(request.chat_configuration.name, context)
        request.update_mask.MergeMessage(request.chat_configuration, now, replace_repeated_field=True)
        return mapping_pb2.UpdateChatConfigurationResponse(chat_configuration=now)

    def ResolveChatConfiguration(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._get(request.name, context)
        return self.resolved


class FakeDari:
    """The three services and health on one loopback port. A context manager."""

    def __init__(
        self, *, batch_bytes: int = 4_096, knowledge_bases: tuple[str, ...] = ("knowledgeBases/sales",)
    ) -> None:
        self.versions = dict.fromkeys(knowledge_bases, 0)
        # What a test does not use is UNIMPLEMENTED, as in every generated servicer.
        self.ingest = FakeIngest(batch_bytes, self.versions)  # type: ignore[abstract]
        self.chat = FakeChat()  # type: ignore[abstract]
        self.mapping = FakeMapping(self.versions)  # type: ignore[abstract]
        self._health = health.HealthServicer()
        self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        self._server = grpc.server(ThreadPoolExecutor(16))
        ingest_pb2_grpc.add_IngestServiceServicer_to_server(self.ingest, self._server)
        chat_pb2_grpc.add_ChatServiceServicer_to_server(self.chat, self._server)
        mapping_pb2_grpc.add_MappingServiceServicer_to_server(self.mapping, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.ingest.may_take.set()
        self.chat.goes_on.set()
        self._server.stop(0).wait()
