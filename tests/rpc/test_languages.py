"""The caller's language, by RFC 9110."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dari.core.language import Language
from dari.rpc.languages import preferred_language

KOREAN, ENGLISH = Language.KOREAN, Language.ENGLISH

HEADERS = [
    ("ko", KOREAN),
    ("en", ENGLISH),
    ("ko-KR", KOREAN),
    ("KO-kr", KOREAN),
    ("en-GB-oed", ENGLISH),
    ("ko-KR,ko;q=0.9,en-US;q=0.8,en;q=0.7", KOREAN),
    ("en;q=0.8, ko;q=0.9", KOREAN),
    ("en;q=0.8, ko;q=0.80", ENGLISH),
    ("en;q=0.001,ko;q=0", ENGLISH),
    ("ko;q=0", None),
    ("fr, ja;q=0.9", None),
    ("fr, ko;q=0.1", KOREAN),
    ("*", None),
    ("*, en;q=0.1", ENGLISH),
    (" \tko ;\tQ=1.000 ", KOREAN),
    (",,ko,,", KOREAN),
    ("", None),
    # malformed, and so passed over
    ("ko_KR", None),
    ("ko-", None),
    ("korean-language-of-korea", None),
    ("ko;q=2", None),
    ("ko;q=0.1234", None),
    ("ko;q=,en;q=0.1", ENGLISH),
    ("ko;level=1, en", ENGLISH),
    ("한국어, ko;q=0.1", KOREAN),
    ("kor", None),
]


@pytest.mark.parametrize(("header", "language"), HEADERS)
def test_the_known_language_of_the_highest_weight_is_taken(header: str, language: Language | None) -> None:
    assert preferred_language(header) is language


@given(st.text(alphabet="koenKR-,;q=01.*\t 한", max_size=60))
def test_whatever_is_sent_is_read(header: str) -> None:
    """And what is put in front of it wins, unless its weight is lower."""
    assert preferred_language(header) in (None, *Language)
    assert preferred_language(f"ko,{header}") is KOREAN


@given(st.permutations(["en;q=0.5", "ko;q=0.7", "fr", "de;q=0.9"]))
def test_the_order_does_not_matter_where_weights_differ(elements: list[str]) -> None:
    assert preferred_language(", ".join(elements)) is KOREAN
