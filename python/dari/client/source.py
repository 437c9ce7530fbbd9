"""Opens what an upload reads: a path, a URI, or a file that the caller has open; unpacked where it is packed.

- A path, and `file://`: read from the disk.
- `http://` and `https://`: read as they come, gone on with where the connection broke.
- Any other URI, such as `s3://bucket/sales.csv` or `memory://sales.csv`: read by fsspec with the package that knows the
  scheme. Both are optional: `pip install 'dari[remote]'`, and s3fs for `s3://`.

Nothing is read whole: what is held of a source is a piece or two, fsspec's read-ahead, and the bytes for a replay.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from dari.client.decompression import HEAD_BYTES, Compression, DecompressedFile, ReadableFile, compression_of
from dari.client.errors import SourceUnreadable

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")

_MARKING_FIELDS = (
    "ETag",
    "etag",
    "md5Hash",
    "LastModified",
    "last_modified",
    "updated",
    "mtime",
    "modified",
    "created",
)
"""Where fsspec's file systems tell that a file has changed."""


@dataclass(frozen=True, slots=True)
class Source:
    """An open source of an upload."""

    name: str
    """For people, see `name_of`."""
    file: ReadableFile
    """Its content, unpacked."""
    total_bytes: int | None
    """Size of the content from where it stands; None where only its end will tell."""
    goes_back_cheaply: bool
    """Whether the file seeks without reading again what lies between."""
    mark: str | None
    """Tells this content of a URI from another without reading it; None where nothing does."""


def scheme_of(where: str) -> str | None:
    """The scheme of a URI in small letters; None for a path."""
    found = _SCHEME.match(where)
    return found[1].lower() if found else None


def name_of(where: str | os.PathLike[str]) -> str:
    """How a source is called in messages: without what may be a key in a URI, its user, password and http query."""
    if path_of(where) is not None:
        return str(path_of(where))
    name = re.sub(r"(?<=://)[^/?#]*@", "", str(where))
    return re.split(r"[?#]", name, maxsplit=1)[0] if is_http(str(where)) else name


def is_http(where: str) -> bool:
    """Whether this is a file on a web server."""
    return scheme_of(where) in ("http", "https")


def path_of(where: str | os.PathLike[str]) -> Path | None:
    """The path that this names, also as a `file://` URI; None for another URI."""
    if isinstance(where, os.PathLike) or scheme_of(where) is None:
        return Path(where)
    return Path(url2pathname(urlsplit(where).path)) if scheme_of(where) == "file" else None


@contextmanager
def open_source(
    where: str | os.PathLike[str] | BinaryIO,
    *,
    compression: Compression | str = Compression.AUTO,
    give_up_after_s: float = 300.0,
) -> Iterator[Source]:
    """Open it, and close what was opened here: at once, or where a thread still reads, when that read ends.

    Raises OSError where there is nothing to read, SourceUnreadable for kinds that are not read and for what a server
    refuses, and SourceAway where a server is not reached. `give_up_after_s` bounds later outages of an http server.
    """
    opened = _opened(where, give_up_after_s)
    file = _Guarded(opened)
    try:
        yield _unpacked(opened, file, Compression(compression))
    finally:
        file.close()


@dataclass(frozen=True, slots=True)
class _Opened:
    """A source before it is unpacked."""

    name: str
    file: ReadableFile
    close: Callable[[], None]
    total_bytes: int | None = None
    goes_back_cheaply: bool = True
    mark: str | None = None


def _opened(where: str | os.PathLike[str] | BinaryIO, give_up_after_s: float) -> _Opened:
    if not isinstance(where, str | os.PathLike):
        name = getattr(where, "name", None)
        return _Opened(name if isinstance(name, str) else "input", where, lambda: None, _remaining_bytes(where))
    path = path_of(where)
    if path is not None:
        file = path.open("rb")
        return _Opened(name_of(path), file, file.close, _remaining_bytes(file))
    if is_http(str(where)):
        return _opened_http(str(where), give_up_after_s)
    return _opened_by_fsspec(str(where))


def _opened_http(url: str, give_up_after_s: float) -> _Opened:
    # Loaded late: httpx takes a tenth of a second, and most uploads are files.
    from dari.client.http_file import HttpFile

    file = HttpFile(url, name_of(url), give_up_after_s=give_up_after_s)
    return _Opened(name_of(url), file, file.close, file.size_bytes, goes_back_cheaply=False, mark=file.mark)


def _opened_by_fsspec(uri: str) -> _Opened:
    file_system, path = _remote_file_system(uri)
    with _as_unreadable(uri):
        info = file_system.info(path)
        file = _RemoteFile(uri, file_system.open(path, "rb"))
    marks = [str(info[field]) for field in _MARKING_FIELDS if info.get(field) is not None]
    return _Opened(
        name_of(uri),
        file,
        file.close,
        info.get("size"),
        goes_back_cheaply=False,
        mark=" ".join([*marks, str(info.get("size"))]) if marks else None,
    )


