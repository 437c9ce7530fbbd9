"""Search over rows that a fake reader hands in; a lexeme is a word, its hash the word's place in a list."""

from collections.abc import Sequence

import pytest

from dari.core.errors import NotFound
from dari.core.ranking import MAX_QUERY_LEXEMES, QueryLexeme
from dari.core.search import CandidateRow, Candidates, Search


class Words:
    """A Lexer whose lexemes are the words between blanks."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def hashes(self, text: str) -> list[int]:
        return list(dict.fromkeys(self._known.setdefault(word, len(self._known)) for word in text.split()))

    def matches(self, hashes: Sequence[int], texts: Sequence[str]) -> list[list[bool]]:
        found = [set(self.hashes(text)) for text in texts]
        return [[lexeme in lexemes for lexeme in hashes] for lexemes in found]


class Rows:
    """A RowReader with one block a row, all of them candidates."""

    def __init__(self, lexer: Words, bases: dict[str, list[str]]) -> None:
        self._lexer = lexer
        self._bases = bases
        self.asked: list[tuple[str, list[str], list[QueryLexeme]]] = []

    def candidates(
        self,
        tenant: str,
        knowledge_bases: Sequence[str],
        lexemes: Sequence[QueryLexeme],
        min_blocks: int,
        max_blocks: int,
    ) -> list[Candidates]:
        self.asked.append((tenant, list(knowledge_bases), list(lexemes)))
        hashes = [lexeme.hash for lexeme in lexemes]
        return [self._candidates(base, hashes) for base in knowledge_bases if base in self._bases]

    def _candidates(self, base: str, hashes: Sequence[int]) -> Candidates:
        texts = self._bases[base]
        matches = self._lexer.matches(hashes, texts)
        counts = {lexeme: sum(found[at] for found in matches) for at, lexeme in enumerate(hashes)}
        return Candidates(
            knowledge_base=base,
            version=1,
            columns=("text",),
            rows=tuple(CandidateRow(number, (text,)) for number, text in enumerate(texts, start=1)),
            are_all=True,
            row_count=len(texts),
            block_count=len(texts),
            blocks_with={lexeme: count for lexeme, count in counts.items() if count},
        )


def _found(bases: dict[str, list[str]], query: str, limit: int = 10) -> list[str]:
    lexer = Words()
    return [hit.cells[0] for hit in Search(Rows(lexer, bases), lexer).find("t", list(bases), query, limit)]


@pytest.mark.parametrize(
    ("name", "rows", "query", "expected"),
    [
        ("no word of the query occurs", ["a b", "c"], "x", []),
        ("rows without a word of the query are left out", ["a", "b", "c"], "b", ["b"]),
        ("more words are better", ["red", "red car", "car"], "red car", ["red car", "red", "car"]),
        ("a rare word says more than two common ones", ["a b", "a b", "a b", "z q"], "a b z", ["z q"]),
        (
            "of equals the shorter comes first, then the earlier",
            ["x long", "x b", "x a"],
            "x",
            ["x b", "x a", "x long"],
        ),
        ("a word twice in the query counts once", ["a", "b c"], "a a b c", ["b c", "a"]),
    ],
)
def test_the_best_rows_come_first(name: str, rows: list[str], query: str, expected: list[str]) -> None:
    assert _found({"kb": rows}, query)[: len(expected)] == expected
    assert len(_found({"kb": rows}, query)) == sum(bool(set(row.split()) & set(query.split())) for row in rows)


def test_no_more_than_the_limit_are_given_and_scores_fall() -> None:
    lexer = Words()
    rows = Rows(lexer, {"kb": [f"a {'b ' * (number % 3)}" for number in range(50)]})
    hits = Search(rows, lexer).find("t", ["kb"], "a b", 7)
    assert len(hits) == 7
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > 0


def test_hits_of_several_knowledge_bases_are_ranked_together_and_say_where_they_stand() -> None:
    lexer = Words()
    rows = Rows(lexer, {"one": ["x", "a b"], "two": ["a", "x", "x"]})
    hits = Search(rows, lexer).find("t", ["one", "two", "none"], "a b", 10)
    assert [(hit.knowledge_base, hit.row_number, hit.columns) for hit in hits] == [
        ("one", 2, ("text",)),
        ("two", 1, ("text",)),
    ]
    assert rows.asked == [("t", ["one", "two", "none"], [QueryLexeme(hash) for hash in lexer.hashes("a b")])]


def test_nothing_is_read_where_nothing_can_be_found() -> None:
    lexer = Words()
    rows = Rows(lexer, {"kb": ["a"]})
    search = Search(rows, lexer)
    assert search.find("t", ["kb"], "", 10) == []
    assert search.find("t", [], "a", 10) == []
    assert search.find("t", ["kb"], "a", 0) == []
    assert rows.asked == []


def test_a_knowledge_base_that_must_exist_is_missed_whatever_is_asked() -> None:
    lexer = Words()
    search = Search(Rows(lexer, {"kb": ["a"]}), lexer)
    for query in ("a", ""):
        with pytest.raises(NotFound) as raised:
            search.find("t", ["kb", "zz", "gone"], query, 10, must_exist=True)
        assert raised.value.metadata == {"resource": "knowledgeBases/gone"}
    assert search.find("t", ["gone"], "a", 10) == []


def test_a_long_query_is_cut() -> None:
    lexer = Words()
    rows = Rows(lexer, {"kb": ["a"]})
    Search(rows, lexer).find("t", ["kb"], " ".join(map(str, range(1_000))), 10)
    assert len(rows.asked[0][2]) == MAX_QUERY_LEXEMES
