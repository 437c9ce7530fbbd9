"""Finding rows by words: the blocks in which the query's rarest lexemes meet, then the best rows among them.

The index tells for each lexeme in which blocks of rows it stands (`rust_parser/core/src/postings.rs`). The store gives
the rows of the best blocks; `core.ranking` scores each of them exactly.
"""

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from dari.core.errors import NotFound
from dari.core.ranking import Lexer, QueryLexeme, Question, Ranking, rarity

BLOCK_ROWS = 16
"""Rows that share their postings.

The fewer, the less often do lexemes that are common apart meet in a block by chance, in no row that holds them all. Of
the questions after known rows of a million orders, 53 % found theirs among the first five with blocks of 128 rows, 98 %
with 16, all with 8. Parsing takes a tenth longer than with 128, where blocks of 8 take a quarter.
"""
MAX_BLOCKS = 64
"""Blocks of a knowledge base whose rows are scored: 64 times 16 rows are fetched and scored in some milliseconds."""


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """A row of a promising block."""

    row_number: int
    """Number of the row within the version, from 1."""
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The promising rows of one knowledge base, and how rare the lexemes are in it."""

    knowledge_base: str
    version: int
    columns: tuple[str, ...]
    rows: tuple[CandidateRow, ...]
    are_all: bool
    """Whether no other row holds any of the lexemes."""
    row_count: int
    """Of the whole knowledge base."""
    block_count: int
    blocks_with: Mapping[int, int]
    """For the hash of each lexeme that counts and occurs: in how many blocks."""
    version_time: datetime | None = None
    """When the version became current; None where there is none."""


class RowReader(Protocol):
    """Reads rows as a role that sees nothing but the knowledge bases named."""

    def candidates(
        self,
        tenant: str,
        knowledge_bases: Sequence[str],
        lexemes: Sequence[QueryLexeme],
        min_blocks: int,
        max_blocks: int,
    ) -> list[Candidates]:
        """The rows of the best blocks of each knowledge base's current version, as of one moment.

        Of the blocks that hold any lexeme, at least `min_blocks`, and no more than `max_blocks`.

        A part of a code counts only where the code itself does not occur. Knowledge bases that do not exist are left
        out; one without a version has version 0 and no rows. Raises Unavailable.
        """
        ...


@dataclass(frozen=True, slots=True)
class Hit:
    """A row found. `score` is above 0, and comparable within one answer only."""

    knowledge_base: str
    version: int
    row_number: int
    score: float
    columns: tuple[str, ...]
    cells: tuple[str, ...]
    version_time: datetime | None = None
    """When the version became current."""


def named_cells(columns: Sequence[str], cells: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each cell of a row with its column's name, which is empty beyond the last column; a row may be short too."""
    return ((columns[place] if place < len(columns) else "", cell) for place, cell in enumerate(cells))


class Search:
    """Finds rows. Thread-safe."""

    def __init__(self, rows: RowReader, lexer: Lexer) -> None:
        self._rows = rows
        self._lexer = lexer

    def find(
        self, tenant: str, knowledge_bases: Sequence[str], query: str, limit: int, *, must_exist: bool = False
    ) -> list[Hit]:
        """The rows that fit best, best first; none where no lexeme of the query occurs.

        A knowledge base that does not exist has no rows, or with `must_exist` raises NotFound. Raises Unavailable.
        """
        question = Question.of(query, self._lexer)
        if not knowledge_bases or limit < 1 or not (question.lexemes or must_exist):
            return []
        found = self._rows.candidates(tenant, knowledge_bases, question.lexemes, limit, MAX_BLOCKS)
        missing = set(knowledge_bases) - {candidates.knowledge_base for candidates in found}
        if must_exist and missing:
            raise NotFound.of(f"knowledgeBases/{min(missing)}")
        hits = [hit for candidates in found for hit in self._best(candidates, question, limit)]
        return heapq.nsmallest(limit, hits, key=_place)

    def _best(self, candidates: Candidates, question: Question, limit: int) -> list[Hit]:
        rows = [row.cells for row in candidates.rows]
        hashes = list(candidates.blocks_with)
        matches = self._lexer.matches(hashes, ["\n".join(cells) for cells in rows])
        rarities = dict(zip(hashes, map(rarity, _shares(candidates, matches)), strict=True))
        scores = Ranking(question, rarities, self._lexer).scores(rows, matches, limit)
        return [
            Hit(
                candidates.knowledge_base,
                candidates.version,
                row.row_number,
                score,
                candidates.columns,
                row.cells,
                candidates.version_time,
            )
            for row, score in zip(candidates.rows, scores, strict=True)
            if score > 0
        ]


def _shares(candidates: Candidates, matches: Sequence[Sequence[bool]]) -> list[float]:
    """For each lexeme, in what share of the knowledge base's rows it stands."""
    if candidates.are_all:
        return [(sum(column) + 1) / (candidates.row_count + 2) for column in zip(*matches, strict=True)]
    return [
        _share_of_rows((blocks_with + 1) / (candidates.block_count + 2))
        for blocks_with in candidates.blocks_with.values()
    ]


def _share_of_rows(share_of_blocks: float) -> float:
    """What to expect from the blocks that hold a lexeme: it may stand in several of a block's rows."""
    return -math.expm1(math.log1p(-share_of_blocks) / BLOCK_ROWS)


def _place(hit: Hit) -> tuple[float, int, str, int]:
    """Of equal scores the shorter row says it with less beside it; then the order of the file."""
    return -hit.score, sum(map(len, hit.cells)), hit.knowledge_base, hit.row_number
