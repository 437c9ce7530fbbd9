"""CSV files whose content is known: made from a seed or of any size, with what must come of them.

The hash of rows does not depend on their order: the sum of the first 60 bits of each row's MD5, its cells joined by
U+001F. `exactly_once` has PostgreSQL compute the same over what is stored.
"""

import hashlib
import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from typing_extensions import Buffer

SEPARATOR = "\x1f"
_HEADER = b"id,code,text\n"
_BLOCK_ROWS = 1_024
_REJECTED_EVERY = 256


@dataclass(frozen=True, slots=True)
class Expected:
    """What must be stored of a file."""

    size_bytes: int
    rows_stored: int
    rows_rejected: int
    rows_hash: int


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file in memory. Its rejected rows begin at `rejected_lines`."""

    data: bytes
    expected: Expected
    rejected_lines: tuple[int, ...]


def rows_hash(rows: Iterator[Sequence[str]]) -> int:
    """The sum over all rows; see the module."""
    return sum(_row_hash(SEPARATOR.join(cells).encode()) for cells in rows)


def seeded_file(chance: random.Random, *, most_rows: int = 12_000) -> KnownFile:
    """Up to two megabytes of quoted line ends, Korean, formulas, and rows with a NUL, which PostgreSQL cannot hold."""
    lines, rejected_lines, line = ["id,text\n"], [], 2
    rows: list[tuple[str, str]] = []
    for number in range(chance.randrange(most_rows // 6, most_rows)):
        kind = chance.random()
        if kind < 0.01:
            rejected_lines.append(line)
            lines.append(f"{number},a\0b\n")
        elif kind < 0.2:
            rows.append((str(number), f'=zwei "\n{number}'))
            lines.append(f'{number},"=zwei ""\n{number}"\n')
            line += 1
        else:
            text = "행 " * chance.randrange(0, 40)
            rows.append((str(number), text))
            lines.append(f"{number},{text}\n")
        line += 1
    data = "".join(lines).encode()
    expected = Expected(len(data), len(rows), len(rejected_lines), rows_hash(iter(rows)))
    return KnownFile(data, expected, tuple(rejected_lines))


class EndlessSource(io.RawIOBase):
    """A pipe that gives `pieces` and then its last one again and again, up to `size_bytes`; nothing of it is stored."""

    def __init__(self, pieces: Sequence[bytes], size_bytes: int) -> None:
        super().__init__()
        self._pieces = pieces
        self._size_bytes = size_bytes
        self.given_bytes = 0
        self._rest = b"".join(pieces[:-1])

    def readable(self) -> bool:
        return True

    def readinto(self, target: Buffer) -> int:
        view = memoryview(target)
        while len(self._rest) < len(view):
            self._rest += self._pieces[-1]
        taken = min(len(view), self._size_bytes - self.given_bytes)
        view[:taken] = self._rest[:taken]
        self._rest = self._rest[taken:]
        self.given_bytes += taken
        return taken


class LargeFile(io.RawIOBase):
    """A file of about `size_bytes` that is made while it is read, and may be read from any offset; nothing is on disk.

    Every row has its own id and code; one of 256 holds a NUL and is rejected. All blocks of rows have one size, so that
    an offset tells its block.
    """

    def __init__(self, size_bytes: int, seed: int = 1) -> None:
        super().__init__()
        self._tails = list(_tails(random.Random(seed)))
        block_bytes = len(self._block(0))
        self._blocks = max(1, round((size_bytes - len(_HEADER)) / block_bytes))
        self._block_bytes = block_bytes
        self.size_bytes = len(_HEADER) + self._blocks * block_bytes
        self._at = 0
        self._made: tuple[int, bytes] = (-1, b"")

    @cached_property
    def expected(self) -> Expected:
        """What must be stored; computed on first use, a second for each 60 MB."""
        joined = [(tail.removesuffix(b"\n").replace(b'"', b"").replace(b",", b"\x1f", 1)) for tail in self._tails]
        total = self._blocks * _BLOCK_ROWS
        rejected = total // _REJECTED_EVERY
        hashes = (
            _row_hash(b"%012d\x1f%b" % (number, joined[number % _BLOCK_ROWS]))
            for number in range(total)
            if not _is_rejected(number)
        )
        return Expected(self.size_bytes, total - rejected, rejected, sum(hashes))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size_bytes}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, target: Buffer) -> int:
        view = memoryview(target)
        piece = self._piece(len(view))
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def _piece(self, most_bytes: int) -> bytes:
        """Some bytes from here on; none at the end."""
        if self._at < len(_HEADER):
            return _HEADER[self._at : self._at + most_bytes]
        block, start = divmod(self._at - len(_HEADER), self._block_bytes)
        if block >= self._blocks:
            return b""
        if self._made[0] != block:
            self._made = (block, self._block(block))
        return self._made[1][start : start + most_bytes]

    def _block(self, block: int) -> bytes:
        first = block * _BLOCK_ROWS
        return b"".join(b"%012d,%b" % (first + row, tail) for row, tail in enumerate(self._tails))


def _tails(chance: random.Random) -> Iterator[bytes]:
    """Everything of a row behind its id: a code and a text with a comma, Korean, a line end, or a NUL."""
    for row in range(_BLOCK_ROWS):
        code = f"K{chance.randrange(2**40):010X}"
        text = chance.choice(("서울, 부산", "plain text", "first\nsecond line", "=SUM(A1:A9)", "")) * chance.randrange(
            1, 6
        )
        yield f'{code},"{text}{chr(0) * _is_rejected(row)}"\n'.encode()


def _is_rejected(number: int) -> bool:
    return number % _REJECTED_EVERY == _REJECTED_EVERY - 1


def _row_hash(joined_cells: bytes) -> int:
    return int.from_bytes(hashlib.md5(joined_cells, usedforsecurity=False).digest()[:8], "big") >> 4
