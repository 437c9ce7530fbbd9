"""The files of the detection bench hold what their truth says, and its scores tell right from wrong."""

import csv
import io

import pytest

from bench.detect import Loaded, f1, read_as_decided, scores
from bench.pollute import Polluted, Table, files, tables

PLAIN = {
    "encoding": "utf-8",
    "delimiter": ",",
    "quote": '"',
    "escape": None,
    "comment": None,
    "trims_blanks": False,
    "preamble_lines": 0,
    "header_rows": 1,
}


def _all(seed: int = 0) -> dict[str, Polluted]:
    return {file.name: file for table in tables(seed) for file in files(table, seed)}


def test_the_same_seed_gives_the_same_files() -> None:
    assert _all(3) == _all(3)
    assert _all(3) != _all(4)


def test_no_two_files_have_the_same_name() -> None:
    made = [file.name for table in tables() for file in files(table)]
    assert len(made) == len(set(made))


def test_a_file_without_pollution_holds_its_truth() -> None:
    for name, file in _all().items():
        if name.endswith("-none"):
            header, *rows = csv.reader(io.StringIO(file.data.decode(), newline=""))
            assert (tuple(header), tuple(map(tuple, rows))) == (file.header, file.rows)


@pytest.mark.parametrize("table", tables(), ids=lambda table: table.name)
def test_a_row_with_an_extra_quote_is_read_with_it(table: Table) -> None:
    for file in files(table):
        if "row_extra_quote" in file.pollution:
            assert scores(file, read_as_decided(file.data, PLAIN))["record"] >= 0.97, file.name


@pytest.mark.parametrize(
    ("line", "reading", "cells"),
    [
        ('a,"b,c",d', {}, ["a", "b,c", "d"]),
        ('a,"b ""c""",d', {}, ["a", 'b "c"', "d"]),
        ('a,"b" c,d', {}, ["a", '"b" c', "d"]),
        ('a,"b 10" c, e",d', {}, ["a", 'b 10" c, e', "d"]),
        ('"a,b,"c, d"', {}, ['"a', "b", "c, d"]),
        ('""a 8"" b",c', {}, ['"a 8" b', "c"]),
        ('a,"', {}, ["a", '"']),
        ('a, "b, c" , d ', {"trims_blanks": True}, ["a", "b, c", "d"]),
        (r'"a\"b\'c",d', {"escape": "\\"}, [r'a"b\'c', "d"]),
        ('"a;b";"c', {"delimiter": ";", "quote": None}, ['"a', 'b"', '"c']),
    ],
)
def test_a_line_is_read_as_the_parser_reads_it(line: str, reading: dict[str, object], cells: list[str]) -> None:
    assert read_as_decided(line.encode(), PLAIN | reading | {"header_rows": 0}) == Loaded(None, [cells])


def test_f1_is_the_share_in_common() -> None:
    assert f1([], []) == 1.0
    assert f1("ab", "") == 0.0
    assert f1("aab", "abb") == pytest.approx(2 / 3)