def remote_files(uri: str) -> list[str]:
    """The files of a folder, and of all below it, or of a glob pattern, on a store that fsspec knows, in order.

    A file is the one file of itself. Raises SourceUnreadable, and OSError where the store refuses.
    """
    file_system, path = _remote_file_system(uri)
    with _as_unreadable(uri):
        if file_system.isfile(path):
            return [uri]
        is_pattern = any(sign in path for sign in "*?[")
        found = file_system.glob(path, detail=True) if is_pattern else file_system.find(path, detail=True)
        return sorted(file_system.unstrip_protocol(name) for name, info in found.items() if info["type"] == "file")


def _remote_file_system(uri: str) -> tuple[Any, str]:
    """The file system of fsspec that knows this URI, and the path within it. Raises SourceUnreadable."""
    try:
        import fsspec
    except ImportError as error:
        how = "dari reads this with fsspec; install it with: pip install 'dari[remote]'"
        raise SourceUnreadable(f"{name_of(uri)}: {how}") from error
    with _as_unreadable(uri):
        file_system, path = fsspec.url_to_fs(uri)
        return file_system, str(path)


@contextmanager
def _as_unreadable(uri: str) -> Iterator[None]:
    """A file system of fsspec raises what its own library does; what is no OSError becomes SourceUnreadable."""
    try:
        yield
    except FileNotFoundError as error:
        raise SourceUnreadable(f"{name_of(uri)}: No such file") from error
    except OSError:
        raise
    except Exception as error:
        raise SourceUnreadable(f"{name_of(uri)}: {error or type(error).__name__}") from error


class _RemoteFile:
    """A file of fsspec; what its library raises while it is read is told as SourceUnreadable too."""

    def __init__(self, uri: str, file: Any) -> None:
        self._uri = uri
        self._file = file

    def read(self, size: int, /) -> bytes:
        with _as_unreadable(self._uri):
            return bytes(self._file.read(size))

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def seek(self, offset: int, /) -> int:
        with _as_unreadable(self._uri):
            return int(self._file.seek(offset))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        with _as_unreadable(self._uri):
            self._file.close()


def _unpacked(opened: _Opened, file: "_Guarded", compression: Compression) -> Source:
    readable: ReadableFile = file
    if compression is Compression.AUTO:
        readable = prefixed = _Prefixed(file)
        compression = compression_of(prefixed.head, opened.name)
    if compression is Compression.NONE:
        return Source(opened.name, readable, opened.total_bytes, opened.goes_back_cheaply, opened.mark)
    unpacked = DecompressedFile(readable, compression, opened.name)
    return Source(opened.name, unpacked, None, goes_back_cheaply=False, mark=opened.mark)


class _Prefixed:
    """A file whose first bytes are read and kept, so that nobody goes back for them. Offsets begin at them."""

    def __init__(self, file: ReadableFile) -> None:
        self._file = file
        self._start = file.tell() if file.seekable() else 0
        self._position = 0
        self.head = b""
        while len(self.head) < HEAD_BYTES and (piece := file.read(HEAD_BYTES - len(self.head))):
            self.head += piece

    def read(self, size: int, /) -> bytes:
        piece = self.head[self._position : self._position + size]
        piece += self._file.read(size - len(piece)) if len(piece) < size else b""
        self._position += len(piece)
        return piece

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, /) -> int:
        self._file.seek(self._start + max(offset, len(self.head)))
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position


class _Guarded:
    """A file that one thread reads and another closes without waiting: a pipe may give nothing for ever.

    Where a read is under way, it is the reader who closes, once the read has ended.
    """

    def __init__(self, opened: _Opened) -> None:
        self._file = opened.file
        self._close_file = opened.close
        self._is_closed = False
        # Held by whoever uses the file.
        self._lock = threading.Lock()

    def read(self, size: int, /) -> bytes:
        with self._in_use():
            return self._file.read(size)

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, /) -> int:
        with self._in_use():
            return self._file.seek(offset)

    def tell(self) -> int:
        with self._in_use():
            return self._file.tell()

    def close(self) -> None:
        self._is_closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._close_file()
            finally:
                self._lock.release()

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        try:
            with self._lock:
                if self._is_closed:
                    raise ValueError("read of closed source")
                yield
        finally:
            # After the lock is let go: `close` either got it then, or has left the closing to this thread.
            if self._is_closed:
                self.close()


def _remaining_bytes(file: BinaryIO) -> int | None:
    """Size of what is left to read; None for a pipe."""
    if not file.seekable():
        return None
    here = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(here)
    return end - here
