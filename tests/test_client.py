"""dari.client against a fake server on a real channel: uploads that break everywhere, errors, chats."""

import hashlib
import io
import os
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import grpc
import pytest

from dari.client import CHUNK_BYTES, CallFailed, CannotReplay, Client, Progress, UploadInterrupted
from dari.client.replay import ReplayableSource
from dari.client.upload import may_pass
from dari.v1 import chat_pb2, ingest_pb2, mapping_pb2
from dari.v1.ingest_pb2 import UPLOAD_MODE_REPLACE
from tests.support.fake_dari import FakeDari, Fault, refuse

SALES = "knowledgeBases/sales"


def lines(size_bytes: int) -> bytes:
    """Numbered lines of exactly this many bytes in all; the last one may lack its end."""
    rows = b"".join(b"%09d,some text of the row\n" % number for number in range(size_bytes // 30 + 1))
    return rows[:size_bytes]


def ingest(client: Client, source: Any, **options: Any) -> ingest_pb2.Receipt:
    return client.ingest(source, SALES, UPLOAD_MODE_REPLACE, **options)


def stored(dari: FakeDari, receipt: ingest_pb2.Receipt) -> bytes:
    return bytes(dari.ingest.uploads[receipt.upload.removeprefix("uploads/")].safe)


@pytest.mark.parametrize("size_bytes", [0, 1, 29, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7])
def test_the_bytes_of_a_file_arrive_as_they_are(
    dari: FakeDari, client: Client, tmp_path: Path, size_bytes: int
) -> None:
    """Whatever the size, the server has the file's bytes, and the receipt says their size and hash."""
    path = tmp_path / "sales.csv"
    path.write_bytes(lines(size_bytes))
    receipt = ingest(client, path)
    assert stored(dari, receipt) == lines(size_bytes)
    assert (receipt.size_bytes, receipt.sha256) == (size_bytes, hashlib.sha256(lines(size_bytes)).digest())


CUTS = [0, 1, 4_095, 4_096, 4_097, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 5 * CHUNK_BYTES, -1]


@pytest.mark.parametrize("after_bytes", CUTS)
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_cut_upload_goes_on_where_it_stopped(dari: FakeDari, client: Client, after_bytes: int, kind: str) -> None:
    """Cut at `open`, in the first chunk, at every boundary, and before the receipt: each byte is there once."""
    content = lines(5 * CHUNK_BYTES + 11)
    dari.ingest.faults.append(Fault(after_bytes))
    seen: list[Progress] = []
    with open_source(kind, content) as source:
        receipt = ingest(client, source, on_progress=seen.append)
    assert stored(dari, receipt) == content
    assert len(dari.ingest.openings) == 2
    assert seen[-1].failures == 1
    assert seen[-1].committed_bytes == len(content)


def test_an_upload_that_breaks_ten_times_is_stored_once(dari: FakeDari, client: Client) -> None:
    """Every stream gets two chunks further; all streams have one upload_id."""
    content = lines(20 * CHUNK_BYTES)
    dari.ingest.faults.extend([Fault(2 * CHUNK_BYTES)] * 10)
    receipt = ingest(client, io.BytesIO(content))
    assert stored(dari, receipt) == content
    assert len({opening.upload_id for opening in dari.ingest.openings}) == 1
    assert len(dari.ingest.openings) == 11


def test_an_open_file_is_read_from_where_it_stands_and_left_open(dari: FakeDari, client: Client) -> None:
    """The caller may have read a part itself; offsets count from there."""
    file = io.BytesIO(b"not for dari\n" + lines(3 * CHUNK_BYTES))
    file.readline()
    dari.ingest.faults.append(Fault(2 * CHUNK_BYTES))
    assert stored(dari, ingest(client, file)) == lines(3 * CHUNK_BYTES)
    assert not file.closed


@pytest.mark.parametrize("cut_after_bytes", [10, 5_000, 100_000, 400_000, 900_000])
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_reset_connection_is_got_over(dari: FakeDari, cut_after_bytes: int, kind: str) -> None:
    """A TCP reset in the middle of a message, by a relay between client and server, which then lets all through."""
    content = lines(1_000_000)
    with (
        CuttingRelay(dari.address, cut_after_bytes) as relay,
        Client(relay.address) as client,
        open_source(kind, content) as source,
    ):
        receipt = ingest(client, source)
    assert stored(dari, receipt) == content
    assert relay.connections >= 2


def test_another_process_goes_on_with_the_same_upload_id(dari: FakeDari, client: Client, tmp_path: Path) -> None:
    """The first one gives up and names what is safe; the second begins there, and hashes what lies before."""
    path = tmp_path / "sales.csv"
    path.write_bytes(lines(6 * CHUNK_BYTES))
    dari.ingest.faults.append(Fault(3 * CHUNK_BYTES))
    with pytest.raises(UploadInterrupted) as caught:
        ingest(client, path, upload_id="sales-7", give_up_after_s=0)
    assert caught.value.upload_id == "sales-7"
    assert 0 < caught.value.committed_offset_bytes < 6 * CHUNK_BYTES

    taken = dari.ingest.chunks_taken
    receipt = ingest(client, path, upload_id="sales-7")
    assert stored(dari, receipt) == path.read_bytes()
    assert dari.ingest.chunks_taken - taken < 6


def test_a_pipe_that_begins_again_is_read_up_to_the_committed_offset(dari: FakeDari, client: Client) -> None:
    """A second process that pipes the same data under the same id sends only what is missing."""
    content = lines(6 * CHUNK_BYTES)
    dari.ingest.faults.append(Fault(3 * CHUNK_BYTES))
    with open_source("pipe", content) as source, pytest.raises(UploadInterrupted):
        ingest(client, source, upload_id="sales-7", give_up_after_s=0)
    with open_source("pipe", content) as source:
        assert stored(dari, ingest(client, source, upload_id="sales-7")) == content


def test_a_finished_upload_gives_its_receipt_again(dari: FakeDari, client: Client, tmp_path: Path) -> None:
    """The same upload_id again sends no byte."""
    path = tmp_path / "sales.csv"
    path.write_bytes(lines(CHUNK_BYTES))
    first = ingest(client, path, upload_id="sales-7")
    taken = dari.ingest.chunks_taken
    assert ingest(client, path, upload_id="sales-7") == first
    assert dari.ingest.chunks_taken == taken


def test_a_file_that_changed_between_two_streams_is_refused(dari: FakeDari, client: Client, tmp_path: Path) -> None:
    """The bytes of the first stream are not those of the file any more: CHECKSUM_MISMATCH, nothing half."""
    path = tmp_path / "sales.csv"
    path.write_bytes(lines(4 * CHUNK_BYTES))
    dari.ingest.faults.append(Fault(3 * CHUNK_BYTES))
    with pytest.raises(UploadInterrupted):
        ingest(client, path, upload_id="sales-7", give_up_after_s=0)
    path.write_bytes(lines(4 * CHUNK_BYTES).replace(b"text", b"TEXT"))
    with pytest.raises(CallFailed, match="CHECKSUM_MISMATCH"):
        ingest(client, path, upload_id="sales-7")


def test_a_rival_ends_the_upload_at_once(dari: FakeDari, client: Client) -> None:
    """Two clients that took the upload from each other in turn would never end: ABORTED is not retried."""
    dari.ingest.faults.append(Fault(CHUNK_BYTES, grpc.StatusCode.ABORTED, "RIVAL_WRITER"))
    with pytest.raises(CallFailed) as caught:
        ingest(client, io.BytesIO(lines(4 * CHUNK_BYTES)))
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.ABORTED, "RIVAL_WRITER")
    assert len(dari.ingest.openings) == 1


def test_a_server_that_stays_away_is_given_up(unused_address: str) -> None:
    """Nobody listens: after `give_up_after_s` the error tells the id to go on with, and each try was told before."""
    seen: list[Progress] = []
    with Client(unused_address) as client, pytest.raises(UploadInterrupted) as caught:
        ingest(client, io.BytesIO(b"a\n1\n"), give_up_after_s=0.3, on_progress=seen.append)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.upload_id in str(caught.value)
    assert [progress.failures for progress in seen] == list(range(1, len(seen) + 1))
    assert all(progress.pause_cause is not None for progress in seen)


MAY_PASS = [
    (grpc.StatusCode.UNAVAILABLE, "", {}, True),
    (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", {"neighbour": "database"}, True),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED", {}, True),
    (grpc.StatusCode.INTERNAL, "", {}, True),
    (grpc.StatusCode.INTERNAL, "INTERNAL", {}, False),
    (grpc.StatusCode.CANCELLED, "", {}, True),
    (grpc.StatusCode.CANCELLED, "CANCELLED", {}, False),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", {"idle_timeout_s": "60"}, True),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", {}, False),
    (grpc.StatusCode.ABORTED, "RIVAL_WRITER", {}, False),
    (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_FILE", {}, False),
    (grpc.StatusCode.NOT_FOUND, "NOT_FOUND", {}, False),
    (grpc.StatusCode.OUT_OF_RANGE, "OFFSET_GAP", {}, False),
]


@pytest.mark.parametrize(("code", "reason", "metadata", "expected"), MAY_PASS)
def test_what_may_pass_is_tried_again(
    code: grpc.StatusCode, reason: str, metadata: dict[str, str], expected: bool
) -> None:
    """The list of the module, row by row."""
    assert may_pass(CallFailed(code, "…", reason=reason, metadata=metadata)) is expected


def test_a_slow_server_slows_the_reading_of_the_file(dari: FakeDari, client: Client) -> None:
    """The server takes nothing: no more is read than the flow-control windows hold (6 MiB). Then it goes on."""
    source = CountingFile(lines(128 * CHUNK_BYTES))
    dari.ingest.may_take.clear()
    receipts: deque[ingest_pb2.Receipt] = deque()
    worker = threading.Thread(target=lambda: receipts.append(ingest(client, source)))
    worker.start()
    source.wait_until_nothing_is_read()
    assert source.bytes_read <= 48 * CHUNK_BYTES
    dari.ingest.may_take.set()
    worker.join(timeout=60)
    assert stored(dari, receipts[0]) == lines(128 * CHUNK_BYTES)


def test_a_server_that_takes_nothing_for_too_long_is_left(dari: FakeDari, client: Client) -> None:
    """The stall timer ends a stream that stands; the upload can be gone on with."""
    dari.ingest.may_take.clear()
    with pytest.raises(UploadInterrupted, match="took no byte"):
        ingest(client, io.BytesIO(lines(64 * CHUNK_BYTES)), stall_timeout_s=0.2, give_up_after_s=0)


def test_an_error_of_the_source_reaches_the_caller(dari: FakeDari, client: Client) -> None:
    """Not an UNKNOWN of gRPC, but what the file object raised."""
    with pytest.raises(OSError, match="disk is gone"):
        ingest(client, BrokenFile(lines(2 * CHUNK_BYTES)))
    assert len(dari.ingest.openings) == 1


def test_what_the_progress_call_raises_ends_the_upload(client: Client) -> None:
    """A caller can cancel from there."""

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(client, io.BytesIO(lines(CHUNK_BYTES)), on_progress=stop)


def test_a_pipe_keeps_what_is_not_committed_and_no_more() -> None:
    """Released bytes leave the buffer; beyond the limit the oldest go, and asking for them is refused by name."""
    content = lines(100)
    source = ReplayableSource(cast(BinaryIO, Pipe(content)), chunk_bytes=10, replay_limit_bytes=50)
    assert b"".join(source.read(offset) for offset in range(0, 40, 10)) == content[:40]
    assert source.read(7) == content[7:10]
    source.release(25)
    assert source.read(40) == content[40:50]
    assert source.read(20) == content[20:30]
    with pytest.raises(CannotReplay, match="from 20 on"):
        source.read(19)
    for offset in range(50, 100, 10):
        source.read(offset)
    assert source.read(100) == b""
    with pytest.raises(CannotReplay, match="from 50 on"):
        source.read(30)
    assert source.digest() == hashlib.sha256(content).digest()


def test_a_refused_field_is_named() -> None:
    """google.rpc.Status in the trailers becomes reason, metadata and violations, for the plain stubs too."""
    with FakeDari() as dari, Client(dari.address) as client, pytest.raises(CallFailed) as caught:
        client.mapping.CreateAiModel(mapping_pb2.CreateAiModelRequest(ai_model_id="Größe!"))
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.reason == "INVALID_FIELD"
    assert caught.value.metadata == {"fields": "ai_model_id"}
    assert [violation.field for violation in caught.value.violations] == ["ai_model_id"]


def test_an_unreachable_server_is_a_failed_call_without_a_reason(unused_address: str) -> None:
    """Nothing that dari said: code and message of the transport."""
    with Client(unused_address) as client, pytest.raises(CallFailed) as caught:
        client.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "")


