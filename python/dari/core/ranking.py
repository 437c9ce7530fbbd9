"""Scoring rows: how well the cells of a row answer a question.

A row's score is the sum over the question's words of what their lexemes say, the rarer the more. Two things raise it:
a word that stands in the row as one piece (한국어 is indexed as 한국 and 국어, which may also stand apart), and a word
that is a whole cell.

Korean words carry particles: 서울에서 is 서울 and "from". What is searched for is a word's beginning, so that a
beginning found counts as the word, and the lexeme at its end, which may reach into a particle, is trusted less.
"""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import compress
from typing import Protocol

MAX_QUERY_LEXEMES = 64
_END_TRUST = 0.5
"""Of the last lexeme of a Korean word."""
_APART_SHARE = 0.5
"""What a lexeme counts that stands in the row, but apart from its word's beginning."""
_WHOLE_CELL_FACTOR = 1.25
_MAX_PARTICLE_SYLLABLES = 3
_SHORTLIST_ROWS = 100
"""Rows whose cells are looked into, at the least."""
_KOREAN_WORD = re.compile("[가-힣]{3,}")
_CODE_OR_WORD = re.compile("[a-z0-9]+(?:[-_/.:@][a-z0-9]+)*")
_JOINER = re.compile("[-_/.:@]")


class Lexer(Protocol):
    """The one function that makes search terms, for rows and for queries."""

    def hashes(self, text: str) -> list[int]:
        """Hashes of a text's lexemes, in the order of appearance, each once."""
        ...

    def matches(self, hashes: Sequence[int], texts: Sequence[str]) -> list[list[bool]]:
        """For each text, which of the lexemes it holds."""
        ...


def rarity(share: float) -> float:
    """How much a lexeme says that stands in this share of all places (0 to 1, both excluded); above 0."""
    return -math.log(share)


@dataclass(frozen=True, slots=True)
class QueryLexeme:
    """A lexeme that is looked for."""

    hash: int
    trust: float = 1.0
    """By which what its rarity says is multiplied; above 0, at most 1."""
    whole: int | None = None
    """Of a part of a code: the hash of the code. Where the code itself occurs, its parts say nothing more."""


@dataclass(frozen=True, slots=True)
class _Word:
    """What stands between two blanks of a question, folded."""

    text: str
    is_korean: bool
    hashes: frozenset[int]
    """Of its lexemes; of those that no earlier word has."""

    def is_cell(self, cells: AbstractSet[str]) -> bool:
        """Whether one of the folded cells is this word and nothing else, a particle aside."""
        shortest = max(2, len(self.text) - _MAX_PARTICLE_SYLLABLES) if self.is_korean else len(self.text)
        return any(self.text[:end] in cells for end in range(shortest, len(self.text) + 1))


@dataclass(frozen=True, slots=True)
class Question:
    """A query, taken apart."""

    words: tuple[_Word, ...]
    lexemes: tuple[QueryLexeme, ...]

    @classmethod
    def of(cls, query: str, lexer: Lexer) -> "Question":
        """The first MAX_QUERY_LEXEMES lexemes of a query."""
        folded = _folded(query)
        wholes = _wholes(folded, lexer)
        words: list[_Word] = []
        lexemes: dict[int, QueryLexeme] = {}
        for text in map(_without_punctuation, folded.split()):
            room = MAX_QUERY_LEXEMES - len(lexemes)
            new = [hash for hash in lexer.hashes(text) if hash not in lexemes][:room]
            if new:
                is_korean = _KOREAN_WORD.fullmatch(text) is not None
                words.append(_Word(text, is_korean, frozenset(new)))
                lexemes.update((hash, QueryLexeme(hash, whole=wholes.get(hash))) for hash in new)
                if is_korean:
                    lexemes[new[-1]] = QueryLexeme(new[-1], _END_TRUST)
        return cls(tuple(words), tuple(lexemes.values()))


class Ranking:
    """Scores rows of one knowledge base. For one thread."""

    def __init__(self, question: Question, rarities: Mapping[int, float], lexer: Lexer) -> None:
        """`rarities` are those of the lexemes that occur, by hash."""
        self._question = question
        self._lexer = lexer
        trusts = {lexeme.hash: lexeme.trust for lexeme in question.lexemes}
        self._weights = {hash: trusts[hash] * said for hash, said in rarities.items()}

    def scores(self, rows: Sequence[Sequence[str]], matches: Sequence[Sequence[bool]], limit: int) -> list[float]:
        """A score for each row's cells: 0 for those that hold too little of the question to be among the best `limit`.

        `matches` tell for each row which of the lexemes it holds, in the order of `rarities`.
        """
        hashes, weights = list(self._weights), list(self._weights.values())
        held = [tuple(match) for match in matches]
        # Most rows hold the same few lexemes.
        most = {match: sum(compress(weights, match)) for match in set(held)}
        enough = _nth_largest([most[match] for match in held], max(limit, _SHORTLIST_ROWS))
        return [
            self._score(cells, set(compress(hashes, match))) if most[match] >= enough else 0.0
            for cells, match in zip(rows, held, strict=True)
        ]

    def _score(self, cells: Sequence[str], found: AbstractSet[int]) -> float:
        folded = list(map(_folded, cells))
        text, different = "\n".join(folded), frozenset(folded)
        return sum(self._score_of_word(word, word.hashes & found, text, different) for word in self._question.words)

    def _score_of_word(self, word: _Word, found: AbstractSet[int], text: str, cells: AbstractSet[str]) -> float:
        if not found:
            return 0.0
        score = sum(self._weights[hash] for hash in found)
        if word.is_korean:
            apart = found - set(self._lexer.hashes(_beginning_in(text, word.text)))
            score -= (1 - _APART_SHARE) * sum(self._weights[hash] for hash in apart)
        return score * (_WHOLE_CELL_FACTOR if word.is_cell(cells) else 1.0)


def _wholes(query: str, lexer: Lexer) -> dict[int, int]:
    """For each part of the codes in a folded query, the code; both as hashes of the query's lexemes."""
    asked = set(lexer.hashes(query))
    wholes: dict[int, int] = {}
    alone: set[int] = set()
    for run in _CODE_OR_WORD.findall(query):
        parts = _JOINER.split(run)
        if len(parts) == 1:
            alone.update(lexer.hashes(run))
            continue
        whole, *others = lexer.hashes(run)
        of_parts = {hash for part in parts for hash in lexer.hashes(part)}
        # A code that is too long to be a lexeme comes in parts only, and an ASCII run may be the end of a longer code.
        if whole in asked and whole not in of_parts:
            wholes.update((hash, whole) for hash in others if hash in of_parts)
    return {hash: whole for hash, whole in wholes.items() if hash not in alone}


def _beginning_in(text: str, word: str) -> str:
    """The longest beginning of a word that stands in the text; a single letter, where not even two do."""
    return next((word[:end] for end in range(len(word), 1, -1) if word[:end] in text), word[:1])


def _nth_largest(values: Sequence[float], n: int) -> float:
    """The smallest of fewer than `n` values, or 0 of none."""
    return min(sorted(values, reverse=True)[:n], default=0.0)


def _without_punctuation(word: str) -> str:
    """Without the punctuation and symbols around it: quotes, a full stop, a question mark."""
    kept = [place for place, character in enumerate(word) if unicodedata.category(character)[0] not in "PS"]
    return word[kept[0] : kept[-1] + 1] if kept else ""


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()
