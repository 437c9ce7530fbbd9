"""The generated files are what they are said to be, whatever the size."""

import csv
import hashlib
from pathlib import Path

import pytest

from bench.generate_csv import COLUMNS, SEPARATOR, cached, generate


@pytest.mark.parametrize("size_bytes", [2_000, 2_001, 65_536, 1_000_000, 1_234_567])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_file_holds_what_is_said_of_it(tmp_path: Path, size_bytes: int, seed: int) -> None:
    """Size, hash, rows, columns, and the order-free hash, as Python reads them; ids and codes are unique."""
    path = tmp_path / "mixed.csv"
    generated = generate(path, size_bytes, seed)
    assert path.stat().st_size == generated.size_bytes == size_bytes
    assert hashlib.sha256(path.read_bytes()).hexdigest() == generated.sha256
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == COLUMNS
    assert len(rows) == generated.row_count
    assert {len(row) for row in rows} == {len(COLUMNS)}
    assert len({row[0] for row in rows}) == len({row[1] for row in rows}) == len(rows)
    digests = (hashlib.md5(SEPARATOR.join(row).encode(), usedforsecurity=False).hexdigest()[:15] for row in rows)
    assert sum(int(digest, 16) for digest in digests) == generated.rows_hash


def test_every_ugly_cell_is_there(tmp_path: Path) -> None:
    """Quoted commas, quoted line ends, doubled quotes, empty cells, formulas, Korean."""
    path = tmp_path / "mixed.csv"
    generate(path, 100_000)
    text = path.read_text(encoding="utf-8")
    for piece in (" boxes, 1 pallet", "첫째 줄\n둘째 줄", '""blue""', ",,", "=SUM(A1:A9)", "서울"):
        assert piece in text


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """Another seed gives others; a cached file is not written again."""
    path, first = cached(tmp_path, 50_000)
    written = path.stat().st_mtime_ns
    assert cached(tmp_path, 50_000) == (path, first)
    assert path.stat().st_mtime_ns == written
    assert generate(tmp_path / "again.csv", 50_000) == first
    assert generate(tmp_path / "other.csv", 50_000, seed=2).sha256 != first.sha256


def test_a_size_without_room_for_a_row_is_refused(tmp_path: Path) -> None:
    """The message says the smallest size."""
    with pytest.raises(ValueError, match="smallest size"):
        generate(tmp_path / "small.csv", 100)
