"""Reads gzip and zstd as what they were made of, a piece at a time, known by their first bytes and not by their name.

Several members or frames one after another are one file, as `cat a.gz b.gz` makes it. A file that ends in the middle of
one, or has anything else behind it, is SourceDamaged: text that is not whole never looks as if it were.
"""

import sys
import zlib
from enum import StrEnum
from typing import Protocol

from dari.client.errors import SourceDamaged, SourceUnreadable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

READ_BYTES = 128 * 1024
"""Compressed bytes read at once."""

HEAD_BYTES = 10
"""Bytes that tell the format."""


class Compression(StrEnum):
    """How a source is packed."""

    AUTO = "auto"
    """Found out by its first bytes."""
    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


class ReadableFile(Protocol):
    """What of a binary file is needed; every binary file of the standard library has it."""

    def read(self, size: int, /) -> bytes: ...
    def seekable(self) -> bool: ...
    def seek(self, offset: int, /) -> int: ...
    def tell(self) -> int: ...


class DecompressedFile:
    """The content of a compressed file, read from where that file stands. Not thread-safe, closes nothing.

    It seeks where the compressed file does: backwards by beginning again, so at the price of all that lies before.
    Memory: a piece read, a piece given, and the format's window (32 KiB for gzip, at most 128 MiB for zstd).
    """

    def __init__(self, file: ReadableFile, compression: Compression, name: str) -> None:
        """`name` stands in the messages of errors; `compression` is GZIP or ZSTD."""
        self._file = file
        self._compression = compression
        self._name = name
        self._start = file.tell() if file.seekable() else 0
        self._begin()

    def seekable(self) -> bool:
        return self._file.seekable()

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, /) -> int:
        """Stand at this byte of the content, or at its end where that comes first."""
        if offset < self._position:
            self._file.seek(self._start)
            self._begin()
        while self._position < offset and self.read(min(READ_BYTES, offset - self._position)):
            pass
        return self._position

    def read(self, size: int, /) -> bytes:
        """1 to `size` bytes of content; none at its end. Raises SourceDamaged."""
        piece = b""
        while not piece:
            if self._decoder.eof and not self._begin_next_member():
                return b""
            try:
                piece = self._decoder.decompress(self._next_input(), size)
            except (zlib.error, zstd.ZstdError) as error:
                raise SourceDamaged(
                    f"{self._name}: damaged {self._compression} near its byte {self._bytes_read:,}: {error}"
                ) from error
        self._position += len(piece)
        return piece

    def _begin(self) -> None:
        self._position = 0
        self._bytes_read = 0
        self._rest = b""
        self._decoder = self._new_decoder()

    def _new_decoder(self) -> "_Decoder":
        return _GzipMember() if self._compression is Compression.GZIP else zstd.ZstdDecompressor()

    def _begin_next_member(self) -> bool:
        """Whether anything follows the member that has ended. Zeros behind gzip are padding, as gzip itself has it."""
        self._rest = self._decoder.unused_data
        while True:
            if self._compression is Compression.GZIP:
                self._rest = self._rest.lstrip(b"\0")
            if self._rest:
                self._decoder = self._new_decoder()
                return True
            self._rest = self._read_compressed()
            if not self._rest:
                return False

    def _next_input(self) -> bytes:
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        if not self._decoder.needs_input:
            return b""
        compressed = self._read_compressed()
        if not compressed:
            raise SourceDamaged(
                f"{self._name}: the file was cut; it ends at its byte {self._bytes_read:,}, "
                f"in the middle of its {self._compression}."
            )
        return compressed

    def _read_compressed(self) -> bytes:
        compressed = self._file.read(READ_BYTES)
        self._bytes_read += len(compressed)
        return compressed


def unpacked(file: ReadableFile, name: str) -> ReadableFile:
    """The content of a seekable file from where it stands, packed or not. Raises SourceUnreadable, OSError."""
    start = file.tell()
    compression = compression_of(file.read(HEAD_BYTES), name)
    file.seek(start)
    return file if compression is Compression.NONE else DecompressedFile(file, compression, name)


def compression_of(head: bytes, name: str) -> Compression:
    """The format that begins with these bytes, `HEAD_BYTES` or all there are.

    Raises SourceUnreadable for archives and formats that are known and not read.
    """
    for magic, compression in _READ_MAGICS:
        if head.startswith(magic):
            return compression
    if head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return Compression.ZSTD  # begins with a skippable frame, RFC 8878 section 3.1.2
    for magic, what in _REFUSED_MAGICS:
        if head.startswith(magic):
            raise SourceUnreadable(f"{name}: this is {what}; unpack it, or convert it to CSV.")
    return Compression.NONE


_READ_MAGICS = (
    (b"\x1f\x8b\x08", Compression.GZIP),  # RFC 1952
    (b"\x28\xb5\x2f\xfd", Compression.ZSTD),  # RFC 8878
)
_REFUSED_MAGICS = (
    (b"PK\x03\x04", "a ZIP archive or a workbook"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook"),
    (b"PAR1", "a Parquet file"),
)


class _Decoder(Protocol):
    """One member or frame: what zstd's decompressor offers."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipMember:
    """zlib's decompressor, which leaves what it did not get to with its caller."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflater.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflater.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inflater.decompress(self._inflater.unconsumed_tail + data, max_length)
