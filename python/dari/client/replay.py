"""Bytes of an upload by their offset, from a file that can seek or from a pipe that cannot.

The source is read once from its beginning to its end, and hashed as it goes: that is the *frontier*. What lies below
the frontier and is asked for again, because a connection broke, comes from a buffer of the bytes that are not yet
committed, and where they are dropped there, from the file itself. So a reconnect hashes nothing twice, and the hash is
of what was read first: where a file changes meanwhile, the server finds that the bytes do not fit it.

A file on a disk needs no buffer. One that goes back only at a price, because it is unpacked or fetched as it is read,
has one as a pipe has. The buffer holds what the server has not committed: one or two batches (4 MiB each by default)
and what is under way. It is bounded by dropping its oldest bytes, never by waiting for a `committed`: a server with
larger batches than the buffer would then never commit. `CannotReplay` says so if a pipe's dropped byte is wanted.
"""

import hashlib
import threading
from collections import deque

from dari.client.decompression import ReadableFile
from dari.client.errors import CannotReplay

CHUNK_BYTES = 256 * 1024
"""Bytes in a message: what the protocol advises.

Over loopback to a server that only counts, on two cores: 64 KiB carried 204 to 209 MB/s, 256 KiB 360 to 378 MB/s, and
1 MiB 267 to 617 MB/s. A server that stores rows takes some 50 MB/s.
"""

REPLAY_LIMIT_BYTES = 64 * 1024 * 1024
"""Most bytes of a pipe kept for a reconnect: sixteen of the server's default batches."""


class ReplayableSource:
    """Positional reads over a binary file or pipe. Thread-safe; whoever opened the file closes it.

    Offsets count from where the file stood when it was handed in.
    """

    def __init__(
        self,
        file: ReadableFile,
        *,
        goes_back_cheaply: bool = True,
        chunk_bytes: int = CHUNK_BYTES,
        replay_limit_bytes: int = REPLAY_LIMIT_BYTES,
    ) -> None:
        """`goes_back_cheaply` says of a file that seeks whether it does so without reading again what lies between."""
        self._file = file
        self._chunk_bytes = chunk_bytes
        self._replay_limit_bytes = replay_limit_bytes
        self._seekable = file.seekable()
        self._keeps_bytes = not (self._seekable and goes_back_cheaply)
        self._start = file.tell() if self._seekable else 0
        self._committed_offset = 0
        # _lock guards what follows. It is held while a pipe blocks in read: the thread that waits for it next finds
        # the bytes in the buffer, so that none is lost when a stream breaks while its sender reads.
        self._lock = threading.Lock()
        self._frontier = 0
        self._hash = hashlib.sha256()
        self._kept: deque[tuple[int, bytes]] = deque()
        self._kept_bytes = 0

    @property
    def read_bytes(self) -> int:
        """How many bytes have been read; the size, once `read` has given an empty piece."""
        return self._frontier

    def digest(self) -> bytes:
        """SHA-256 of all bytes read so far."""
        with self._lock:
            return self._hash.digest()

    def read(self, offset: int) -> bytes:
        """The bytes at this offset: 1 to `chunk_bytes` of them, and none at the end of the source.

        Raises CannotReplay, and OSError where the file cannot be read or is shorter than it was.
        """
        with self._lock:
            while self._frontier < offset:
                if not self._advance():
                    raise OSError(f"The source ends at byte {self._frontier:,}, before byte {offset:,}.")
            if offset == self._frontier:
                return self._advance()
            return self._again_from_buffer(offset) or self._again_from_file(offset)

    def release(self, committed_offset: int) -> None:
        """Say that no byte before this one will be asked for again. Never blocks."""
        self._committed_offset = max(self._committed_offset, committed_offset)

    def _advance(self) -> bytes:
        if self._seekable:
            self._file.seek(self._start + self._frontier)
        piece = self._file.read(self._chunk_bytes)
        self._hash.update(piece)
        if piece and self._keeps_bytes:
            self._keep(piece)
        self._frontier += len(piece)
        return piece

    def _keep(self, piece: bytes) -> None:
        self._kept.append((self._frontier, piece))
        self._kept_bytes += len(piece)
        while self._kept and self._may_drop(*self._kept[0]):
            self._kept_bytes -= len(self._kept.popleft()[1])

    def _may_drop(self, offset: int, piece: bytes) -> bool:
        return offset + len(piece) <= self._committed_offset or self._kept_bytes > self._replay_limit_bytes

    def _again_from_buffer(self, offset: int) -> bytes:
        """None where the byte is not kept."""
        for start, piece in self._kept:
            if start <= offset < start + len(piece):
                return piece[offset - start :]
        return b""

    def _again_from_file(self, offset: int) -> bytes:
        if not self._seekable:
            raise CannotReplay(offset, self._kept[0][0] if self._kept else self._frontier)
        self._file.seek(self._start + offset)
        piece = self._file.read(min(self._chunk_bytes, self._frontier - offset))
        if not piece:
            raise OSError(f"The file ends before byte {self._frontier:,}, which was read before: it has changed.")
        return piece
