"""Reads whole versions, as a role to which the database shows nothing but the knowledge base named."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from dari.adapters.postgres.database import Database, Role, Transaction, sqlstate
from dari.adapters.postgres.segments import lock_segments, read_evidence, read_page
from dari.adapters.postgres.typed_views import find_typed_view
from dari.core.errors import InternalError, NotFound
from dari.core.exports import RowsPage
from dari.core.profiles import EvidenceCodec, VersionEvidence
from dari.core.versions import Version, no_version

Result = TypeVar("Result")

_UNDEFINED_TABLE = "42P01"


class PostgresVersionReader:
    """A RowsReader and an EvidenceReader."""

    def __init__(self, database: Database, evidence: EvidenceCodec) -> None:
        self._database = database
        self._evidence = evidence

    def find(self, tenant: str, knowledge_base: str, number: int | None) -> Version:
        """See RowsReader."""
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            return _find(transaction, tenant, knowledge_base, number)

    def read_rows(self, version: Version, first_row_number: int, max_rows: int, max_bytes: int) -> RowsPage:
        """See RowsReader."""

        def read(transaction: Transaction) -> RowsPage:
            segment = _segment_of(transaction, version, first_row_number)
            transaction.become(Role.READER)
            lock_segments(transaction, [segment.name])
            first = first_row_number - segment.rows_before
            page = RowsPage(*read_page(transaction, segment.name, len(version.columns), first, max_rows, max_bytes))
            if not page.row_count:
                raise InternalError("An internal error occurred.", {"missing_row": first_row_number})
            return page

        return self._read(version.tenant, version.knowledge_base, read)

    def read_evidence(self, tenant: str, knowledge_base: str, number: int | None) -> VersionEvidence:
        """See EvidenceReader."""

        def read(transaction: Transaction) -> VersionEvidence:
            version = _find(transaction, tenant, knowledge_base, number)
            segments = [segment.name for segment in _segments(transaction, version)]
            newest = _segment_of_upload(transaction, version)
            transaction.become(Role.READER)
            lock_segments(transaction, segments)
            evidence = read_evidence(transaction, segments, self._evidence.merge)
            return VersionEvidence(version, evidence, find_typed_view(transaction, newest) if newest else "")

        return self._read(tenant, knowledge_base, read)

    def _read(self, tenant: str, knowledge_base: str, read: Callable[[Transaction], Result]) -> Result:
        """Call `read` in a snapshot that may become the reader; twice where a segment went while it was looked up."""
        try:
            return self._read_once(tenant, knowledge_base, read)
        except InternalError as error:
            if sqlstate(error) != _UNDEFINED_TABLE:
                raise
        return self._read_once(tenant, knowledge_base, read)

    def _read_once(self, tenant: str, knowledge_base: str, read: Callable[[Transaction], Result]) -> Result:
        with self._database.transaction(
            Role.APP, snapshot=True, tenant=tenant, knowledge_bases=[knowledge_base]
        ) as transaction:
            return read(transaction)


@dataclass(frozen=True, slots=True)
class _Segment:
    name: str
    rows_before: int


def _find(transaction: Transaction, tenant: str, knowledge_base: str, number: int | None) -> Version:
    found = transaction.execute(
        """
        SELECT v.number, v.create_time, v.row_count, v.columns,
            EXISTS (
                SELECT FROM dari.version_segments s JOIN dari.uploads u ON u.segment = s.segment
                WHERE s.tenant = v.tenant AND s.knowledge_base = v.knowledge_base AND s.version = v.number
                    AND (u.reading #>> '{dialect,header_rows}')::integer > 0)
        FROM dari.knowledge_bases b
        JOIN dari.knowledge_base_versions v ON v.tenant = b.tenant AND v.knowledge_base = b.id
        WHERE b.tenant = %s AND b.id = %s AND v.number = coalesce(%s, b.current_version)
        """,
        (tenant, knowledge_base, number),
    ).fetchone()
    if found is not None:
        number, create_time, row_count, columns, has_header = found
        return Version(tenant, knowledge_base, number, create_time, row_count, tuple(columns), has_header)
    is_there = transaction.execute(
        "SELECT FROM dari.knowledge_bases WHERE tenant = %s AND id = %s", (tenant, knowledge_base)
    ).rowcount
    raise no_version(knowledge_base, number) if is_there else NotFound.of(f"knowledgeBases/{knowledge_base}")


def _segments(transaction: Transaction, version: Version) -> list[_Segment]:
    """The segments that hold rows of the version, in order."""
    cursor = transaction.execute(
        """
        SELECT s.segment, s.rows_before
        FROM dari.version_segments s
        WHERE s.tenant = %s AND s.knowledge_base = %s AND s.version = %s
        ORDER BY s.ordinal
        """,
        (version.tenant, version.knowledge_base, version.number),
    )
    return [_Segment(*row) for row in cursor.fetchall()]


def _segment_of(transaction: Transaction, version: Version, row_number: int) -> _Segment:
    """The segment in which a row of the version lies. Raises NotFound where the version is gone."""
    found = transaction.execute(
        """
        SELECT s.segment, s.rows_before
        FROM dari.knowledge_base_versions v
        JOIN dari.version_segments s
            ON s.tenant = v.tenant AND s.knowledge_base = v.knowledge_base AND s.version = v.number
        WHERE v.tenant = %s AND v.knowledge_base = %s AND v.number = %s AND v.create_time = %s
            AND s.rows_before < %s AND s.rows_before + s.row_count >= %s
        """,
        (version.tenant, version.knowledge_base, version.number, version.create_time, row_number, row_number),
    ).fetchone()
    if found is None:
        raise no_version(version.knowledge_base, version.number)
    return _Segment(*found)


def _segment_of_upload(transaction: Transaction, version: Version) -> str:
    """The segment of the upload that made the version; "" where that is gone."""
    found = transaction.execute(
        "SELECT segment FROM dari.uploads WHERE tenant = %s AND knowledge_base = %s AND version = %s",
        (version.tenant, version.knowledge_base, version.number),
    ).fetchone()
    return found[0] if found else ""