def test_a_call_without_a_timeout_has_the_clients() -> None:
    """A server that takes the connection and never says a word does not hold a unary call for ever."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with Client(address, timeout_s=0.1) as client, pytest.raises(CallFailed) as caught:
            client.mapping.GetAiModel(mapping_pb2.GetAiModelRequest(name="aiModels/local"))
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_closing_the_client_ends_its_uploads(dari: FakeDari) -> None:
    """CANCELLED, and no further try."""
    failures: deque[CallFailed] = deque()
    client = Client(dari.address)
    dari.ingest.may_take.clear()

    def run() -> None:
        with pytest.raises(CallFailed) as caught:
            ingest(client, io.BytesIO(lines(64 * CHUNK_BYTES)), on_progress=lambda progress: opened.set())
        failures.append(caught.value)

    opened = threading.Event()
    worker = threading.Thread(target=run)
    worker.start()
    assert opened.wait(timeout=30)
    client.close()
    worker.join(timeout=60)
    assert failures[0].code is grpc.StatusCode.CANCELLED


def test_a_begun_call_is_not_waited_for(dari: FakeDari, client: Client) -> None:
    """`.future()` through the stubs gives a future at once."""
    future = client.ingests.ListUploads.future(ingest_pb2.ListUploadsRequest())
    assert list(future.result(timeout=30).uploads) == []


def test_the_events_of_a_chat_come_in_order(dari: FakeDari, client: Client) -> None:
    """Every event of the wire, none added, none kept back."""
    script = [
        chat_pb2.ChatResponse(started=chat_pb2.TurnStarted(conversation="conversations/1")),
        chat_pb2.ChatResponse(token=chat_pb2.Token(text="B6")),
        chat_pb2.ChatResponse(completed=chat_pb2.TurnCompleted()),
    ]
    dari.chat.script = lambda request, context: iter(script)
    assert list(client.chat("chatConfigurations/flights", "Which code?")) == script
    assert dari.chat.requests[0].question == "Which code?"


def test_a_chat_that_is_cut_raises_after_its_events(dari: FakeDari, client: Client) -> None:
    """What came before is not taken back, and the end is never a clean one."""

    def cut(request: Any, context: grpc.ServicerContext) -> Iterator[chat_pb2.ChatResponse]:
        yield chat_pb2.ChatResponse(token=chat_pb2.Token(text="B6"))
        refuse(context, grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "Gone.", {"neighbour": "models"})

    dari.chat.script = cut
    events = client.chat("chatConfigurations/flights", "Which code?")
    assert next(events).token.text == "B6"
    with pytest.raises(CallFailed) as caught:
        next(events)
    assert caught.value.metadata == {"neighbour": "models"}


def test_leaving_a_chat_cancels_it(dari: FakeDari, client: Client) -> None:
    """Closing the iterator ends the call on the server's side."""
    ended = threading.Event()

    def endless(request: Any, context: grpc.ServicerContext) -> Iterator[chat_pb2.ChatResponse]:
        context.add_callback(ended.set)
        yield chat_pb2.ChatResponse(token=chat_pb2.Token(text="B6"))
        ended.wait(timeout=60)

    dari.chat.script = endless
    events = client.chat("chatConfigurations/flights", "Which code?")
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert ended.wait(timeout=30)


