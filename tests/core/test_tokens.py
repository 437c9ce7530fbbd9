"""How many tokens a text costs at most. tests/adapters/local_model holds it against a real tokenizer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dari.core.tokens import cut_to_tokens, likely_tokens, most_tokens

CASES = [
    ("", 0),
    ("a", 1),
    ("airport", 5),
    ("2024-03", 7),
    ("서울", 6),
    ("New York", 7),
    ("\ud800", 3),
]


@pytest.mark.parametrize(("text", "tokens"), CASES)
def test_a_script_costs_what_it_was_measured_to_cost(text: str, tokens: int) -> None:
    assert most_tokens(text) == tokens


@settings(deadline=None)
@given(st.text(), st.text())
def test_a_longer_text_costs_no_less_and_two_no_more_than_both(first: str, second: str) -> None:
    both = most_tokens(first + second)
    assert max(most_tokens(first), most_tokens(second)) <= both <= most_tokens(first) + most_tokens(second)


@settings(deadline=None)
@given(st.text(max_size=60), st.integers(min_value=-5, max_value=80))
def test_what_is_cut_keeps_to_its_tokens_and_is_the_beginning(text: str, tokens: int) -> None:
    cut = cut_to_tokens(text, tokens)
    assert most_tokens(cut) <= max(0, tokens)
    assert cut == text or text.startswith(cut.removesuffix("…"))
    if most_tokens(text) <= tokens:
        assert cut == text


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("a", 1), ("airport", 2), ("New York, LaGuardia", 5), ("서울", 2), ("서울 LGA", 3)]
)
def test_the_likely_cost_is_a_rule_of_thumb(text: str, tokens: int) -> None:
    assert likely_tokens(text) == tokens
