"""Sources that are files, and files of stores that fsspec knows: what is read, what is not, and as which mark."""

import gzip
import hashlib
import io
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from pydantic import SecretStr

from dari.adapters.sources.addresses import AllowedAddresses
from dari.adapters.sources.bounds import FetchLimits
from dari.adapters.sources.reader import SourceFiles, SourcePlaces
from dari.adapters.sources.web import WebFetcher
from dari.adapters.tenant_secrets import TenantSecrets
from dari.client.decompression import unpacked
from dari.core.sources import KnowledgeBaseSource
from dari.core.sync import Content, SourceFailed, SourceMark
from tests.support.connects import connects

CONTENT = b"id,name\n1,one\n2,two\n"
NEVER = threading.Event()
TENANT, OTHER_TENANT = "default", "other"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def reader(folder: Path, tmp_path: Path) -> SourceFiles:
    return reader_of(folder, tmp_path)


def reader_of(folder: Path, spool: Path, unpack: Callable[[BinaryIO, str], Content] = unpacked) -> SourceFiles:
    limits = FetchLimits(max_bytes=100_000, timeout_s=30.0)
    return SourceFiles(
        WebFetcher(AllowedAddresses(), limits),
        SourcePlaces((folder,), frozenset({"memory"})),
        TenantSecrets(
            {
                "options": SecretStr('{"use_listings_cache": true}'),
                "no json": SecretStr("hunter2"),
                f"{OTHER_TENANT}/theirs": SecretStr("{}"),
            },
            TENANT,
        ),
        unpack,
        spool_dir=spool / "spool",
        limits=limits,
    )


def read(
    reader: SourceFiles, uri: str, known: SourceMark | None = None, secret: str = "", tenant: str = TENANT
) -> tuple[SourceMark, bytes] | None:
    source = KnowledgeBaseSource(uri, credentials_secret=secret)
    with reader.fetch(tenant, source, known or SourceMark(), NEVER) as fetched:
        return None if fetched is None else (fetched.mark, b"".join(iter(lambda: fetched.content.read(1_000), b"")))


def code_of(reader: SourceFiles, uri: str, secret: str = "", tenant: str = TENANT) -> str:
    with pytest.raises(SourceFailed) as caught:
        read(reader, uri, secret=secret, tenant=tenant)
    return caught.value.code


def test_a_file_is_read_again_only_where_it_was_written_since(reader: SourceFiles, folder: Path) -> None:
    file = folder / "판매 2026.csv"
    file.write_bytes(CONTENT)
    found = read(reader, file.as_uri())
    assert found is not None
    mark, content = found
    assert content == CONTENT
    assert mark.sha256 == hashlib.sha256(CONTENT).digest()
    assert read(reader, file.as_uri(), mark) is None
    os.utime(file, ns=(0, 0))
    assert read(reader, file.as_uri(), mark) is not None


def test_what_is_packed_is_hashed_as_it_lies_and_read_unpacked(reader: SourceFiles, folder: Path) -> None:
    packed = gzip.compress(CONTENT)
    (folder / "sales.csv.gz").write_bytes(packed)
    found = read(reader, (folder / "sales.csv.gz").as_uri())
    assert found is not None
    assert (found[0].sha256, found[1]) == (hashlib.sha256(packed).digest(), CONTENT)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


NO_FILES: list[tuple[str, Callable[[Path], object], str]] = [
    ("nothing", lambda path: None, "not_found"),
    ("a folder", lambda path: path.mkdir(), "not_read"),
    ("a pipe that nobody writes into", make_pipe, "not_a_file"),
    ("a link to a device", make_link_to_device, "not_in_source_folders"),
    ("a workbook", lambda path: path.write_bytes(b"PK\x03\x04\x14\0\x06\0\x08\0"), "unreadable_format"),
    ("one that is too large", lambda path: path.write_bytes(b"x" * 100_001), "too_large"),
]


@pytest.mark.parametrize(("make", "code"), [case[1:] for case in NO_FILES], ids=[case[0] for case in NO_FILES])
def test_what_is_no_readable_file_is_told_at_once(
    reader: SourceFiles, folder: Path, make: Callable[[Path], object], code: str
) -> None:
    make(folder / "sales.csv")
    assert code_of(reader, (folder / "sales.csv").as_uri()) == code


OUTSIDE = [
    "file:///etc/passwd",
    "file://{folder}/../secret.csv",
    "file://{folder}/%2e%2e/secret.csv",
    "file://elsewhere{folder}/x.csv",
    "file://{folder}-more/x.csv",
    "file://{folder}/link/secret.csv",
]


@pytest.mark.parametrize("uri", OUTSIDE)
def test_a_file_outside_the_allowed_folders_is_not_read(reader: SourceFiles, folder: Path, uri: str) -> None:
    """By the path, by dots in it, by a link on the way, on another host, in a folder whose name begins the same."""
    (folder.parent / "secret.csv").write_bytes(CONTENT)
    (folder / "link").symlink_to(folder.parent)
    (folder.parent / "in-more").mkdir()
    (folder.parent / "in-more" / "x.csv").write_bytes(CONTENT)
    assert code_of(reader, uri.format(folder=folder)) == "not_in_source_folders"


