"""Brings one file through the Ingest RPC to its receipt, whatever happens to the connection on the way.

One upload is a row of streams: each opens the same upload_id, learns the committed offset and goes on from there.
A stream has two sides. The sender is the iterator that gRPC pulls requests from, in a thread of gRPC's own; it pulls
the next one when the flow-control window took the one before, so a slow server slows the reading of the file and
nothing piles up in between. The receiver runs in the caller's thread, behind a queue so that it can watch the time.

An outage begins with a failure that may pass and ends with the next newly committed byte; when it has lasted
`give_up_after_s`, the upload is given up as `UploadInterrupted`.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import grpc

from dari.client.errors import CallFailed, UploadInterrupted
from dari.client.outage import Outage
from dari.client.replay import ReplayableSource
from dari.v1.ingest_pb2 import FinishUpload, IngestRequest, IngestResponse, OpenUpload, Receipt, UploadChunk
from dari.v1.ingest_pb2_grpc import IngestServiceStub

WATCH_INTERVAL_S = 1.0
"""How often a silent stream is looked at."""

_TRANSPORT_CODES = frozenset({grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED})
"""What gRPC and proxies report for a stream that was reset; with an ErrorInfo they are dari's own word instead."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an upload is: one after each answer of the server, and one before each pause."""

    upload_id: str
    total_bytes: int | None
    """Size of the source; None while a pipe has not ended."""
    sent_bytes: int = 0
    """Up to here the source was read and handed to the connection."""
    committed_bytes: int = 0
    """Up to here the upload is safe on the server."""
    rows_stored: int = 0
    rows_rejected: int = 0
    failures: int = 0
    """Failures so far that were, or are being, got over."""
    pause_cause: CallFailed | None = None
    """Why the upload pauses; None while it moves."""

    @property
    def is_indexing(self) -> bool:
        """All bytes are safe; the server makes the new version visible."""
        return self.total_bytes is not None and self.committed_bytes >= self.total_bytes


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an upload waits for what."""

    open_timeout_s: float
    """For the answer to `open`."""
    stall_timeout_s: float
    """For the server to take the next message. Longer than the server's slowest batch, which its statement timeout
    bounds (60 s by default)."""
    give_up_after_s: float
    """For the end of an outage."""


def may_pass(failure: CallFailed) -> bool:
    """Whether the same upload may succeed when it is opened again without a person's doing.

    True for UNAVAILABLE, for a stream that the way to the server cut, for RESOURCE_EXHAUSTED (slots become free), and
    for a stream that the server ended because a slow pipe sent nothing. RIVAL_WRITER is not among them: two clients
    that took the upload from each other would never end.
    """
    if failure.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
        return True
    if failure.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "idle_timeout_s" in failure.metadata
    return failure.code in _TRANSPORT_CODES and not failure.reason


class ResumingUpload:
    """One upload from `open` to its receipt, over as many streams as it takes. Used once, by one thread."""

    def __init__(
        self,
        stub: IngestServiceStub,
        opening: OpenUpload,
        source: ReplayableSource,
        *,
        total_bytes: int | None,
        patience: Patience,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._stub = stub
        self._opening = opening
        self._source = source
        self._patience = patience
        self._on_progress = on_progress
        self._progress = Progress(opening.upload_id, total_bytes)
        self._outage = Outage(patience.give_up_after_s)

    def run(self) -> Receipt:
        """Send the source until the receipt is there.

        Raises CallFailed, UploadInterrupted, CannotReplay, OSError from the source, and whatever `on_progress` raises.
        """
        while True:
            try:
                return self._run_one_stream()
            except CallFailed as failure:
                if not may_pass(failure):
                    raise
                self._pause(failure)

    def _run_one_stream(self) -> Receipt:
        stream = _Stream(self._stub, self._opening, self._source, self._patience)
        receipt: Receipt | None = None
        try:
            for response in stream.responses():
                if response.HasField("completed"):
                    receipt = response.completed.receipt
                else:
                    self._advance(response, stream)
        except CallFailed:
            # With the receipt in hand the upload is complete, however its stream came to its end.
            if receipt is None:
                raise
        finally:
            stream.close()
        if receipt is None:
            raise CallFailed(grpc.StatusCode.UNAVAILABLE, "The stream ended before the upload was complete.")
        return receipt

    def _advance(self, response: IngestResponse, stream: "_Stream") -> None:
        """Take in `opened` or `committed`."""
        before = self._progress
        if response.HasField("opened"):
            offset = response.opened.committed_offset_bytes
            stored, rejected = before.rows_stored, before.rows_rejected
        else:
            offset = response.committed.offset_bytes
            stored, rejected = response.committed.rows_stored, response.committed.rows_rejected
        if offset > before.committed_bytes:
            self._outage.end()
        self._source.release(offset)
        self._report(
            replace(
                before,
                total_bytes=stream.total_bytes if before.total_bytes is None else before.total_bytes,
                sent_bytes=max(before.sent_bytes, self._source.read_bytes),
                committed_bytes=max(before.committed_bytes, offset),
                rows_stored=stored,
                rows_rejected=rejected,
                pause_cause=None,
            )
        )

    def _pause(self, failure: CallFailed) -> None:
        """Wait before the next stream, or give up."""
        pause_s = self._outage.next_pause_s()
        if pause_s is None:
            raise UploadInterrupted(
                failure, self._opening.upload_id, self._progress.committed_bytes, self._outage.lasted_s
            ) from failure
        self._report(replace(self._progress, failures=self._progress.failures + 1, pause_cause=failure))
        time.sleep(pause_s)

    def _report(self, progress: Progress) -> None:
        self._progress = progress
        self._on_progress(progress)


class _Stream:
    """One Ingest call: the sender's side runs in gRPC's thread, `responses` in the caller's.

    What both touch: `_answers` and `_opened` are thread-safe; the rest are single values, each written by one side.
    """

    def __init__(
        self, stub: IngestServiceStub, opening: OpenUpload, source: ReplayableSource, patience: Patience
    ) -> None:
        self.total_bytes: int | None = None
        """Size of the source, once the sender has reached its end."""
        self._opening = opening
        self._source = source
        self._patience = patience
        self._answers: queue.SimpleQueue[IngestResponse | Exception | None] = queue.SimpleQueue()
        self._opened = threading.Event()
        self._is_closed = False
        self._first_offset = 0
        self._waits_since_s: float | None = time.monotonic()
        """Since when the sender has waited for gRPC to take a message; None while it does not."""
        try:
            self._call = stub.Ingest(self._requests())
        except ValueError as error:  # gRPC's word for a channel that is closed
            raise CallFailed(grpc.StatusCode.CANCELLED, "The client was closed.", reason="CANCELLED") from error
        threading.Thread(target=self._receive, name="dari-ingest-receiver", daemon=True).start()

    def responses(self) -> Iterator[IngestResponse]:
        """The server's answers until the stream ends OK. Raises CallFailed, and what the source raised."""
        while True:
            try:
                answer = self._answers.get(timeout=WATCH_INTERVAL_S)
            except queue.Empty:
                self._raise_if_stalled()
                continue
            if answer is None:
                return
            if isinstance(answer, Exception):
                raise answer
            yield answer
            # After the yield: progress is told before the first byte goes out.
            if answer.HasField("opened"):
                self._first_offset = answer.opened.committed_offset_bytes
                self._opened.set()

    def close(self) -> None:
        """End the call if it still runs, and let the sender go."""
        self._is_closed = True
        self._opened.set()
        self._call.cancel()

    def _raise_if_stalled(self) -> None:
        limit_s = self._patience.stall_timeout_s if self._opened.is_set() else self._patience.open_timeout_s
        since_s = self._waits_since_s
        if since_s is not None and time.monotonic() - since_s > limit_s:
            what = "took no byte" if self._opened.is_set() else "did not answer"
            raise CallFailed(grpc.StatusCode.UNAVAILABLE, f"The server {what} for {limit_s:.0f} s.")

    def _requests(self) -> Iterator[IngestRequest]:
        """The sender. An exception here would reach the caller as a bare UNKNOWN: it goes through the queue instead."""
        try:
            yield from self._opening_chunks_and_finish()
        except Exception as error:  # noqa: BLE001 - a caller's own file object may raise anything
            self._answers.put(error)
            self._call.cancel()

    def _opening_chunks_and_finish(self) -> Iterator[IngestRequest]:
        yield IngestRequest(open=self._opening)
        self._opened.wait()
        offset = self._first_offset
        while piece := self._read(offset):
            yield IngestRequest(chunk=UploadChunk(offset_bytes=offset, data=piece))
            offset += len(piece)
        if self._is_closed:
            return
        self.total_bytes = offset
        yield IngestRequest(finish=FinishUpload(total_size_bytes=offset, sha256=self._source.digest()))
        self._waits_since_s = None

    def _read(self, offset: int) -> bytes:
        """The next piece; none at the end of the source, or of the stream."""
        if self._is_closed:
            return b""
        self._waits_since_s = None
        piece = self._source.read(offset)
        self._waits_since_s = time.monotonic()
        return piece

    def _receive(self) -> None:
        try:
            for response in self._call:
                self._answers.put(response)
            self._answers.put(None)
        except grpc.RpcError as error:
            self._answers.put(CallFailed.of(error))
