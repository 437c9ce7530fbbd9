"""The search terms, as Python sees them. Their table stands beside the Rust code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dari._native import Parser, best_blocks, count_blocks, count_matches, lexeme_buckets, lexeme_hashes, lexemes
from tests.native.readings import NO_HEADER

CASES = [
    ("", []),
    ("Hello, World hello", ["hello", "world"]),
    ("대한민국 만세", ["대한", "한민", "민국", "만세"]),
    ("서울2024", ["서울", "2024"]),
    ("3월 원", ["3", "월", "원"]),
    ("AB-1234/x", ["ab-1234/x", "ab", "1234", "x"]),
    ("2013-01-31", ["2013-01-31", "2013", "01", "31"]),
    ("1,234.5", ["1234.5"]),
    ("kim@example.com", ["kim@example.com", "kim", "example", "com"]),
    ("\uff21\uff22\uff23 ㈜다리", ["abc", "주", "다리"]),
    ("\u1112\u1161\u11ab\u1100\u116e\u11a8", ["한국"]),
    ("x" * 100, ["x" * 64]),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_a_text_gives_its_terms_in_order_of_first_appearance(text: str, expected: list[str]) -> None:
    """Words folded, CJK as bigrams, codes whole and in parts."""
    assert lexemes(text) == expected


def test_hashes_are_those_that_lie_in_databases() -> None:
    """A change of these numbers makes every index that was ever built useless."""
    assert lexeme_hashes("seoul 서울 원 2024") == [143_377_300, -516_501_525, 345_377_015, -629_073_932]


def test_a_grouped_number_and_the_plain_one_are_the_same_term() -> None:
    """A person asks for 1,234.5 and the file says 1234.5, or the other way round."""
    assert lexeme_hashes("1,234.5") == lexeme_hashes("1234.5")


def test_matches_are_told_by_text_and_query_term() -> None:
    """One list a text, one truth a query lexeme, in the query's order."""
    query = lexeme_hashes("서울 2024")
    assert count_matches(query, ["서울특별시, 2024-01-01", "부산 2024", ""]) == [
        [True, True],
        [False, True],
        [False, False],
    ]
    assert count_matches([], ["a"]) == [[]]
    assert count_matches(query, []) == []


@given(st.text())
def test_each_text_matches_all_its_own_terms(text: str) -> None:
    """Query and index agree on every text: the index's own lexer finds what `lexemes` names."""
    hashes = lexeme_hashes(text)
    assert len(hashes) == len(lexemes(text))
    assert all(-(2**31) < number < 2**31 for number in hashes)
    assert count_matches(hashes, [text]) == [[True] * len(hashes)]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters='\0"'), max_size=20), min_size=1))
def test_postings_hold_the_terms_of_their_cells(cells: list[str]) -> None:
    """What the parser writes for the index is what a query asks for, and nothing else."""
    parser = Parser(**NO_HEADER, block_rows=len(cells))
    (batch,) = parser.feed("".join(f'"{cell}","x"\n' for cell in cells).encode()) + parser.finish()
    hashes = sorted({number for text in [*cells, "x"] for number in lexeme_hashes(text)})
    assert count_blocks(hashes, batch.postings) == [1] * len(hashes)
    for number in hashes:
        assert best_blocks([number], [1.0], batch.postings, 2) == [(1, len(cells))]
    others = [number for number in lexeme_hashes("none of these stands there 아무것도 없다") if number not in hashes]
    assert not any(count_blocks(others, batch.postings))


def test_other_bytes_than_postings_are_refused() -> None:
    """A damaged index is an error that says so, not a wrong answer."""
    for damaged in (b"", b"PGCOPY", b"x" * 40):
        with pytest.raises(ValueError, match="cannot be read"):
            count_blocks([1], damaged)
    with pytest.raises(ValueError, match="weight"):
        best_blocks([1], [], b"", 1)


def test_a_bucket_is_named_by_the_highest_bits() -> None:
    """Buckets lie in databases: they cannot change any more."""
    assert lexeme_buckets([-(2**31) + 1, -1, 0, 2**31 - 1, 2**20]) == [0, 2047, 2048, 4095, 2049]
