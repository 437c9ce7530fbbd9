"""Which cells stand in an answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dari.core.used_cells import MAX_ANSWER_CHARS, used_cells

CASES: list[tuple[str, str, list[str], tuple[int, ...]]] = [
    ("whole words", "It is La Guardia in New York.", ["LGA", "La Guardia", "New York", "York"], (1, 2, 3)),
    ("not the inside of a word", "Parisian laguardian", ["Paris", "Guardia", "laguardian"], (2,)),
    ("case, width and white space", "la  guardia\n\uff2c\uff27\uff21", ["LA GUARDIA", "LGA"], (0, 1)),
    ("grouped digits", "It costs 1,234,567 won.", ["1234567", "1,234,567", "234", "1234"], (0, 1)),
    ("grouped cells", "모두 3200원입니다.", ["3,200", "320", "200"], (0,)),
    ("a number is whole", "3.14 and 2024-05-14, 14:30, -14", ["14", "3.14", "2024-05-14", "-14", "2024"], (1, 2, 3)),
    ("a number at the end of a sentence", "It is 14.", ["14"], (0,)),
    ("units", "5km, 30%, 12개입니다", ["30", "12", "5"], (0, 1)),
    ("particles", "서울은 부산에서는 인천입니다", ["서울", "부산", "인천"], (0, 1, 2)),
    ("longer Korean words", "서울대학교와 부산항", ["서울", "부산", "서울대학교"], (2,)),
    ("particles behind Latin words", "LGA는 뉴욕에", ["LGA", "뉴욕"], (0, 1)),
    ("a single character", "There are 5 in A, and 예 is yes.", ["5", "A", "예"], ()),
    ("a single character that is delimited", "altitude: 5, dst=A, “Y” and **3**", ["5", "A", "Y", "3"], (0, 1, 2, 3)),
    ("a citation's number is no cell", "As [12] and [3] say: x", ["12", "3"], ()),
    ("cells without a letter", "Is it - or ?", ["-", "?", "", " "], ()),
    ("nothing", "", ["a", ""], ()),
    ("a later place that is whole", "Parisian in Paris", ["Paris"], (0,)),
    ("punctuation is text", "C++ (v1.2)", ["C++", "(v1.2)", "C"], (0, 1)),
]


@pytest.mark.parametrize(("name", "answer", "cells", "expected"), CASES)
def test_a_cell_is_used_where_it_stands_whole(
    name: str, answer: str, cells: list[str], expected: tuple[int, ...]
) -> None:
    assert used_cells(answer, cells) == expected


WORD = st.from_regex(r"[A-Za-z]{2,12}|[가-힣]{2,8}|[1-9][0-9]{1,9}", fullmatch=True)


@settings(deadline=None)
@given(st.lists(WORD, min_size=1, max_size=6))
def test_every_cell_of_two_characters_is_found_in_a_list_of_all(cells: list[str]) -> None:
    assert used_cells(f"Found {', '.join(cells)}.", cells) == tuple(range(len(cells)))


@settings(deadline=None)
@given(st.text(), st.lists(st.text(), max_size=6))
def test_only_what_is_in_the_answer_is_ever_used(answer: str, cells: list[str]) -> None:
    for place in used_cells(answer, cells):
        assert any(character.isalnum() for character in cells[place])


def test_a_very_long_answer_is_looked_at_up_to_a_limit() -> None:
    assert used_cells(" " * MAX_ANSWER_CHARS + "LGA", ["LGA"]) == ()
    assert used_cells(" " * (MAX_ANSWER_CHARS - 3) + "LGA", ["LGA", "x" * 1_000_000]) == (0,)