@pytest.fixture
def unused_address() -> Iterator[str]:
    """A port that is bound and does not listen: it refuses, and nobody else can take it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


class Pipe(io.RawIOBase):
    """A source that cannot seek."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        return self._content.read(size)


class CountingFile(io.BytesIO):
    """Knows how much was read of it, and when the reading stands."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.bytes_read = 0
        self._moved = threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(size)
        self.bytes_read += len(piece)
        self._moved.set()
        return piece

    def wait_until_nothing_is_read(self) -> None:
        """Until the reader has been still for half a second; a machine that pauses longer only weakens the test."""
        while self._moved.wait(timeout=0.5):
            self._moved.clear()


class BrokenFile(io.BytesIO):
    """Fails in its middle."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= CHUNK_BYTES:
            raise OSError("the disk is gone")
        return super().read(size)


class CuttingRelay:
    """Relays TCP to a server and resets its first connection after so many bytes of the client. A context manager."""

    def __init__(self, target: str, cut_after_bytes: int) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._left = cut_after_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for opened in [self._listener, *self._open]:
            shut(opened)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.create_connection(self._target)
            self._open += [near, far]
            is_cut = self.connections == 1
            threading.Thread(target=self._relay, args=(near, far, is_cut), daemon=True).start()
            threading.Thread(target=self._relay, args=(far, near, False), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket, is_cut: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(65_536):
                if is_cut and len(piece) >= self._left:
                    target.sendall(piece[: self._left])
                    break
                target.sendall(piece)
                self._left -= len(piece) if is_cut else 0
        shut(source)
        shut(target)


def shut(opened: socket.socket) -> None:
    """Wake whoever waits on the socket, then close it."""
    with suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)
    opened.close()


@contextmanager
def open_source(kind: str, content: bytes) -> Iterator[BinaryIO]:
    """The content as a file, or as a real pipe that a thread fills."""
    if kind == "file":
        yield io.BytesIO(content)
        return
    read_end, write_end = os.pipe()

    def fill() -> None:
        with suppress(BrokenPipeError), os.fdopen(write_end, "wb") as pipe:
            pipe.write(content)

    writer = threading.Thread(target=fill)
    writer.start()
    with os.fdopen(read_end, "rb") as pipe:
        yield pipe
    writer.join()
