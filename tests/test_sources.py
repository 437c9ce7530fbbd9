"""Sources of uploads, through the client to a fake server: packed ones, web servers that break, stores of fsspec."""

import gzip
import hashlib
import io
import os
import random
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dari.client import (
    CHUNK_BYTES,
    REPLAY_LIMIT_BYTES,
    Client,
    Compression,
    SourceAway,
    SourceDamaged,
    SourceUnreadable,
    UploadInterrupted,
    open_source,
)
from dari.client.decompression import DecompressedFile
from dari.client.replay import ReplayableSource
from dari.client.source import name_of
from dari.v1 import ingest_pb2
from dari.v1.ingest_pb2 import UPLOAD_MODE_REPLACE
from tests.support.fake_dari import FakeDari, Fault
from tests.support.file_server import FileServer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.usefixtures("no_proxy")

TEXT = b"".join(b"%09d,%032x\n" % (number, random.Random(number).getrandbits(128)) for number in range(30_000))
"""1.3 MB that pack to about a half."""


def ingest(client: Client, source: Any, **options: Any) -> ingest_pb2.Receipt:
    return client.ingest(source, "knowledgeBases/sales", UPLOAD_MODE_REPLACE, **options)


def stored(dari: FakeDari, receipt: ingest_pb2.Receipt) -> bytes:
    return bytes(dari.ingest.uploads[receipt.upload.removeprefix("uploads/")].safe)


def gzip_of(text: bytes) -> bytes:
    return gzip.compress(text, compresslevel=1)


def zstd_of(text: bytes) -> bytes:
    # With a checksum, as the zstd command writes it.
    return zstd.compress(text, options={zstd.CompressionParameter.checksum_flag: 1})


PACKERS = {"gzip": gzip_of, "zstd": zstd_of}
Packer = Callable[[bytes], bytes]


@pytest.fixture(params=PACKERS)
def pack(request: pytest.FixtureRequest) -> Packer:
    return PACKERS[request.param]


SKIPPABLE_FRAME = b"\x5a\x2a\x4d\x18\x03\0\0\0abc"

PACKED = [
    ("gzip", gzip_of(TEXT), TEXT),
    ("gzip of nothing", gzip_of(b""), b""),
    ("gzip, two members", gzip_of(TEXT[:1_000]) + gzip_of(TEXT[1_000:]), TEXT),
    ("gzip, an empty member between", gzip_of(b"a\n") + gzip_of(b"") + gzip_of(b"1\n"), b"a\n1\n"),
    ("gzip, padded with zeros", gzip_of(b"a\n1\n") + b"\0" * 1_000_000, b"a\n1\n"),
    ("zstd", zstd_of(TEXT), TEXT),
    ("zstd of nothing", zstd_of(b""), b""),
    ("zstd, two frames", zstd_of(TEXT[:1_000]) + zstd_of(TEXT[1_000:]), TEXT),
    ("zstd, a skippable frame first", SKIPPABLE_FRAME + zstd_of(TEXT), TEXT),
    ("zstd, a skippable frame last", zstd_of(TEXT) + SKIPPABLE_FRAME, TEXT),
    ("not packed", TEXT, TEXT),
    ("nothing", b"", b""),
    ("one byte", b"a", b"a"),
]


@pytest.mark.parametrize("kind", ["file", "pipe"])
@pytest.mark.parametrize(("packed", "text"), [row[1:] for row in PACKED], ids=[row[0] for row in PACKED])
def test_what_is_packed_is_known_by_its_first_bytes_and_unpacked(
    dari: FakeDari, client: Client, tmp_path: Path, packed: bytes, text: bytes, kind: str
) -> None:
    """From a file whose name says nothing, and from a pipe: the server has the text, and its size and hash."""
    path = tmp_path / "sales"
    path.write_bytes(packed)
    source = path if kind == "file" else Pipe(packed)
    receipt = ingest(client, source)
    assert stored(dari, receipt) == text
    assert receipt.size_bytes == len(text)


def test_what_is_packed_can_be_sent_as_it_is(dari: FakeDari, client: Client) -> None:
    """`compression="none"`."""
    packed = gzip_of(TEXT)
    assert stored(dari, ingest(client, io.BytesIO(packed), compression="none")) == packed


