"""The known items are what the bench claims: found in their own rows, the same at every run."""

import csv
from pathlib import Path

import pytest

from bench.known_items import ORDER_COLUMNS, KnownItem, write_korean_orders


def _rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == ORDER_COLUMNS
    return rows


def test_each_question_is_answered_by_a_row_and_by_few(tmp_path: Path) -> None:
    items = write_korean_orders(tmp_path / "orders.csv", 500, 60)
    rows = _rows(tmp_path / "orders.csv")
    assert len(rows) == 500
    assert {len(row) for row in rows} == {len(ORDER_COLUMNS)}
    assert len(items) == 60
    assert len({item.kind for item in items}) == 6
    for item in items:
        assert 1 <= sum(item.is_answered_by(row) for row in rows) <= 5, item


def test_the_same_seed_writes_the_same_file_and_another_seed_another(tmp_path: Path) -> None:
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    assert write_korean_orders(first, 50, 5) == write_korean_orders(again, 50, 5)
    assert first.read_bytes() == again.read_bytes()
    write_korean_orders(other, 50, 5, seed=2)
    assert other.read_bytes() != first.read_bytes()


ANSWERS = [
    ("all fragments", ("김민준", "42"), ["김민준", "a 42"], True),
    ("one is missing", ("김민준", "42"), ["김민준", "a"], False),
    ("digits of a longer number", ("42",), ["1420", "420"], False),
    ("digits between other characters", ("42",), ["x-42-y"], True),
    ("a part of a word", ("민준",), ["김민준"], True),
    ("spread over two cells", ("김민준",), ["김민", "준"], False),
]


@pytest.mark.parametrize(("name", "fragments", "cells", "expected"), ANSWERS, ids=[name for name, *_ in ANSWERS])
def test_a_row_answers_if_it_holds_all_fragments(
    name: str, fragments: tuple[str, ...], cells: list[str], expected: bool
) -> None:
    assert KnownItem("kind", "question", fragments).is_answered_by(cells) is expected
