"""The client of one dari server, or of a gateway before several."""

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import Any, BinaryIO, Self

import grpc

from dari.client.access import Access
from dari.client.decompression import Compression
from dari.client.download import messages, save, states
from dari.client.errors import CallFailed
from dari.client.replay import ReplayableSource
from dari.client.source import Source, open_source
from dari.client.upload import Patience, Progress, ResumingUpload
from dari.v1.chat_pb2 import AskRequest, ChatRequest, ChatResponse, Turn, Upstream, WatchUpstreamsRequest
from dari.v1.chat_pb2_grpc import ChatServiceStub
from dari.v1.ingest_pb2 import (
    INVALID_BYTES_UNSPECIFIED,
    RAGGED_ROWS_UNSPECIFIED,
    CancelUploadRequest,
    Dialect,
    ExportRejectedRowsRequest,
    ExportRowsRequest,
    GetProfileRequest,
    InvalidBytes,
    OpenUpload,
    Profile,
    RaggedRows,
    Receipt,
    Upload,
    UploadMode,
    WatchUploadRequest,
)
from dari.v1.ingest_pb2_grpc import IngestServiceStub
from dari.v1.mapping_pb2_grpc import MappingServiceStub

DEFAULT_ADDRESS = "127.0.0.1:50051"

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # A server that comes back is found within a second or two, not after gRPC's own back-off of up to 120 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A page of 1,000 rejected rows of 4,096 bytes is larger than gRPC's 4 MiB.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # Finds a peer that is gone while an index is built or an answer is awaited. A server's default allows one ping in
    # five minutes; setting it also bounds unacknowledged bytes on the wire (TCP_USER_TIMEOUT) by the second value.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