@pytest.mark.parametrize("stays", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_cut_file_is_never_complete(dari: FakeDari, client: Client, pack: Packer, stays: float, kind: str) -> None:
    """The beginning may be safe on the server, but `finish` is not sent, and the error says what is wrong."""
    packed = pack(TEXT)
    cut = packed[: int(len(packed) * stays)]
    with pytest.raises(SourceDamaged, match=f"was cut; it ends at its byte {len(cut):,}"):
        ingest(client, io.BytesIO(cut) if kind == "file" else Pipe(cut))
    assert all(known.receipt is None for known in dari.ingest.uploads.values())


def test_every_cut_is_found(pack: Packer) -> None:
    """Behind each byte but the last, and behind none."""
    packed = pack(b"id,name\n1,one\n2,two\n")
    for length in range(10, len(packed)):
        with pytest.raises(SourceDamaged), open_source(io.BytesIO(packed[:length])) as source:
            read_all(source.file)
    with open_source(io.BytesIO(packed)) as source:
        assert read_all(source.file) == b"id,name\n1,one\n2,two\n"


def test_a_damaged_file_is_never_complete(dari: FakeDari, client: Client, pack: Packer) -> None:
    """One bit, in the middle of the packed text."""
    packed = bytearray(pack(TEXT))
    packed[len(packed) // 2] ^= 0x10
    with pytest.raises(SourceDamaged, match=r"damaged (gzip|zstd) near its byte"):
        ingest(client, io.BytesIO(packed))
    assert all(known.receipt is None for known in dari.ingest.uploads.values())


def test_text_behind_the_end_of_packed_text_is_refused(client: Client, pack: Packer) -> None:
    """It would be lost otherwise."""
    with pytest.raises(SourceDamaged):
        ingest(client, io.BytesIO(pack(TEXT) + b"1,one more row\n"))


def test_what_is_said_to_be_packed_and_is_not_is_refused(client: Client) -> None:
    for compression in (Compression.GZIP, Compression.ZSTD):
        with pytest.raises(SourceDamaged):
            ingest(client, io.BytesIO(TEXT), compression=compression)


REFUSED = [
    (b"PK\x03\x04\x14\0\x06\0\x08\0", "a ZIP archive or a workbook"),
    (b"\xfd7zXZ\x00\x00\x04\xe6\xd6", "an xz file"),
    (b"PAR1\x15\x04\x15\x10\x15\x14", "a Parquet file"),
]


@pytest.mark.parametrize(("head", "what"), REFUSED)
def test_files_that_are_no_text_are_refused_by_name(
    dari: FakeDari, client: Client, tmp_path: Path, head: bytes, what: str
) -> None:
    """Before anything is opened on the server."""
    path = tmp_path / "sales.csv"
    path.write_bytes(head * 10)
    with pytest.raises(SourceUnreadable, match=f"sales.csv: this is {what}"):
        ingest(client, path)
    assert not dari.ingest.openings


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_packed_upload_that_breaks_is_stored_once(dari: FakeDari, client: Client, pack: Packer, kind: str) -> None:
    """Cut again and again, before the receipt too."""
    dari.ingest.faults.extend([Fault(100_000), Fault(0), Fault(CHUNK_BYTES), Fault(-1)])
    packed = pack(TEXT)
    receipt = ingest(client, io.BytesIO(packed) if kind == "file" else Pipe(packed))
    assert stored(dari, receipt) == TEXT


def test_a_packed_upload_goes_on_in_another_process(
    dari: FakeDari, client: Client, pack: Packer, tmp_path: Path
) -> None:
    """What is safe is unpacked again for its hash, and not sent."""
    path = tmp_path / "sales.csv.packed"
    path.write_bytes(pack(TEXT))
    dari.ingest.faults.append(Fault(3 * CHUNK_BYTES))
    with pytest.raises(UploadInterrupted):
        ingest(client, path, upload_id="sales-7", give_up_after_s=0)
    taken = dari.ingest.chunks_taken
    assert stored(dari, ingest(client, path, upload_id="sales-7")) == TEXT
    assert 0 < dari.ingest.chunks_taken - taken < len(TEXT) / CHUNK_BYTES


def test_dropped_bytes_of_a_packed_file_are_unpacked_again() -> None:
    """The buffer holds a little; what is before that comes by going back to the beginning."""
    file = io.BytesIO(gzip_of(TEXT))
    unpacked = DecompressedFile(file, Compression.GZIP, "sales")
    source = ReplayableSource(unpacked, goes_back_cheaply=False, chunk_bytes=1_000, replay_limit_bytes=5_000)
    offset = 0
    while piece := source.read(offset):
        offset += len(piece)
    assert offset == len(TEXT)
    for again in (len(TEXT) - 2_500, 10, 500_000, 0):
        assert TEXT[again:].startswith(source.read(again))
    assert source.digest() == hashlib.sha256(TEXT).digest()


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_an_unpacked_file_reads_and_seeks_as_the_text_itself(data: st.DataObject) -> None:
    """For all texts, members, and orders of reads and seeks."""
    parts = data.draw(st.lists(st.binary(max_size=300), min_size=1, max_size=4))
    packer = data.draw(st.sampled_from(sorted(PACKERS)))
    text = b"".join(parts)
    unpacked = DecompressedFile(io.BytesIO(b"".join(map(PACKERS[packer], parts))), Compression(packer), "any")
    for offset, size in data.draw(st.lists(st.tuples(st.integers(0, 1_200), st.integers(1, 400)), max_size=8)):
        assert unpacked.seek(offset) == min(offset, len(text))
        piece = unpacked.read(size)
        assert len(piece) <= size
        assert bool(piece) == (offset < len(text))
        assert text[offset:].startswith(piece)
    unpacked.seek(0)
    assert read_all(unpacked) == text


def test_a_bomb_is_unpacked_in_small_pieces() -> None:
    """64 MiB of zeros in 64 KiB: no read gives more than was asked for, and little is held between."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = packer.compress(bytes(64 * 1024 * 1024)) + packer.flush()
    unpacked = DecompressedFile(io.BytesIO(bomb), Compression.GZIP, "bomb")
    sizes = []
    while piece := unpacked.read(CHUNK_BYTES):
        sizes.append(len(piece))
    assert sum(sizes) == 64 * 1024 * 1024
    assert max(sizes) <= CHUNK_BYTES


@pytest.mark.parametrize("knows_ranges", [True, False])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_on_a_web_server_that_dies_in_the_middle_is_stored_once(
    dari: FakeDari, client: Client, knows_ranges: bool, packed: bool
) -> None:
    """Cut three times: asked for again from the byte where it broke, or from the beginning, dropping what came."""
    content = gzip_of(TEXT) if packed else TEXT
    with FileServer(content, knows_ranges=knows_ranges) as server:
        server.cuts.extend([100_000, 200_000, 0])
        receipt = ingest(client, server.url)
        assert stored(dari, receipt) == TEXT
        assert server.ranges[0] is None
        assert all(asked is not None for asked in server.ranges[1:])
        if knows_ranges:
            assert server.sent_bytes == len(content)
        else:
            assert server.sent_bytes > len(content)


def test_a_web_server_that_is_busy_in_the_middle_is_waited_for(dari: FakeDari, client: Client) -> None:
    """A cut, 503, a closed connection, then the rest."""
    with FileServer(TEXT) as server:
        server.cuts.append(300_000)
        with open_source(server.url) as source:
            server.statuses.extend([503, 0])
            assert stored(dari, ingest(client, source)) == TEXT
        assert len(server.ranges) == 4


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_an_upload_from_the_web_that_breaks_on_dari_s_side_goes_on(
    dari: FakeDari, client: Client, knows_ranges: bool
) -> None:
    """What is not committed is kept: the web server is not asked again."""
    dari.ingest.faults.extend([Fault(CHUNK_BYTES), Fault(2 * CHUNK_BYTES), Fault(-1)])
    with FileServer(TEXT, knows_ranges=knows_ranges) as server:
        assert stored(dari, ingest(client, server.url)) == TEXT
        assert len(server.ranges) == 1


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_dropped_bytes_of_a_web_file_are_asked_for_again(knows_ranges: bool) -> None:
    with FileServer(TEXT, knows_ranges=knows_ranges) as server, open_source(server.url) as opened:
        source = ReplayableSource(
            opened.file, goes_back_cheaply=opened.goes_back_cheaply, chunk_bytes=10_000, replay_limit_bytes=20_000
        )
        offset = 0
        while piece := source.read(offset):
            offset += len(piece)
        assert offset == len(TEXT)
        assert source.read(77_777) == TEXT[77_777:87_777]


CHANGES: list[tuple[str, Callable[[FileServer], None]]] = [
    ("another ETag", lambda server: setattr(server, "etag", '"2"')),
    ("another size", lambda server: setattr(server, "content", TEXT + b"one more\n")),
    ("shorter than what came", lambda server: setattr(server, "content", TEXT[:1_000])),
]


@pytest.mark.parametrize("knows_ranges", [True, False])
@pytest.mark.parametrize("change", [row[1] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_a_web_file_that_changes_is_never_mixed(knows_ranges: bool, change: Callable[[FileServer], None]) -> None:
    """The beginning of one file and the end of another would look whole."""
    with FileServer(TEXT, knows_ranges=knows_ranges) as server:
        server.cuts.append(300_000)
        with open_source(server.url) as source:
            change(server)
            with pytest.raises(SourceUnreadable, match=r"changed|shorter|416"):
                read_all(source.file)


def test_a_web_file_that_may_be_another_one_each_time_is_not_gone_on_with(dari: FakeDari, client: Client) -> None:
    """No ETag, no Last-Modified: the rest might be of another file."""
    with FileServer(TEXT) as server:
        server.etag = None
        server.cuts.append(300_000)
        with pytest.raises(SourceUnreadable, match="broke at byte 300,000"):
            ingest(client, server.url)
    assert all(known.receipt is None for known in dari.ingest.uploads.values())


STATUSES = [(404, SourceUnreadable, "HTTP 404"), (403, SourceUnreadable, "HTTP 403"), (503, SourceAway, "HTTP 503")]


@pytest.mark.parametrize(("status", "kind", "said"), STATUSES)
def test_what_a_web_server_refuses_is_told_at_once(
    dari: FakeDari, client: Client, status: int, kind: type[Exception], said: str
) -> None:
    """Nothing was opened on dari, nothing is tried again, and the keys of the URL are not shown."""
    with FileServer(TEXT) as server:
        server.statuses.append(status)
        with pytest.raises(kind, match=said) as caught:
            ingest(client, f"{server.url}?key=swordfish")
        assert type(caught.value) is kind
        assert len(server.ranges) == 1
    assert "swordfish" not in str(caught.value)
    assert not dari.ingest.openings


def test_a_web_server_that_stays_away_is_given_up(dari: FakeDari, client: Client) -> None:
    """The error says at which byte; the upload stays open."""
    with FileServer(TEXT) as server:
        server.cuts.append(300_000)
        with open_source(server.url, give_up_after_s=0.3) as source:
            server.statuses.extend([503] * 1_000)
            with pytest.raises(SourceAway, match=r"gave up after .* at byte 300,000: HTTP 503"):
                ingest(client, source, upload_id="sales-7")
    assert dari.ingest.uploads["sales-7"].receipt is None


def test_a_web_server_where_nobody_listens_is_told_at_once(client: Client) -> None:
    with pytest.raises(SourceAway, match=r"http://127\.0\.0\.1:1/sales\.csv: "):
        ingest(client, "http://127.0.0.1:1/sales.csv")


def test_a_web_file_of_unknown_size_is_read_to_its_end(dari: FakeDari, client: Client) -> None:
    with FileServer(TEXT) as server:
        server.says_length = False
        with open_source(server.url) as source:
            assert source.total_bytes is None
        assert stored(dari, ingest(client, server.url)) == TEXT


def test_a_wrapping_that_cannot_be_taken_off_is_refused(client: Client) -> None:
    """A server that packs unasked: gzip comes off by its first bytes, brotli has none."""
    with FileServer(TEXT) as server:
        server.encoding = "br"
        with pytest.raises(SourceUnreadable, match="packed as br"):
            ingest(client, server.url)


URLS = [
    ("https://user:key@host/a.csv?sig=1#x", "https://host/a.csv"),
    ("http://host/a@b.csv", "http://host/a@b.csv"),
    ("http://host", "http://host"),
    ("s3://key:secret@bucket/sales-?.csv", "s3://bucket/sales-?.csv"),
    ("data/a@b.csv", "data/a@b.csv"),
]


@pytest.mark.parametrize(("url", "shown"), URLS)
def test_the_secrets_of_a_uri_are_not_shown(url: str, shown: str) -> None:
    assert name_of(url) == shown


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_of_any_store_that_fsspec_knows_is_read(
    dari: FakeDari, client: Client, store: Any, packed: bool
) -> None:
    """Broken on the way, unpacked where it is packed."""
    store.pipe("/bucket/sales.csv", gzip_of(TEXT) if packed else TEXT)
    dari.ingest.faults.extend([Fault(CHUNK_BYTES), Fault(-1)])
    assert stored(dari, ingest(client, "memory://bucket/sales.csv")) == TEXT


def test_a_file_uri_is_a_path(dari: FakeDari, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "sales 2026.csv"
    path.write_bytes(TEXT)
    assert stored(dari, ingest(client, path.as_uri())) == TEXT


UNREADABLE = [
    ("memory://bucket/none.csv", "No such file"),
    ("nonsense://bucket/sales.csv", "(?i)nonsense"),
    ("http:///sales.csv", "http"),
]


@pytest.mark.parametrize(("uri", "said"), UNREADABLE)
def test_a_uri_that_cannot_be_read_says_why(dari: FakeDari, client: Client, store: Any, uri: str, said: str) -> None:
    with pytest.raises(SourceUnreadable, match=said):
        ingest(client, uri)
    assert not dari.ingest.openings


def test_what_a_store_s_library_raises_is_a_source_error(
    client: Client, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be anything, and comes in the middle."""

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 0:
                raise RuntimeError("the token has expired")
            return super().read(size)

    store.pipe("/bucket/sales.csv", TEXT)
    monkeypatch.setattr(type(store), "open", lambda *_, **__: Broken(TEXT))
    with pytest.raises(SourceUnreadable, match=r"memory://bucket/sales\.csv: the token has expired"):
        ingest(client, "memory://bucket/sales.csv")


def test_without_fsspec_a_uri_says_what_to_install(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(SourceUnreadable, match=r"pip install 'dari\[remote\]'"):
        ingest(client, "s3://bucket/sales.csv")


MARKS: list[tuple[str, Callable[[Any], None], bool]] = [
    ("as it was", lambda store: None, True),
    ("written again", lambda store: store.pipe("/sales.csv", TEXT), False),
]


@pytest.mark.parametrize(("change", "is_same"), [row[1:] for row in MARKS], ids=[row[0] for row in MARKS])
def test_a_store_s_file_is_marked_by_what_the_store_says(
    store: Any, change: Callable[[Any], None], is_same: bool
) -> None:
    store.pipe("/sales.csv", TEXT)
    with open_source("memory://sales.csv") as source:
        first = source.mark
    change(store)
    with open_source("memory://sales.csv") as source:
        assert first is not None
        assert (source.mark == first) is is_same


def test_closing_does_not_wait_for_a_pipe_that_says_nothing() -> None:
    """The thread that reads closes the pipe once its read has ended."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"ten bytes.")
    pipe = Path(f"/dev/fd/{read_end}")
    with open_source(pipe) as source:
        source.file.read(10)
        reader = threading.Thread(target=source.file.read, args=(10,))
        reader.start()
    os.close(write_end)
    reader.join(timeout=30)
    assert not reader.is_alive()
    with pytest.raises(ValueError, match="closed"):
        source.file.read(10)
    os.close(read_end)


def test_the_replay_buffer_of_a_packed_file_is_bounded(pack: Packer) -> None:
    """A server that never commits: the bytes kept stay below the limit."""
    unpacked = DecompressedFile(io.BytesIO(pack(bytes(96 * 1024 * 1024))), Compression(pack.__name__[:4]), "zeros")
    source = ReplayableSource(unpacked, goes_back_cheaply=False)
    offset = 0
    while piece := source.read(offset):
        offset += len(piece)
        assert source._kept_bytes <= REPLAY_LIMIT_BYTES
    assert offset == 96 * 1024 * 1024


class Pipe(io.RawIOBase):
    """A source that cannot seek, and gives less than it is asked for."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        return self._content.read(min(size, 7 if self._content.tell() < 100 else 65_536))


def read_all(file: Any) -> bytes:
    return b"".join(iter(lambda: file.read(50_000), b""))
