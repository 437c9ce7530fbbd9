"""Ranking with the real lexer: what a question is taken apart into, and which rows come first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dari.adapters.native import NativeLexer
from dari.core.ranking import MAX_QUERY_LEXEMES, QueryLexeme, Question, Ranking, rarity

LEXER = NativeLexer()


def _hash(term: str) -> int:
    (hash,) = LEXER.hashes(term)
    return hash


def _scores(query: str, rows: list[list[str]]) -> list[float]:
    """All lexemes equally rare."""
    question = Question.of(query, LEXER)
    rarities = {lexeme.hash: 1.0 for lexeme in question.lexemes}
    matches = LEXER.matches(list(rarities), ["\n".join(cells) for cells in rows])
    return Ranking(question, rarities, LEXER).scores(rows, matches, 10)


def _ranked(query: str, rows: list[list[str]]) -> list[list[str]]:
    """The rows that score, best first."""
    ranked = sorted(zip(_scores(query, rows), rows, strict=True), key=lambda one: -one[0])
    return [row for score, row in ranked if score > 0]


ROWS = [
    ("a word as one piece comes before its halves apart", "한국어", ["국어 한국", "한국어 책"], "한국어 책"),
    ("a particle does not count against the word", "한국어를", ["국어 어를", "한국어 책"], "한국어 책"),
    ("a whole cell comes before a part of one", "민준", ["민준호", "민준"], "민준"),
    ("a whole cell with a particle behind the question", "가방은", ["가방끈", "가방"], "가방"),
    ("a whole cell of another script, in any case", "iah", ["from iah", "IAH"], "IAH"),
    ("more words come before one", "red car", ["red red", "a red car"], "a red car"),
    ("quotes and a question mark are no part of a word", '"한국어를?"', ["국어 어를", "한국어 책"], "한국어 책"),
]


@pytest.mark.parametrize(("name", "query", "cells", "first"), ROWS, ids=[name for name, *_ in ROWS])
def test_the_best_row_comes_first_wherever_it_stands(name: str, query: str, cells: list[str], first: str) -> None:
    rows = [[cell, "x"] for cell in cells]
    assert _ranked(query, rows)[0][0] == first
    assert _ranked(query, rows[::-1])[0][0] == first


def test_the_end_of_a_korean_word_is_trusted_less_since_it_may_be_a_particle() -> None:
    trusts = {lexeme.hash: lexeme.trust for lexeme in Question.of("서울은 부산 seoul", LEXER).lexemes}
    assert trusts == {_hash("서울"): 1.0, _hash("울은"): 0.5, _hash("부산"): 1.0, _hash("seoul"): 1.0}


WHOLES = [
    ("AB-12/x 34", {"ab": "ab-12/x", "12": "ab-12/x", "x": "ab-12/x", "34": None, "ab-12/x": None}),
    ("ab-12 12", {"ab": "ab-12", "12": None, "ab-12": None}),
    ("2013-01-31", {"2013": "2013-01-31", "01": "2013-01-31", "31": "2013-01-31", "2013-01-31": None}),
    ("1,234.5 ab", {"1234.5": None, "ab": None}),
    ("é-ab-12", {"é": None, "ab": None, "12": None, "é-ab-12": None}),
    (f"{'x' * 40}-{'y' * 40}", {"x" * 40: None, "y" * 40: None}),
]


@pytest.mark.parametrize(("query", "expected"), WHOLES)
def test_a_part_of_a_code_names_the_code(query: str, expected: dict[str, str | None]) -> None:
    """Not where the part is asked for alone too, nor where the code is too long to be looked up whole."""
    found = {lexeme.hash: lexeme.whole for lexeme in Question.of(query, LEXER).lexemes}
    hash_of = dict(zip(LEXER.hashes(query.lower()), found, strict=True))
    assert sorted(hash_of) == sorted(found)
    terms = {hash: term for term in expected for hash in LEXER.hashes(term)[:1]}
    assert {terms[hash]: None if whole is None else terms[whole] for hash, whole in found.items()} == expected


@given(st.text())
def test_a_question_holds_the_lexemes_of_its_text_and_no_other(query: str) -> None:
    question = Question.of(query, LEXER)
    hashes = [lexeme.hash for lexeme in question.lexemes]
    assert len(set(hashes)) == len(hashes) <= MAX_QUERY_LEXEMES
    assert set(hashes) <= set(LEXER.hashes(query))
    assert len(hashes) == min(MAX_QUERY_LEXEMES, len(LEXER.hashes(query)))
    assert all(0 < lexeme.trust <= 1 for lexeme in question.lexemes)


@given(st.text(st.sampled_from("가나다라마 ab1-/.,\n"), max_size=30), st.lists(st.text("가나다라마 ab1-", max_size=20)))
def test_a_row_scores_if_and_only_if_it_holds_a_lexeme_of_the_question(query: str, cells: list[str]) -> None:
    (score,) = _scores(query, [cells])
    assert (score > 0) == bool(set(LEXER.hashes(query)) & {hash for cell in cells for hash in LEXER.hashes(cell)})


def test_lexemes_that_occur_nowhere_count_nothing() -> None:
    question = Question(words=(), lexemes=(QueryLexeme(1),))
    assert Ranking(question, {}, LEXER).scores([["a"], ["b"]], [[], []], 5) == [0, 0]
    assert Ranking(question, {}, LEXER).scores([], [], 5) == []


@given(st.floats(0.001, 0.998), st.floats(0.001, 0.001))
def test_the_rarer_a_lexeme_the_more_it_says(share: float, more: float) -> None:
    assert rarity(share) > rarity(share + more) > 0