def test_a_file_that_is_written_while_it_is_read_is_not_taken(folder: Path, tmp_path: Path) -> None:
    """Half of one and half of the next would be stored; a moment later it is read whole."""
    file = folder / "sales.csv"
    file.write_bytes(CONTENT)

    with WrittenMeanwhile(file) as spooled:
        reader = reader_of(folder, tmp_path)
        with pytest.raises(SourceFailed, match="changed_while_read"):
            reader._copied_file(file.as_uri(), SourceMark(), spooled, NEVER)
    assert read(reader, file.as_uri()) is not None


class WrittenMeanwhile(io.BytesIO):
    """Takes a copy, and writes into what it is a copy of."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def write(self, piece: Any, /) -> int:
        if not self.tell():
            with self._file.open("ab") as file:
                file.write(b"3,three\n")
        return super().write(piece)


# Bombs.


def test_a_bomb_is_unpacked_a_piece_at_a_time(folder: Path, tmp_path: Path) -> None:
    """64 MiB in 64 KiB: it takes no more than what is asked for; an upload's own limits end it."""
    packer = zlib.compressobj(9, wbits=31)
    (folder / "bomb.csv").write_bytes(packer.compress(bytes(64 * 1024 * 1024)) + packer.flush())
    source = KnowledgeBaseSource((folder / "bomb.csv").as_uri())
    with reader_of(folder, tmp_path).fetch(TENANT, source, SourceMark(), NEVER) as fetched:
        assert fetched is not None
        sizes = list(map(len, iter(lambda: fetched.content.read(65_536), b"")))
    assert (max(sizes), sum(sizes)) == (65_536, 64 * 1024 * 1024)


@pytest.mark.parametrize("stays", [0.5, 0.99])
def test_a_cut_or_damaged_archive_is_told_as_it_is_read(reader: SourceFiles, folder: Path, stays: float) -> None:
    packed = gzip.compress(os.urandom(50_000))
    (folder / "sales.csv").write_bytes(packed[: int(len(packed) * stays)])
    assert code_of(reader, (folder / "sales.csv").as_uri()) == "damaged"


# Stores.


def test_a_file_of_a_store_is_read_again_only_where_the_store_tells_of_another_one(
    reader: SourceFiles, store: Any
) -> None:
    store.pipe("/bucket/sales.csv", CONTENT)
    found = read(reader, "memory://bucket/sales.csv", secret="options")
    assert found is not None
    assert found[1] == CONTENT
    assert read(reader, "memory://bucket/sales.csv", found[0]) is None
    store.pipe("/bucket/sales.csv", CONTENT + b"3,three\n")
    again = read(reader, "memory://bucket/sales.csv", found[0])
    assert again is not None
    assert again[1] == CONTENT + b"3,three\n"


STORES = [
    ("memory://bucket/none.csv", "", "not_found"),
    ("memory://bucket/sales.csv", "missing", "unknown_secret"),
    ("memory://bucket/sales.csv", "no json", "cannot_open"),
    ("ftp://bucket/sales.csv", "", "scheme_not_allowed"),
    ("local:///etc/passwd", "", "scheme_not_allowed"),
    ("memory://bucket/sales.csv::http://127.0.0.1:9/x", "", "scheme_not_allowed"),
    ("memory://bucket/large.csv", "", "too_large"),
]


@pytest.mark.parametrize(("uri", "secret", "code"), STORES)
def test_what_a_store_does_not_give_is_told_by_a_code(
    reader: SourceFiles, store: Any, uri: str, secret: str, code: str
) -> None:
    """A chain of file systems would lead elsewhere than its first link says: no connection is made."""
    store.pipe("/bucket/sales.csv", CONTENT)
    store.pipe("/bucket/large.csv", bytes(100_001))
    with connects() as made:
        assert code_of(reader, uri, secret) == code
    assert made == []


def test_a_tenant_s_source_reaches_no_secret_of_another(reader: SourceFiles, store: Any) -> None:
    """Each under its plain name; with the other's prefix nothing is found at all."""
    store.pipe("/bucket/sales.csv", CONTENT)
    uri = "memory://bucket/sales.csv"
    assert read(reader, uri, secret="theirs", tenant=OTHER_TENANT) is not None
    assert code_of(reader, uri, "theirs", TENANT) == "unknown_secret"
    assert code_of(reader, uri, "options", OTHER_TENANT) == "unknown_secret"
    assert code_of(reader, uri, f"{OTHER_TENANT}/theirs", "third") == "unknown_secret"


def test_what_a_store_s_library_raises_is_told_by_a_code_and_not_by_its_words(
    reader: SourceFiles, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.pipe("/bucket/sales.csv", CONTENT)

    def broken(*_: Any, **__: Any) -> Iterator[bytes]:
        raise RuntimeError("the key hunter2 has expired")

    monkeypatch.setattr(type(store), "open", broken)
    with pytest.raises(SourceFailed) as caught:
        read(reader, "memory://bucket/sales.csv")
    assert caught.value.code == "cannot_open"
    assert "hunter2" not in str(caught.value)
