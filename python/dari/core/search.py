"""Finding rows by words: the best blocks of each segment by their lexemes, then the best rows among them.

The index tells for each lexeme in which blocks of rows it stands (`rust_parser/core/src/postings.rs`): one entry a row
would cost several times the load of the rows. The store gives the rows of the blocks in which the rarest of the query's
lexemes meet; here each row is scored exactly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dari.core.errors import NotFound

BLOCK_ROWS = 128
"""Rows that share their postings. Fewer find rows more directly, and make the index larger."""
MAX_BLOCKS = 24
"""Blocks whose rows are scored, a segment: 24 times 128 rows are fetched and scored in some milliseconds."""
MAX_QUERY_LEXEMES = 64


class Lexer(Protocol):
    """The one function that makes search terms, for rows and for queries."""

    def hashes(self, text: str) -> list[int]:
        """Hashes of a text's lexemes, in the order of appearance, each once."""
        ...

    def matches(self, hashes: Sequence[int], texts: Sequence[str]) -> list[list[bool]]:
        """For each text, which of the lexemes it holds."""
        ...


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
    block_count: int
    blocks_with: dict[int, int]
    """For each lexeme hash that occurs: in how many blocks."""


class RowReader(Protocol):
    """Reads rows as a role that sees nothing but the knowledge bases named."""

    def candidates(
        self, tenant: str, knowledge_bases: Sequence[str], hashes: Sequence[int], max_blocks: int
    ) -> list[Candidates]:
        """The rows of the best blocks of each knowledge base's current version, as of one moment.

        Knowledge bases that do not exist are left out; one without a version has version 0 and no rows. Raises
        Unavailable.
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
        hashes = self._lexer.hashes(query)[:MAX_QUERY_LEXEMES]
        if not knowledge_bases or limit < 1 or not (hashes or must_exist):
            return []
        found = self._rows.candidates(tenant, knowledge_bases, hashes, MAX_BLOCKS)
        missing = set(knowledge_bases) - {candidates.knowledge_base for candidates in found}
        if must_exist and missing:
            raise NotFound.of(f"knowledgeBases/{min(missing)}")
        hits = [hit for candidates in found for hit in self._scored(candidates, hashes)]
        # Equal scores: the shorter row says it with less beside it; then the order of the file.
        hits.sort(key=lambda hit: (-hit.score, sum(map(len, hit.cells)), hit.knowledge_base, hit.row_number))
        return hits[:limit]

    def _scored(self, candidates: Candidates, hashes: Sequence[int]) -> list[Hit]:
        texts = ["\n".join(row.cells) for row in candidates.rows]
        matches = self._lexer.matches(hashes, texts)
        weights = _weights(candidates, hashes, matches)
        hits = []
        for row, found in zip(candidates.rows, matches, strict=True):
            score = sum(weight for weight, is_found in zip(weights, found, strict=True) if is_found)
            if score > 0:
                hits.append(
                    Hit(
                        candidates.knowledge_base,
                        candidates.version,
                        row.row_number,
                        score,
                        candidates.columns,
                        row.cells,
                    )
                )
        return hits


def _weights(candidates: Candidates, hashes: Sequence[int], matches: Sequence[Sequence[bool]]) -> list[float]:
    """How much each lexeme says: the rarer among blocks and among the candidate rows, the more."""
    weights = []
    for index, lexeme in enumerate(hashes):
        rows_with = sum(found[index] for found in matches)
        blocks_with = candidates.blocks_with.get(lexeme, 0)
        if not rows_with or not blocks_with:
            weights.append(0.0)
            continue
        among_rows = math.log1p((len(matches) - rows_with + 0.5) / (rows_with + 0.5))
        among_blocks = math.log1p((candidates.block_count - blocks_with + 0.5) / (blocks_with + 0.5))
        weights.append(among_rows + among_blocks)
    return weights
