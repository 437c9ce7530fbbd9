"""The files of the detection bench hold what their truth says, and its scores tell right from wrong."""

import csv
import io
from pathlib import Path

import pytest

from bench.detect import dari_reader, f1, scores
from bench.pollute import Polluted, Table, files, tables


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
def test_a_row_with_an_extra_quote_is_read_with_it(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    for file in files(table):
        if "row_extra_quote" in file.pollution:
            path.write_bytes(file.data)
            assert scores(file, dari_reader()(path))["record"] >= 0.97, file.name


def test_f1_is_the_share_in_common() -> None:
    assert f1([], []) == 1.0
    assert f1("ab", "") == 0.0
    assert f1("aab", "abb") == pytest.approx(2 / 3)
