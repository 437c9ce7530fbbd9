"""Turns one stream of chunks into committed batches.

While the database takes batches k and k+1, batch k+2 is parsed; nothing else is buffered, so that a slow database slows
the client down through gRPC's flow control.

Batch k+1 goes to the database on a connection of its own, beside batch k, and is committed after it: its rows are there
when its turn comes, and only then it moves the committed offset. That order cannot lock up. A batch waits for nothing
but the one before it in the same file, which waits for nothing behind it: not for a lock (see `Turn`), and not for a
thread or a connection. Each upload has one of both for its first stream, and a second stream only where one more of
both is free of anybody else's (`second_streams`), kept until the session closes.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass

from dari.core.errors import ChecksumMismatch, Exhausted, InvalidArgument, MalformedFile, OffsetGap, Unavailable
from dari.core.event_context import carried, note
from dari.core.telemetry import NO_TELEMETRY, Step, Telemetry
from dari.core.uploads import (
    Batch,
    Checkpoint,
    Committed,
    Move,
    OpenUpload,
    ParserFactory,
    Receipt,
    Turn,
    Upload,
    UploadState,
    UploadStore,
    has_all_bytes,
    too_many_rejected,
)


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What uploads may take of this server."""

    max_open: int
    """Uploads that stream at once. The executor has so many threads, and `second_streams` more."""
    second_streams: int
    """Uploads that may store two batches at once; the others store one. 0 or more."""
    max_upload_bytes: int
    """Size of a file."""


