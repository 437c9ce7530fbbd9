"""Fetches a source whole onto this machine's disk, then hands it over unpacked: memory holds a piece of it.

What is on the disk does not change while it is hashed, sent, and sent again; it goes with the fetch.
"""

import errno
import hashlib
import importlib
import json
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from dari.adapters.sources.bounds import FetchBounds, FetchLimits
from dari.adapters.sources.web import WebFetcher
from dari.adapters.tenant_secrets import TenantSecrets, UnknownSecret
from dari.core.sources import KnowledgeBaseSource
from dari.core.sync import Content, Fetched, SourceFailed, SourceMark

_PIECE_BYTES = 256 * 1024
_MARKING_FIELDS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime", "created")
"""Where fsspec's file systems tell that a file has changed."""

Unpack = Callable[[BinaryIO, str], Content]
"""The content of a file that may be packed, and its name for messages. Raises OSError, then and as it is read."""


@dataclass(frozen=True, slots=True)
class SourcePlaces:
    """What may be read beside the web."""

    folders: tuple[Path, ...] = ()
    """Of `file:`; links that lead out of them are refused."""
    schemes: frozenset[str] = frozenset()
    """Of URIs that fsspec reads."""


class SourceFiles:
    """A SourceReader. Thread-safe."""

    def __init__(
        self,
        web: WebFetcher,
        places: SourcePlaces,
        secrets: TenantSecrets,
        unpack: Unpack,
        *,
        spool_dir: Path,
        limits: FetchLimits,
    ) -> None:
        self._web = web
        self._places = places
        self._secrets = secrets
        self._unpack = unpack
        self._spool_dir = spool_dir
        self._limits = limits

    @contextmanager
    def fetch(
        self, tenant: str, source: KnowledgeBaseSource, known: SourceMark, stopped: threading.Event
    ) -> Iterator[Fetched | None]:
        """See SourceReader."""
        self._spool_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._spool_dir) as spool:
            with _as_source_failed():
                mark = self._spooled(tenant, source, known, cast(BinaryIO, spool), stopped)
            if mark is None:
                yield None
                return
            size_bytes = spool.tell()
            spool.seek(0)
            mark = replace(mark, sha256=hashlib.file_digest(spool, "sha256").digest())
            spool.seek(0)
            with _as_source_failed("unreadable_format"):
                content = self._unpack(cast(BinaryIO, spool), "source")
            yield Fetched(mark, size_bytes, _Guarded(content))

    def _spooled(
        self, tenant: str, source: KnowledgeBaseSource, known: SourceMark, into: BinaryIO, stopped: threading.Event
    ) -> SourceMark | None:
        try:
            secret = self._secrets.of(tenant, source.credentials_secret) or ""
        except UnknownSecret as error:
            raise SourceFailed("unknown_secret") from error
        scheme = urlsplit(source.uri).scheme
        if scheme in ("http", "https"):
            return self._web.fetch(source.uri, secret, known, into, stopped)
        if scheme == "file":
            return self._copied_file(source.uri, known, into, stopped)
        # fsspec reads a chain, `s3://…::http://…`, whose other links are no allowed place.
        if scheme not in self._places.schemes or "::" in source.uri:
            raise SourceFailed("scheme_not_allowed")
        with _as_cannot_open():
            return self._copied_object(source.uri, secret, known, into, stopped)

    def _copied_file(self, uri: str, known: SourceMark, into: BinaryIO, stopped: threading.Event) -> SourceMark | None:
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost"):
            raise SourceFailed("not_in_source_folders")
        # Opened by the path without any link in it, and O_NOFOLLOW for one that is put there meanwhile.
        path = Path(unquote(parts.path)).resolve()
        if not any(path.is_relative_to(folder.resolve()) for folder in self._places.folders):
            raise SourceFailed("not_in_source_folders")
        with os.fdopen(_opened_below(path), "rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise SourceFailed("not_a_file")
            mark = _mark_of(state)
            if _is_known(mark, known):
                return None
            self._copy(file, into, stopped)
            if _mark_of(os.fstat(file.fileno())) != mark:
                raise SourceFailed("changed_while_read")
        return mark

    def _copied_object(
        self, uri: str, secret: str, known: SourceMark, into: BinaryIO, stopped: threading.Event
    ) -> SourceMark | None:
        options = json.loads(secret) if secret else {}
        # A file system that is kept would keep its listings too, and tell of no change, and the credentials.
        options["skip_instance_cache"] = True
        file_system, path = importlib.import_module("fsspec").core.url_to_fs(uri, **options)
        info = file_system.info(path)
        tags = [str(info[field]) for field in _MARKING_FIELDS if info.get(field) is not None]
        mark = SourceMark(" ".join([*tags, str(info.get("size"))]) if tags else "")
        if tags and _is_known(mark, known):
            return None
        with file_system.open(path, "rb") as file:
            self._copy(file, into, stopped)
        return mark

    def _copy(self, file: Any, into: BinaryIO, stopped: threading.Event) -> None:
        bounds = FetchBounds(self._limits, stopped)
        while piece := file.read(_PIECE_BYTES):
            bounds.take(piece, into)


class _Guarded:
    """Content whose errors are SourceFailed."""

    def __init__(self, content: Content) -> None:
        self._content = content

    def read(self, size: int, /) -> bytes:
        with _as_source_failed("damaged"):
            return self._content.read(size)

    def seek(self, offset: int, /) -> int:
        with _as_source_failed("damaged"):
            return self._content.seek(offset)


@contextmanager
def _as_source_failed(code: str = "not_read") -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise SourceFailed("not_found") from None
    except OSError as error:
        raise SourceFailed("disk_full" if error.errno == errno.ENOSPC else code) from None


@contextmanager
def _as_cannot_open() -> Iterator[None]:
    """A file system of fsspec raises what its own library does, and its words may hold credentials."""
    try:
        yield
    except (SourceFailed, OSError):
        raise
    except Exception:  # noqa: BLE001 - it may be anything
        raise SourceFailed("cannot_open") from None


def _mark_of(state: os.stat_result) -> SourceMark:
    return SourceMark(f"{state.st_dev}:{state.st_ino}:{state.st_size}", str(state.st_mtime_ns))


def _is_known(mark: SourceMark, known: SourceMark) -> bool:
    return bool(known.sha256) and (mark.etag, mark.last_modified) == (known.etag, known.last_modified)


def _opened_below(path: Path) -> int:
    """Open a resolved path part by part, so that no folder on the way can become a link meanwhile. Raises OSError."""
    folder = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in path.parts[1:-1]:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        # Non-blocking: a pipe that nobody writes into would otherwise never open.
        file = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)
    return file
