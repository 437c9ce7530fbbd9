"""Decodes PostgreSQL's binary COPY, strictly: what this takes, PostgreSQL takes."""

import struct
from collections.abc import Iterator

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)


def decode_rows(copy: bytes) -> list[tuple[int, list[str]]]:
    """The row number and the cells of each row."""
    return [(_int8(number), [cell.decode() for cell in cells]) for number, *cells in _tuples(copy)]


def _tuples(copy: bytes) -> Iterator[list[bytes]]:
    if not copy:
        return
    assert copy.startswith(SIGNATURE)
    at = len(SIGNATURE)
    while True:
        (fields,) = struct.unpack_from(">h", copy, at)
        at += 2
        if fields == -1:
            assert at == len(copy), "something follows the trailer"
            return
        values = []
        for _ in range(fields):
            (length,) = struct.unpack_from(">i", copy, at)
            assert 0 <= length <= len(copy) - at, "NULL, or longer than the COPY"
            values.append(copy[at + 4 : at + 4 + length])
            at += 4 + length
        yield values


def _int8(value: bytes) -> int:
    (number,) = struct.unpack(">q", value)
    assert isinstance(number, int)
    return number
