"""Reads rows for search, as a role to which the database shows nothing but the knowledge bases named."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dari.adapters.postgres.database import Database, Role, Transaction, sqlstate
from dari.adapters.postgres.segments import lock_segments, read_blocks, read_postings
from dari.core.errors import InternalError
from dari.core.search import BLOCK_ROWS, CandidateRow, Candidates

_COMMON_SHARE = 0.5
"""A lexeme in more blocks than this share says too little to gather blocks by, where a rarer one is there."""
_MAX_BYTES = 16 * 1024 * 1024
"""Cells fetched for one search, all segments together: a row may have a megabyte, and thousands are candidates."""
_UNDEFINED_TABLE = "42P01"


class PostingsCodec(Protocol):
    """Reads the postings of a segment; see `_native.pyi`."""

    def buckets(self, hashes: Sequence[int]) -> list[int]: ...
    def count_blocks(self, hashes: Sequence[int], postings: bytes) -> list[int]: ...
    def best_blocks(
        self, hashes: Sequence[int], weights: Sequence[float], postings: bytes, max_blocks: int
    ) -> list[tuple[int, int]]: ...


@dataclass(frozen=True, slots=True)
class _Segment:
    name: str
    rows_before: int
    row_count: int


@dataclass(frozen=True, slots=True)
class _Version:
    knowledge_base: str
    number: int
    columns: tuple[str, ...]
    segments: tuple[_Segment, ...]


class PostgresRowReader:
    """A RowReader."""

    def __init__(self, database: Database, postings: PostingsCodec) -> None:
        self._database = database
        self._postings = postings

    def candidates(
        self, tenant: str, knowledge_bases: Sequence[str], hashes: Sequence[int], max_blocks: int
    ) -> list[Candidates]:
        """See RowReader."""
        try:
            return self._candidates(tenant, knowledge_bases, hashes, max_blocks)
        except InternalError as error:
            # A knowledge base that is deleted at this moment takes its tables along.
            if sqlstate(error) != _UNDEFINED_TABLE:
                raise
        return self._candidates(tenant, knowledge_bases, hashes, max_blocks)

    def _candidates(
        self, tenant: str, knowledge_bases: Sequence[str], hashes: Sequence[int], max_blocks: int
    ) -> list[Candidates]:
        # One snapshot: a version that is replaced meanwhile is still read whole.
        with self._database.transaction(
            Role.APP, snapshot=True, tenant=tenant, knowledge_bases=knowledge_bases
        ) as transaction:
            versions = _current_versions(transaction, tenant, knowledge_bases)
            transaction.become(Role.READER)
            segments = [segment.name for version in versions for segment in version.segments]
            lock_segments(transaction, segments)
            max_bytes = _MAX_BYTES // max(1, len(segments))
            return [self._of_version(transaction, version, hashes, max_blocks, max_bytes) for version in versions]

    def _of_version(
        self, transaction: Transaction, version: _Version, hashes: Sequence[int], max_blocks: int, max_bytes: int
    ) -> Candidates:
        rows: list[CandidateRow] = []
        block_count = 0
        blocks_with: dict[int, int] = {}
        buckets = sorted(set(self._postings.buckets(hashes)))
        for segment in version.segments:
            postings = read_postings(transaction, segment.name, buckets)
            counts = self._postings.count_blocks(hashes, postings)
            # The last block of each batch is shorter, so that there may be some more than this.
            total = max(-(-segment.row_count // BLOCK_ROWS), *counts, 0)
            found = {lexeme: count for lexeme, count in zip(hashes, counts, strict=True) if count}
            block_count += total
            for lexeme, count in found.items():
                blocks_with[lexeme] = blocks_with.get(lexeme, 0) + count
            weights = _weights(total, found)
            if weights:
                blocks = self._postings.best_blocks(list(weights), list(weights.values()), postings, max_blocks)
                found_rows = read_blocks(transaction, segment.name, len(version.columns), blocks, max_bytes)
                rows += (CandidateRow(segment.rows_before + number, cells) for number, cells in found_rows)
        return Candidates(
            version.knowledge_base, version.number, version.columns, tuple(rows), block_count, blocks_with
        )


def _current_versions(transaction: Transaction, tenant: str, knowledge_bases: Sequence[str]) -> list[_Version]:
    cursor = transaction.execute(
        """
        SELECT b.id, coalesce(v.number, 0), coalesce(v.columns, '{}'),
            array_remove(array_agg(s.segment ORDER BY s.ordinal), NULL),
            array_remove(array_agg(s.rows_before ORDER BY s.ordinal), NULL),
            array_remove(array_agg(s.row_count ORDER BY s.ordinal), NULL)
        FROM dari.knowledge_bases b
        LEFT JOIN dari.knowledge_base_versions v
            ON v.tenant = b.tenant AND v.knowledge_base = b.id AND v.number = b.current_version
        LEFT JOIN dari.version_segments s
            ON s.tenant = v.tenant AND s.knowledge_base = v.knowledge_base AND s.version = v.number
        WHERE b.tenant = %s AND b.id = ANY (%s)
        GROUP BY 1, 2, 3 ORDER BY 1
        """,
        (tenant, list(knowledge_bases)),
    )
    return [
        _Version(base, number, tuple(columns), tuple(map(_Segment, segments, before, counts)))
        for base, number, columns, segments, before, counts in cursor.fetchall()
    ]


def _weights(block_count: int, blocks_with: dict[int, int]) -> dict[int, float]:
    """The weights of the lexemes to gather blocks by: the rare ones, or all where all are common."""
    rare = {lexeme: count for lexeme, count in blocks_with.items() if count <= block_count * _COMMON_SHARE}
    return {lexeme: math.log1p(block_count / count) for lexeme, count in (rare or blocks_with).items()}