class Client:
    """One channel and the calls over it. Thread-safe; close it, or use it as a context manager.

    `mapping`, `ingests` and `chats` are the generated stubs over the same channel: a unary call through them has the
    client's `timeout_s` where it names none, and raises CallFailed. Streams called on the stubs raise what gRPC does.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = 30.0,
        access: Access | None = None,
    ) -> None:
        """`timeout_s` bounds each unary call. `access` has token and TLS; without it the connection is plain."""
        self.address = address
        self._channel = (access or Access()).open(address, CHANNEL_OPTIONS)
        channel = grpc.intercept_channel(self._channel, _UnaryCalls(timeout_s))
        self.mapping = MappingServiceStub(channel)
        self.ingests = IngestServiceStub(channel)
        self.chats = ChatServiceStub(channel)

    def close(self) -> None:
        """Close the channel; calls that still run end as CANCELLED."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def ingest(
        self,
        source: str | os.PathLike[str] | BinaryIO | Source,
        knowledge_base: str,
        mode: "UploadMode.ValueType",
        *,
        upload_id: str | None = None,
        compression: Compression | str = Compression.AUTO,
        dialect: Dialect | None = None,
        invalid_bytes: "InvalidBytes.ValueType" = INVALID_BYTES_UNSPECIFIED,
        ragged_rows: "RaggedRows.ValueType" = RAGGED_ROWS_UNSPECIFIED,
        max_rejected_rows: int | None = None,
        max_rejected_share: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        open_timeout_s: float = 30.0,
        stall_timeout_s: float = 120.0,
        give_up_after_s: float = 300.0,
    ) -> Receipt:
        """Send a file, and wait until its rows are visible.

        `source` is a path, a URI (`https://…`; with the extra `remote` also `s3://…` and whatever fsspec knows), an
        open binary file or pipe, which is read from where it stands and is not closed, or an opened Source. What is
        packed with gzip or zstd is unpacked on the way, by its first bytes unless `compression` says "none", "gzip"
        or "zstd".

        Cut connections and a server that is away are got over by resuming at the committed offset, until an outage has
        lasted `give_up_after_s`; the same holds for the http server of a source.

        `upload_id` names the upload for good; with the same one another process can go on, and a finished upload gives
        its receipt again. Default: a random one, so that one call is one upload; `on_progress`, `Receipt.upload` and
        UploadInterrupted tell it. Bytes already committed by an earlier process are read and hashed before the first
        new byte goes out, about 1 s for each GB.

        `dialect` says what is known of how the file is written; the rest is found out by the server, and
        `Receipt.reading` tells what was found. The other options are those of OpenUpload, with the same defaults.

        Raises CallFailed, UploadInterrupted, CannotReplay, and OSError where the source cannot be read: SourceDamaged
        where it is packed and not whole, SourceAway where its server cannot be reached.
        """
        opening = OpenUpload(
            knowledge_base=knowledge_base,
            upload_id=upload_id or str(uuid.uuid4()),
            mode=mode,
            dialect=dialect,
            max_rejected_rows=max_rejected_rows,
            max_rejected_share=max_rejected_share,
            invalid_bytes=invalid_bytes,
            ragged_rows=ragged_rows,
        )
        with (
            nullcontext(source)
            if isinstance(source, Source)
            else open_source(source, compression=compression, give_up_after_s=give_up_after_s)
        ) as opened:
            return ResumingUpload(
                self.ingests,
                opening,
                ReplayableSource(opened.file, goes_back_cheaply=opened.goes_back_cheaply),
                total_bytes=opened.total_bytes,
                patience=Patience(open_timeout_s, stall_timeout_s, give_up_after_s),
                on_progress=on_progress or (lambda _: None),
            ).run()

    def watch(self, upload: str, *, stall_timeout_s: float = 60.0, give_up_after_s: float = 300.0) -> Iterator[Upload]:
        """An upload (`uploads/{upload_id}`) as it is now, and again whenever it has moved, until it has ended.

        The last one's state is COMPLETED, FAILED or CANCELLED. A connection that breaks is opened again, until an
        outage has lasted `give_up_after_s`; an upload that does not move for `stall_timeout_s` is looked at anew.
        Leaving the iterator ends the watching. Raises CallFailed.
        """
        request = WatchUploadRequest(name=upload)
        return states(lambda: messages(self.ingests.WatchUpload(request), stall_timeout_s), give_up_after_s)

    def cancel(self, upload: str) -> Upload:
        """End an upload that is not complete; its rows are dropped. Again, it changes nothing. Raises CallFailed."""
        return self.ingests.CancelUpload(CancelUploadRequest(name=upload)).upload

    def export(
        self,
        knowledge_base: str,
        target: str | os.PathLike[str] | BinaryIO,
        *,
        version: int = 0,
        escape_formulas: bool = False,
        stall_timeout_s: float = 120.0,
    ) -> int:
        """Write the rows of a version as CSV to a path or an open binary file; returns the number of bytes.

        A path gets its new content once that is whole; where the call fails it keeps what it was. `version` 0 is the
        current one. `escape_formulas` puts ' before cells that a spreadsheet would compute. Raises CallFailed, and
        OSError where the target cannot be written.
        """
        request = ExportRowsRequest(knowledge_base=knowledge_base, version=version, escape_formulas=escape_formulas)
        call = self.ingests.ExportRows(request)
        return save((message.data for message in messages(call, stall_timeout_s)), target)

    def export_rejected_rows(
        self, upload: str, target: str | os.PathLike[str] | BinaryIO, *, stall_timeout_s: float = 120.0
    ) -> int:
        """Write what of an upload's file is not stored, as CSV with line, byte and reason; otherwise as `export`."""
        call = self.ingests.ExportRejectedRows(ExportRejectedRowsRequest(upload=upload))
        return save((message.data for message in messages(call, stall_timeout_s)), target)

    def profile(self, knowledge_base: str, *, version: int = 0) -> Profile:
        """What is in the columns of a version, from every value; `version` 0 is the current one. Raises CallFailed."""
        return self.ingests.GetProfile(GetProfileRequest(knowledge_base=knowledge_base, version=version)).profile

    def chat(
        self,
        chat_configuration: str,
        question: str,
        *,
        conversation: str = "",
        request_id: str = "",
        accept_language: str = "",
        timeout_s: float = 120.0,
    ) -> Iterator[ChatResponse]:
        """Ask, and give the events of the answer as they come; the last one is `completed`.

        `accept_language` says in which language notices are told, such as "ko" or "en, ko;q=0.5"; by default it is the
        question's. Leaving the iterator cancels the turn. The default of `timeout_s` is above the server's own (60 s),
        so that the server is the one to say why there is no answer in time. Raises CallFailed.
        """
        request = ChatRequest(
            chat_configuration=chat_configuration, question=question, conversation=conversation, request_id=request_id
        )
        yield from _events(self.chats.Chat(request, timeout=timeout_s, metadata=_reading(accept_language)))

    def ask(
        self,
        chat_configuration: str,
        question: str,
        *,
        conversation: str = "",
        request_id: str = "",
        accept_language: str = "",
        timeout_s: float = 120.0,
    ) -> Turn:
        """Ask, and wait for the whole answer. `accept_language` as in `chat`. Raises CallFailed."""
        request = AskRequest(
            chat_configuration=chat_configuration, question=question, conversation=conversation, request_id=request_id
        )
        return self.chats.Ask(request, timeout=timeout_s, metadata=_reading(accept_language)).turn

    def watch_upstreams(self) -> Iterator[Sequence[Upstream]]:
        """The upstreams that this server has asked, then those whose circuit or process has changed, as they change.

        Goes on until you leave the iterator. Raises CallFailed, UNAVAILABLE where the server stops.
        """
        for response in _events(self.chats.WatchUpstreams(WatchUpstreamsRequest())):
            yield response.upstreams


def _events(call: Any) -> Iterator[Any]:
    """What a server streams, for as long as it likes; leaving the iterator cancels the call. Raises CallFailed."""
    try:
        yield from call
    except grpc.RpcError as error:
        raise CallFailed.of(error) from error
    finally:
        call.cancel()


def _reading(accept_language: str) -> tuple[tuple[str, str], ...]:
    return (("accept-language", accept_language),) if accept_language else ()


class _UnaryCalls(grpc.UnaryUnaryClientInterceptor):
    """Gives unary calls a deadline where they have none, and raises what failed as CallFailed."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        details = client_call_details
        if details.timeout is None:
            details = _WithTimeout(details, self._timeout_s)
        call: Any = continuation(details, request)
        # A blocking call has ended here; one begun with `.future()` has not, and must not be waited for.
        if call.done() and isinstance(call, grpc.RpcError) and call.code() is not grpc.StatusCode.OK:
            raise CallFailed.of(call) from call
        return call


class _WithTimeout(grpc.ClientCallDetails):
    """The details of a call with another timeout."""

    def __init__(self, details: Any, timeout_s: float) -> None:
        self.method = details.method
        self.timeout = timeout_s
        self.metadata = details.metadata
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression
