"""Turns one stream of chunks into committed batches.

A session parses batch k+1 while the database takes batch k; nothing else is buffered, so that a slow database slows
the client down through gRPC's flow control.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager

from dari.core.errors import ChecksumMismatch, Exhausted, InvalidArgument, MalformedFile, OffsetGap, Unavailable
from dari.core.uploads import (
    Batch,
    Checkpoint,
    Committed,
    Dialect,
    FileParser,
    OpenUpload,
    Receipt,
    Upload,
    UploadState,
    UploadStore,
    has_all_bytes,
)

ParserFactory = Callable[[Dialect, Checkpoint | None], FileParser]


class Uploads:
    """Opens upload sessions, as many at once as the limit allows. Thread-safe."""

    def __init__(self, store: UploadStore, make_parser: ParserFactory, executor: Executor, max_open: int) -> None:
        self._store = store
        self._make_parser = make_parser
        self._executor = executor
        self._max_open = max_open
        self._slots = threading.BoundedSemaphore(max_open)

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
            raise Exhausted(
                f"{self._max_open} uploads are open, the most that this server takes; retry when one has ended.",
                {"limit": "max_open_uploads", "value": self._max_open},
            )
        try:
            upload = self._store.open(tenant, request)
            if upload.receipt is not None:
                yield upload.receipt
                return
            session = UploadSession(upload, self._store, self._make_parser, self._executor, on_commit)
            try:
                yield session
            finally:
                session.close()
        finally:
            self._slots.release()


class UploadSession:
    """One stream's work on one upload: `chunk` any number of times, then `finish`. Used by one thread.

    `close` must be called at the end, however it came: it waits for the batch in flight.
    """

    def __init__(
        self,
        upload: Upload,
        store: UploadStore,
        make_parser: ParserFactory,
        executor: Executor,
        on_commit: Callable[[], None],
    ) -> None:
        self._upload = upload
        self._store = store
        self._executor = executor
        self._on_commit = on_commit
        self._parser = make_parser(upload.dialect, upload if upload.offset_bytes else None)
        self._committed: Checkpoint = upload
        self._pending: Future[None] | None = None
        self._pending_checkpoint: Checkpoint = upload

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

        Raises OffsetGap, MalformedFile (the upload has failed), UploadConflict, RivalWriter, HeaderConflict, NotFound,
        Unavailable.
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
            for batch in self._parsed(lambda: self._parser.feed(new)):
                yield from self._commit(batch)
            yield from self.committed()
        elif offset_bytes + len(data) <= self._committed.offset_bytes:
            yield _told(self._committed)

    def committed(self) -> Iterator[Committed]:
        """What became safe since it was last told; does not wait. Raises what a `chunk` raises."""
        if self._pending is not None and self._pending.done():
            yield from self._drain()

    def finish(self, total_size_bytes: int, sha256: bytes) -> Iterator[Committed | Receipt]:
        """Compare size and digest, commit what is left, publish; the last item is the receipt.

        Raises ChecksumMismatch (the upload has failed), and what `chunk` raises.
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
        if self._upload.state is UploadState.OPEN:
            for batch in batches:
                yield from self._commit(batch)
            yield from self._commit(last, digest)
            yield from self._drain()
        self._check_rejected()
        with self._offset_told():
            yield self._store.publish(self._upload)

    def close(self) -> None:
        """Wait until nothing of this session runs any more."""
        if self._pending is not None:
            self._pending.exception()

    def _parsed(self, step: Callable[[], Sequence[Batch]]) -> Sequence[Batch]:
        try:
            return step()
        except MalformedFile as error:
            self._fail(error.message)
            error.metadata["upload"] = self._upload.name
            raise

    def _commit(self, batch: Batch, sha256: bytes | None = None) -> Iterator[Committed]:
        """Wait for the batch before, and hand this one to the database."""
        yield from self._drain()
        self._check_rejected()
        self._pending_checkpoint = batch.checkpoint
        self._pending = self._executor.submit(self._store.commit, self._upload, self._committed, batch, sha256)
        self._pending.add_done_callback(lambda _: self._on_commit())

    def _drain(self) -> Iterator[Committed]:
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        with self._offset_told():
            try:
                pending.result()
            except MalformedFile as error:
                self._fail(error.message)
                error.metadata["upload"] = self._upload.name
                raise
        self._committed = self._pending_checkpoint
        yield _told(self._committed)

    @contextmanager
    def _offset_told(self) -> Iterator[None]:
        """Add the committed offset to an `Unavailable` that passes: the client goes on from there."""
        try:
            yield
        except Unavailable as error:
            error.metadata["committed_offset"] = str(self.committed_offset_bytes)
            raise

    def _check_rejected(self) -> None:
        # Of what is committed, so that the rows that were too many are listed.
        limit = self._upload.max_rejected_rows
        if self._committed.rows_rejected > limit:
            message = (
                f"More than {limit} rows were rejected; ListRejectedRows shows them. Mend the file, or allow more with"
                " max_rejected_rows, under a new upload_id."
            )
            self._fail(message)
            raise MalformedFile(
                message, {"code": "too_many_rejected_rows", "limit": limit, "upload": self._upload.name}
            )

    def _fail_checksum(self, message: str, metadata: dict[str, object]) -> None:
        self._fail(message)
        raise ChecksumMismatch(
            f"{message} The upload has failed; send the file under a new upload_id.",
            {**metadata, "upload": self._upload.name},
        )

    def _fail(self, failure: str) -> None:
        self.close()
        self._pending = None
        with self._offset_told():
            self._store.fail(self._upload, failure)


def _told(checkpoint: Checkpoint) -> Committed:
    return Committed(checkpoint.offset_bytes, checkpoint.rows_stored, checkpoint.rows_rejected)
