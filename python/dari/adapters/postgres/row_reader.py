"""Reads rows for search, as a role to which the database shows nothing but the knowledge bases named."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from dari.adapters.postgres.database import Database, Role, Transaction, sqlstate
from dari.adapters.postgres.segments import PlacedSegment, lock_segments, read_blocks, read_postings
from dari.core.errors import InternalError
from dari.core.ranking import QueryLexeme, rarity
from dari.core.search import BLOCK_ROWS, CandidateRow, Candidates

_MAX_BYTES = 16 * 1024 * 1024
"""Cells fetched for one search, all segments together: a row may have a megabyte, and thousands are candidates."""
_PROMISING_SHARE = 0.5
"""A block's score bounds that of its rows: those with less than this share of the best block's are not read."""
_UNDEFINED_TABLE = "42P01"


class PostingsCodec(Protocol):
    """Reads the postings of a segment; see `_native.pyi`."""

    def buckets(self, hashes: Sequence[int]) -> list[int]: ...
    def count_blocks(self, hashes: Sequence[int], postings: bytes) -> list[int]: ...
    def best_blocks(
        self, hashes: Sequence[int], weights: Sequence[float], postings: bytes, max_blocks: int
    ) -> list[tuple[tuple[int, int], float]]: ...


@dataclass(frozen=True, slots=True)
class _Version:
    knowledge_base: str
    number: int
    time: datetime | None
    columns: tuple[str, ...]
    row_count: int
    segments: tuple[PlacedSegment, ...]


class PostgresRowReader:
    """A RowReader."""

    def __init__(self, database: Database, postings: PostingsCodec) -> None:
        self._database = database
        self._postings = postings

    def candidates(
        self,
        tenant: str,
        knowledge_bases: Sequence[str],
        lexemes: Sequence[QueryLexeme],
        min_blocks: int,
        max_blocks: int,
    ) -> list[Candidates]:
        """See RowReader."""
        try:
            return self._candidates(tenant, knowledge_bases, lexemes, min_blocks, max_blocks)
        except InternalError as error:
            # A knowledge base that is deleted at this moment takes its tables along.
            if sqlstate(error) != _UNDEFINED_TABLE:
                raise
        return self._candidates(tenant, knowledge_bases, lexemes, min_blocks, max_blocks)

    def _candidates(
        self,
        tenant: str,
        knowledge_bases: Sequence[str],
        lexemes: Sequence[QueryLexeme],
        min_blocks: int,
        max_blocks: int,
    ) -> list[Candidates]:
        # One snapshot: a version that is replaced meanwhile is still read whole.
        with self._database.transaction(
            Role.APP, snapshot=True, tenant=tenant, knowledge_bases=knowledge_bases
        ) as transaction:
            versions = _current_versions(transaction, tenant, knowledge_bases)
            transaction.become(Role.READER)
            segments = [segment.name for version in versions for segment in version.segments]
            lock_segments(transaction, segments)
            max_bytes = _MAX_BYTES // max(1, len(versions))
            return [
                self._of_version(transaction, version, lexemes, min_blocks, max_blocks, max_bytes)
                for version in versions
            ]

    def _of_version(
        self,
        transaction: Transaction,
        version: _Version,
        lexemes: Sequence[QueryLexeme],
        min_blocks: int,
        max_blocks: int,
        max_bytes: int,
    ) -> Candidates:
        if not version.segments or not lexemes:
            return Candidates(
                knowledge_base=version.knowledge_base,
                version=version.number,
                columns=version.columns,
                rows=(),
                are_all=True,
                row_count=version.row_count,
                block_count=0,
                blocks_with={},
                version_time=version.time,
            )
        lexemes = self._without_parts(transaction, version, lexemes)
        hashes = [lexeme.hash for lexeme in lexemes]
        postings = self._read(transaction, version, hashes)
        counts = self._postings.count_blocks(hashes, postings)
        # The last block of each batch is shorter, so that there may be some more than this.
        block_count = max(-(-version.row_count // BLOCK_ROWS), *counts)
        blocks_with = {hash: count for hash, count in zip(hashes, counts, strict=True) if count}
        weights = [
            lexeme.trust * rarity(blocks_with[lexeme.hash] / (block_count + 1))
            for lexeme in lexemes
            if lexeme.hash in blocks_with
        ]
        scored = self._postings.best_blocks(list(blocks_with), weights, postings, max_blocks)
        blocks = _promising(scored, min_blocks)
        rows = read_blocks(transaction, version.segments, len(version.columns), blocks, max_bytes) if blocks else []
        return Candidates(
            knowledge_base=version.knowledge_base,
            version=version.number,
            columns=version.columns,
            rows=tuple(CandidateRow(number, cells) for number, cells in rows),
            are_all=len(blocks) == len(scored) < max_blocks,
            row_count=version.row_count,
            block_count=block_count,
            blocks_with=blocks_with,
            version_time=version.time,
        )

    def _without_parts(
        self, transaction: Transaction, version: _Version, lexemes: Sequence[QueryLexeme]
    ) -> list[QueryLexeme]:
        """The lexemes without the parts of codes that occur: they would be in more blocks than any other."""
        wholes = list({lexeme.whole for lexeme in lexemes if lexeme.whole is not None})
        if not wholes:
            return list(lexemes)
        counts = self._postings.count_blocks(wholes, self._read(transaction, version, wholes))
        occurring = {whole for whole, count in zip(wholes, counts, strict=True) if count}
        return [lexeme for lexeme in lexemes if lexeme.whole not in occurring]

    def _read(self, transaction: Transaction, version: _Version, hashes: Sequence[int]) -> bytes:
        return read_postings(transaction, version.segments, sorted(set(self._postings.buckets(hashes))))


def _promising(scored: Sequence[tuple[tuple[int, int], float]], min_blocks: int) -> list[tuple[int, int]]:
    """The blocks, best first, without those that hold too little to have one of the best rows."""
    enough = _PROMISING_SHARE * scored[0][1] if scored else 0.0
    return [block for place, (block, score) in enumerate(scored) if place < min_blocks or score >= enough]


def _current_versions(transaction: Transaction, tenant: str, knowledge_bases: Sequence[str]) -> list[_Version]:
    cursor = transaction.execute(
        """
        SELECT b.id, coalesce(v.number, 0), v.create_time, coalesce(v.columns, '{}'),
            array_remove(array_agg(s.segment ORDER BY s.ordinal), NULL),
            array_remove(array_agg(s.rows_before ORDER BY s.ordinal), NULL),
            coalesce(sum(s.row_count), 0)
        FROM dari.knowledge_bases b
        LEFT JOIN dari.knowledge_base_versions v
            ON v.tenant = b.tenant AND v.knowledge_base = b.id AND v.number = b.current_version
        LEFT JOIN dari.version_segments s
            ON s.tenant = v.tenant AND s.knowledge_base = v.knowledge_base AND s.version = v.number
        WHERE b.tenant = %s AND b.id = ANY (%s)
        GROUP BY 1, 2, 3, 4 ORDER BY 1
        """,
        (tenant, list(knowledge_bases)),
    )
    return [
        _Version(base, number, time, tuple(columns), int(row_count), tuple(map(PlacedSegment, segments, rows_before)))
        for base, number, time, columns, segments, rows_before, row_count in cursor.fetchall()
    ]
