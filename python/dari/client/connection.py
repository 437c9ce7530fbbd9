"""The client of one dari server, or of a gateway before several."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import grpc

from dari.client.errors import CallFailed
from dari.client.source import ReplayableSource
from dari.client.upload import Patience, Progress, ResumingUpload
from dari.v1.chat_pb2 import AskRequest, ChatRequest, ChatResponse, Turn
from dari.v1.chat_pb2_grpc import ChatServiceStub
from dari.v1.ingest_pb2 import Dialect, OpenUpload, Receipt, UploadMode
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
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """`timeout_s` bounds each unary call. `credentials` are for TLS; without them the connection is plain."""
        self.address = address
        self._channel = (
            grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
            if credentials is None
            else grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        )
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
        source: str | os.PathLike[str] | BinaryIO,
        knowledge_base: str,
        mode: "UploadMode.ValueType",
        *,
        upload_id: str | None = None,
        dialect: Dialect | None = None,
        max_rejected_rows: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        open_timeout_s: float = 30.0,
        stall_timeout_s: float = 120.0,
        give_up_after_s: float = 300.0,
    ) -> Receipt:
        """Send a file, or an open binary file or pipe, and wait until its rows are visible.

        Cut connections and a server that is away are got over by resuming at the committed offset, until an outage has
        lasted `give_up_after_s`. An open file is read from where it stands, and is not closed.

        `upload_id` names the upload for good; with the same one another process can go on, and a finished upload gives
        its receipt again. Default: a random one, so that one call is one upload; `on_progress`, `Receipt.upload` and
        UploadInterrupted tell it. Bytes already committed by an earlier process are read and hashed before the first
        new byte goes out, about 1 s for each GB.

        Raises CallFailed, UploadInterrupted, CannotReplay, and OSError where the source cannot be read.
        """
        opening = OpenUpload(
            knowledge_base=knowledge_base,
            upload_id=upload_id or str(uuid.uuid4()),
            mode=mode,
            dialect=dialect,
            max_rejected_rows=max_rejected_rows,
        )
        with ExitStack() as stack:
            file = stack.enter_context(Path(source).open("rb")) if isinstance(source, str | os.PathLike) else source
            return ResumingUpload(
                self.ingests,
                opening,
                ReplayableSource(file),
                total_bytes=_remaining_bytes(file),
                patience=Patience(open_timeout_s, stall_timeout_s, give_up_after_s),
                on_progress=on_progress or (lambda _: None),
            ).run()

    def chat(
        self,
        chat_configuration: str,
        question: str,
        *,
        conversation: str = "",
        request_id: str = "",
        timeout_s: float = 120.0,
    ) -> Iterator[ChatResponse]:
        """Ask, and give the events of the answer as they come; the last one is `completed`.

        Leaving the iterator cancels the turn. The default of `timeout_s` is above the server's own (60 s), so that the
        server is the one to say why there is no answer in time. Raises CallFailed.
        """
        request = ChatRequest(
            chat_configuration=chat_configuration, question=question, conversation=conversation, request_id=request_id
        )
        call = self.chats.Chat(request, timeout=timeout_s)
        try:
            yield from call
        except grpc.RpcError as error:
            raise CallFailed.of(error) from error
        finally:
            call.cancel()

    def ask(
        self,
        chat_configuration: str,
        question: str,
        *,
        conversation: str = "",
        request_id: str = "",
        timeout_s: float = 120.0,
    ) -> Turn:
        """Ask, and wait for the whole answer. Raises CallFailed."""
        request = AskRequest(
            chat_configuration=chat_configuration, question=question, conversation=conversation, request_id=request_id
        )
        return self.chats.Ask(request, timeout=timeout_s).turn


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


def _remaining_bytes(file: BinaryIO) -> int | None:
    """Size of what is left to read; None for a pipe."""
    if not file.seekable():
        return None
    here = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(here)
    return end - here
