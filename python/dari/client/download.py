"""Takes in the streams that a server answers with: bytes of a file, and the states of an upload."""

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import grpc

from dari.client.errors import CallFailed
from dari.client.outage import Outage
from dari.client.upload import WATCH_INTERVAL_S, may_pass
from dari.v1.ingest_pb2 import (
    UPLOAD_STATE_CANCELLED,
    UPLOAD_STATE_COMPLETED,
    UPLOAD_STATE_FAILED,
    Upload,
    WatchUploadResponse,
)

ENDED_STATES = frozenset({UPLOAD_STATE_COMPLETED, UPLOAD_STATE_FAILED, UPLOAD_STATE_CANCELLED})
"""The states that an upload does not leave."""


def messages(call: Any, stall_timeout_s: float) -> Iterator[Any]:
    """The messages of a server's stream; leaving the iterator cancels the call.

    The time in which the caller works on a message does not count. Raises CallFailed, with UNAVAILABLE where the server
    has said nothing for `stall_timeout_s`.
    """
    watch = _StallWatch(call, stall_timeout_s)
    try:
        with watch.waiting():
            message = next(call, None)
        while message is not None:
            yield message
            with watch.waiting():
                message = next(call, None)
    except grpc.RpcError as error:
        if watch.has_stalled:
            text = f"The server gave nothing for {stall_timeout_s:.0f} s."
            raise CallFailed(grpc.StatusCode.UNAVAILABLE, text) from error
        raise CallFailed.of(error) from error
    finally:
        watch.end()
        call.cancel()


class _StallWatch:
    """Cancels a call that gives nothing for too long; looks from a thread of its own, which `end` ends."""

    def __init__(self, call: Any, stall_timeout_s: float) -> None:
        self.has_stalled = False
        self._call = call
        self._stall_timeout_s = stall_timeout_s
        self._waits_since_s: float | None = None
        self._has_ended = threading.Event()
        threading.Thread(target=self._look, name="dari-stall-watch", daemon=True).start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self._waits_since_s = time.monotonic()
        yield
        self._waits_since_s = None

    def end(self) -> None:
        self._has_ended.set()

    def _look(self) -> None:
        while not self._has_ended.wait(min(WATCH_INTERVAL_S, self._stall_timeout_s)):
            since_s = self._waits_since_s
            if since_s is not None and time.monotonic() - since_s > self._stall_timeout_s:
                self.has_stalled = True
                self._call.cancel()
                return


def states(open_stream: Callable[[], Iterator[WatchUploadResponse]], give_up_after_s: float) -> Iterator[Upload]:
    """An upload each time that it has moved, until it has ended; a stream that ends before is opened again.

    Raises CallFailed, for what may pass only when it has lasted `give_up_after_s`.
    """
    outage = Outage(give_up_after_s)
    while True:
        failure = CallFailed(grpc.StatusCode.UNAVAILABLE, "The stream ended before the upload did.")
        try:
            for response in open_stream():
                outage.end()
                yield response.upload
                if response.upload.state in ENDED_STATES:
                    return
        except CallFailed as error:
            if not may_pass(error):
                raise
            failure = error
        pause_s = outage.next_pause_s()
        if pause_s is None:
            raise failure
        time.sleep(pause_s)


def save(pieces: Iterable[bytes], target: str | os.PathLike[str] | BinaryIO) -> int:
    """Write the pieces to a file, or to an open binary file, which is not closed. Returns the number of bytes.

    A file has its name once it is whole and on the disk, and until then whatever it was before; what else has a name,
    such as a named pipe or /dev/null, is written to as it comes.
    """
    if not isinstance(target, str | os.PathLike):
        return _write(pieces, target)
    # A link stays a link to what it names.
    path = Path(target).resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            return _write(pieces, file)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with unfinished.open("xb") as file:
        try:
            size_bytes = _write(pieces, file)
            file.flush()
            os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink()
            raise
    return size_bytes


def _write(pieces: Iterable[bytes], file: BinaryIO) -> int:
    size_bytes = 0
    for piece in pieces:
        file.write(piece)
        size_bytes += len(piece)
    return size_bytes
