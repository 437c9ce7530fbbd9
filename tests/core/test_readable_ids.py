"""Names become ids by a rule that people can follow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dari.core.mapping import is_resource_id
from dari.core.readable_ids import ReadableIds

NAMES = [
    ("Sales", "sales"),
    ("고객 상담", "gogaek-sangdam"),
    ("급여 규정 2024", "geupyeo-gyujeong-2024"),
    ("왜 값을", "wae-gapseul"),
    ("Café  Münster!", "cafe-munster"),
    ("It's HR's", "its-hrs"),
    ("\uff12\uff10\uff12\uff14", "kb-2024"),
    ("a_b.c/d", "a-b-c-d"),
    ("顧客", "kb-1"),
    ("顧客A", "a"),
    ("", "kb-1"),
    ("--", "kb-1"),
    ("x" * 70, "x" * 63),
]


@pytest.mark.parametrize(("name", "id"), NAMES)
def test_a_name_becomes_a_readable_id(name: str, id: str) -> None:
    assert ReadableIds("kb").id_for(name) == id


def test_ids_that_are_taken_get_numbers() -> None:
    ids = ReadableIds("kb")
    assert [ids.id_for(name) for name in ("A b", "a-b", "a b", "a-b-2")] == ["a-b", "a-b-2", "a-b-3", "a-b-2-2"]
    assert [ids.id_for("y" * 80) for _ in range(2)] == ["y" * 63, "y" * 61 + "-2"]


@given(st.lists(st.text(max_size=70) | st.sampled_from(["고객", "a", "a 2", "a-2", "1"]), max_size=20))
def test_ids_are_allowed_and_each_is_given_once(names: list[str]) -> None:
    ids, again = ReadableIds("kb"), ReadableIds("kb")
    given = [ids.id_for(name) for name in names]
    assert all(map(is_resource_id, given))
    assert len(set(given)) == len(given)
    assert [again.id_for(name) for name in names] == given
