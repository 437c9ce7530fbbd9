"""Decodes PostgreSQL's binary COPY, strictly: what this takes, PostgreSQL takes."""

import struct
from collections.abc import Iterator

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)


def decode_rows(copy: bytes) -> list[tuple[int, list[str]]]:
    """The row number of each row, and the cells that it had in its file: no missing ones, then the extra ones."""
    return [_row(fields) for fields in _tuples(copy)]


def _row(fields: list[bytes | None]) -> tuple[int, list[str]]:
    number, *cells, extra = fields
    assert number is not None
    while cells and cells[-1] is None:
        assert extra is None, "extra cells behind missing ones"
        cells.pop()
    texts = [_text(cell) for cell in cells]
    return _int8(number), texts if extra is None else texts + list(_array(extra))


def _text(cell: bytes | None) -> str:
    assert cell is not None, "a cell is missing between others"
    return cell.decode()


def _array(value: bytes) -> Iterator[str]:
    dimensions, has_nulls, element, count, first = struct.unpack_from(">5i", value)
    assert (dimensions, has_nulls, element, first) == (1, 0, 25, 1)
    assert count > 0
    at = 20
    for _ in range(count):
        (length,) = struct.unpack_from(">i", value, at)
        yield value[at + 4 : at + 4 + length].decode()
        at += 4 + length
    assert at == len(value)


def _tuples(copy: bytes) -> Iterator[list[bytes | None]]:
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
        values: list[bytes | None] = []
        for _ in range(fields):
            (length,) = struct.unpack_from(">i", copy, at)
            assert -1 <= length <= len(copy) - at, "longer than the COPY"
            values.append(None if length == -1 else copy[at + 4 : at + 4 + length])
            at += 4 + max(length, 0)
        yield values


def _int8(value: bytes) -> int:
    (number,) = struct.unpack(">q", value)
    assert isinstance(number, int)
    return number
