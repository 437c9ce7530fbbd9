"""Decodes PostgreSQL's binary COPY, strictly: what this takes, PostgreSQL takes."""

import struct
from collections.abc import Iterator

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)


def decode_rows(copy: bytes) -> list[tuple[int, list[str]]]:
    """The row number and the cells of each row."""
    return [(_int8(number), [cell.decode() for cell in cells]) for number, *cells in _tuples(copy)]


def decode_blocks(copy: bytes) -> list[tuple[int, int, list[int]]]:
    """First row number, row count and lexemes of each block."""
    return [(_int8(first), _int4(count), _int4_array(lexemes)) for first, count, lexemes in _tuples(copy)]


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


def _int4(value: bytes) -> int:
    (number,) = struct.unpack(">i", value)
    assert isinstance(number, int)
    return number


def _int4_array(value: bytes) -> list[int]:
    dimensions, has_null, oid = struct.unpack_from(">iii", value)
    assert (has_null, oid) == (0, 23)
    if dimensions == 0:
        assert len(value) == 12
        return []
    count, lower_bound = struct.unpack_from(">ii", value, 12)
    assert (dimensions, lower_bound, len(value)) == (1, 1, 20 + 8 * count)
    numbers = struct.unpack_from(f">{2 * count}i", value, 20)
    assert set(numbers[::2]) == {4}
    return list(numbers[1::2])