class Uploads:
    """Opens upload sessions, as many at once as the limit allows. Thread-safe."""

    def __init__(
        self,
        store: UploadStore,
        make_parser: ParserFactory,
        executor: Executor,
        limits: UploadLimits,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self._store = store
        self._make_parser = make_parser
        self._executor = executor
        self._limits = limits
        self._slots = threading.BoundedSemaphore(limits.max_open)
        self._second_streams = threading.Semaphore(limits.second_streams)
        self._telemetry = telemetry
        self._open_lock = threading.Lock()  # guards _open_count
        self._open_count = 0

    @property
    def open_count(self) -> int:
        """Uploads that stream now."""
        return self._open_count

    @contextmanager
    def open(
        self, tenant: str, request: OpenUpload, on_commit: Callable[[], None] = lambda: None
    ) -> Iterator["UploadSession | Receipt"]:
        """A session on the upload, closed at the end of the `with`; or its receipt where it is complete.

        `on_commit` is called from another thread whenever the session's `committed` may have news. Raises
        InvalidArgument, Exhausted, NotFound, UploadConflict, Unavailable.
        """
        violations = tuple(request.violations())
        if violations:
            raise InvalidArgument.of(*violations)
        if not self._slots.acquire(blocking=False):
            max_open = self._limits.max_open
            raise Exhausted(
                f"{max_open} uploads are open, the most that this server takes; retry when one has ended.",
                {"limit": "max_open_uploads", "value": max_open},
            )
        self._count_open(1)
        try:
            upload = self._store.open(tenant, request)
            note(upload=upload.name)
            if upload.receipt is not None:
                yield upload.receipt
                return
            session = UploadSession(
                upload,
                self._store,
                self._make_parser,
                _Streams(self._executor, self._second_streams, on_commit),
                self._limits.max_upload_bytes,
                self._telemetry,
            )
            try:
                yield session
            finally:
                session.close()
        finally:
            self._count_open(-1)
            self._slots.release()

    def _count_open(self, change: int) -> None:
        with self._open_lock:
            self._open_count += change


class UploadSession:
    """One stream's work on one upload: `chunk` any number of times, then `finish`. Used by one thread.

    `close` must be called at the end, however it came: it waits for the batches in flight.
    """

    def __init__(
        self,
        upload: Upload,
        store: UploadStore,
        make_parser: ParserFactory,
        streams: "_Streams",
        max_upload_bytes: int,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self._upload = upload
        self._store = store
        self._streams = streams
        self._max_upload_bytes = max_upload_bytes
        self._telemetry = telemetry
        self._parsing_s = 0.0
        """Time of the parser since its last batch."""
        self._committed: Checkpoint = upload.checkpoint
        self._parser = make_parser(upload.options, self._committed if self._committed.offset_bytes else None)

    @property
    def upload(self) -> Upload:
        """The upload as it was when this session opened it."""
        return self._upload

    @property
    def committed_offset_bytes(self) -> int:
        """All bytes before this one are safe, and perhaps more."""
        return self._committed.offset_bytes

    def chunk(self, offset_bytes: int, data: bytes) -> Iterator[Committed]:
        """Take some bytes; yields what became safe meanwhile. Bytes that were received before are skipped.

        Raises OffsetGap, MalformedFile (the upload has failed), Exhausted for a file that is too large, UploadConflict,
        RivalWriter, HeaderConflict, NotFound, Unavailable.
        """
        received = self._parser.received_bytes
        if offset_bytes > received:
            raise OffsetGap(
                f"The chunk starts at byte {offset_bytes}, but byte {received} comes next; send from there on.",
                {"expected_offset": received, "received_offset": offset_bytes},
            )
        new = data[received - offset_bytes :]
        if new:
            if self._upload.state is UploadState.INDEXING:
                raise has_all_bytes(self._upload)
            self._check_size(received + len(new))
            for batch in self._parsed(lambda: self._parser.feed(new)):
                yield from self._commit(batch)
            yield from self.committed()
        elif offset_bytes + len(data) <= self._committed.offset_bytes:
            yield _told(self._committed)

    def committed(self) -> Iterator[Committed]:
        """What became safe since it was last told; does not wait. Raises what a `chunk` raises."""
        while self._streams.is_oldest_done:
            yield self._drained()

    def finish(
        self, total_size_bytes: int, sha256: bytes, accept: Callable[[int], None] = lambda _: None
    ) -> Iterator[Committed | Receipt]:
        """Compare size and digest, commit what is left, publish; the last item is the receipt.

        `accept` is called with the rows of the whole file before its last batch is committed: what it raises leaves
        the upload open, to be finished later. Raises ChecksumMismatch (the upload has failed), and what `chunk` raises.
        """
        received = self._parser.received_bytes
        if total_size_bytes > received:
            raise OffsetGap(
                f"The file has {total_size_bytes} bytes, but byte {received} comes next; send from there on.",
                {"expected_offset": received, "received_offset": total_size_bytes},
            )
        if total_size_bytes < received:
            self._fail_checksum(
                f"finish says {total_size_bytes} bytes, but {received} were received.",
                {"declared_bytes": total_size_bytes, "received_bytes": received},
            )
        *batches, last = self._parsed(self._parser.finish)
        digest = self._parser.sha256()
        if sha256 and sha256 != digest:
            self._fail_checksum(
                f"finish says SHA-256 {sha256.hex()}, but the bytes received have {digest.hex()}.",
                {"declared_sha256": sha256.hex(), "received_sha256": digest.hex()},
            )
        accept(last.checkpoint.rows_stored)
        if self._upload.state is UploadState.OPEN:
            for batch in batches:
                yield from self._commit(batch)
            yield from self._commit(last, digest)
            while self._streams.in_flight:
                yield self._drained()
        self._check_rejected(is_end=True)
        with self._offset_told():
            with self._telemetry.step(Step.PUBLISH):
                receipt = self._store.publish(self._upload)
            yield receipt

    def cancel(self) -> None:
        """End the upload: its rows go, and what is still being stored of it comes to nothing. Then only `close`."""
        self._store.cancel(self._upload.tenant, self._upload.id)

    def close(self) -> None:
        """Wait until nothing of this session runs any more, and give its second stream back."""
        self._streams.close()

    def _parsed(self, step: Callable[[], Sequence[Batch]]) -> Sequence[Batch]:
        began_s = time.monotonic()
        try:
            batches = step()
        except MalformedFile as error:
            self._fail(error.message)
            error.metadata["upload"] = self._upload.name
            raise
        self._parsing_s += time.monotonic() - began_s
        if batches:
            self._telemetry.parsed(self._parsing_s)
            self._parsing_s = 0.0
        return batches

    def _commit(self, batch: Batch, sha256: bytes | None = None) -> Iterator[Committed]:
        """Hand a batch to the database, after waiting until there is room for it."""
        while not self._streams.has_room():
            yield self._drained()
        self._check_rejected(is_end=False)
        move = Move(self._streams.latest or self._committed, batch, self._parser.reading, sha256)
        self._streams.start(move, carried(lambda turn: self._store_batch(move, turn)))

    def _store_batch(self, move: Move, turn: Turn) -> None:
        """Run by the executor."""
        since, after = move.since, move.batch.checkpoint
        size_bytes = after.offset_bytes - since.offset_bytes
        rejected = after.rows_rejected - since.rows_rejected
        with self._telemetry.step(Step.BATCH, size_bytes=size_bytes, rows=move.batch.rows_stored, rejected=rejected):
            self._store.commit(self._upload, move, turn)
        self._telemetry.batch_stored(size_bytes, move.batch.rows_stored, rejected)

    def _drained(self) -> Committed:
        """Wait for the oldest batch in flight."""
        with self._offset_told():
            try:
                self._committed = self._streams.finish_oldest()
            except MalformedFile as error:
                self._fail(error.message)
                error.metadata["upload"] = self._upload.name
                raise
        return _told(self._committed)

    @contextmanager
    def _offset_told(self) -> Iterator[None]:
        """Add the committed offset to an `Unavailable` that passes: the client goes on from there."""
        try:
            yield
        except Unavailable as error:
            error.metadata["committed_offset"] = str(self.committed_offset_bytes)
            raise

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._max_upload_bytes:
            raise Exhausted(
                f"The file is larger than {self._max_upload_bytes} bytes, the most that this server takes; send it in"
                " parts, with APPEND, or ask the operator to raise max_upload_bytes and go on with this upload.",
                {
                    "limit": "max_upload_bytes",
                    "value": self._max_upload_bytes,
                    "committed_offset": self.committed_offset_bytes,
                },
            )

    def _check_rejected(self, *, is_end: bool) -> None:
        # Of what is committed, so that the rows that were too many are listed.
        error = too_many_rejected(self._upload, self._committed, is_end=is_end)
        if error is not None:
            self._fail(error.message)
            raise error

    def _fail_checksum(self, message: str, metadata: dict[str, object]) -> None:
        self._fail(message)
        raise ChecksumMismatch(
            f"{message} The upload has failed; send the file under a new upload_id.",
            {**metadata, "upload": self._upload.name},
        )

    def _fail(self, failure: str) -> None:
        self._streams.wait()
        with self._offset_told():
            self._store.fail(self._upload, failure)


@dataclass(frozen=True, slots=True)
class _Flight:
    """A batch on its way into the database."""

    done: Future[None]
    has_locks: threading.Event
    """Set at its end, too, however that came."""
    checkpoint: Checkpoint
    makes_tables: bool


class _Streams:
    """The batches in flight of one upload: one, or two where a second stream is to be had."""

    def __init__(self, executor: Executor, second_streams: threading.Semaphore, on_commit: Callable[[], None]) -> None:
        self._executor = executor
        self._second_streams = second_streams
        self._on_commit = on_commit
        self._flights: deque[_Flight] = deque()
        self._has_second = False

    @property
    def in_flight(self) -> int:
        return len(self._flights)

    @property
    def latest(self) -> Checkpoint | None:
        """Where the file is when all batches in flight are committed; None where there are none."""
        return self._flights[-1].checkpoint if self._flights else None

    @property
    def is_oldest_done(self) -> bool:
        return bool(self._flights) and self._flights[0].done.done()

    def has_room(self) -> bool:
        """Whether another batch can start now."""
        if not self._flights:
            return True
        # Until the tables are there, there is nothing that another batch could go into.
        if len(self._flights) > 1 or self._flights[0].makes_tables or not self._flights[0].checkpoint.columns:
            return False
        self._has_second = self._has_second or self._second_streams.acquire(blocking=False)
        return self._has_second

    def start(self, move: Move, commit: Callable[[Turn], None]) -> None:
        """Begin to commit a batch; its turn comes when the one before it is committed."""
        has_locks = threading.Event()
        turn = Turn(has_locks=has_locks.set)
        if self._flights:
            before = self._flights[-1]
            turn = Turn(lambda: _wait(before.has_locks), has_locks.set, before.done.result)
        done = self._executor.submit(commit, turn)
        self._flights.append(_Flight(done, has_locks, move.batch.checkpoint, move.makes_tables))
        done.add_done_callback(lambda _: has_locks.set())
        done.add_done_callback(lambda _: self._on_commit())

    def finish_oldest(self) -> Checkpoint:
        """Wait for the oldest batch; its checkpoint is committed. Raises what kept it from that."""
        flight = self._flights.popleft()
        flight.done.result()
        return flight.checkpoint

    def wait(self) -> None:
        """Wait for all, however they end."""
        while self._flights:
            self._flights.popleft().done.exception()

    def close(self) -> None:
        """Wait for all, and give the second stream back."""
        self.wait()
        if self._has_second:
            self._has_second = False
            self._second_streams.release()


def _wait(event: threading.Event) -> None:
    event.wait()


def _told(checkpoint: Checkpoint) -> Committed:
    return Committed(checkpoint.offset_bytes, checkpoint.rows_stored, checkpoint.rows_rejected)
