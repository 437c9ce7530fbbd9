"""One file on its way in: the upload, its ledger, and who keeps them.

The invariant: the committed offset, the rows of all bytes before it, and the rejected rows among them change in one
transaction, and only by the stream that opened the upload last. So a client may break off anywhere and go on from the
committed offset, and every row is stored exactly once.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol

from dari.core.errors import DariError, FieldViolation, InvalidArgument, UploadConflict

MAX_CHUNK_BYTES = 1024 * 1024
_UPLOAD_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class UploadMode(Enum):
    """What a finished upload does to its knowledge base."""

    REPLACE = "REPLACE"
    APPEND = "APPEND"


class UploadState(Enum):
    """How far an upload is."""

    OPEN = "OPEN"
    INDEXING = "INDEXING"
    """All bytes are in; no others come."""
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a file is written. `quote` is empty for files without quoting."""

    delimiter: str = ","
    quote: str = '"'
    has_header: bool = True

    def violations(self) -> Iterator[FieldViolation]:
        """Every field that cannot be used, by its path in an OpenUpload message."""
        if not _is_separator(self.delimiter):
            yield FieldViolation("open.dialect.delimiter", "must be one ASCII character, not a line end or NUL")
        if self.quote and not _is_separator(self.quote):
            yield FieldViolation("open.dialect.quote", 'must be one ASCII character, not a line end or NUL, or "none"')
        if self.quote == self.delimiter:
            yield FieldViolation("open.dialect.quote", "must differ from the delimiter")


def _is_separator(text: str) -> bool:
    return len(text) == 1 and text.isascii() and text not in "\r\n\0"


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """What a client says when it opens an upload, or goes on with one."""

    id: str
    knowledge_base: str
    mode: UploadMode
    dialect: Dialect
    max_rejected_rows: int

    def violations(self) -> Iterator[FieldViolation]:
        """Every field that is out of range, by its path in an IngestRequest message."""
        if not is_upload_id(self.id):
            yield FieldViolation("open.upload_id", "must be 1 to 128 letters, digits, '.', '_' and '-'")
        if self.max_rejected_rows < 0:
            yield FieldViolation("open.max_rejected_rows", "must be 0 or more")
        yield from self.dialect.violations()


def is_upload_id(text: str) -> bool:
    """Whether a text may be the id of an upload."""
    return _UPLOAD_ID.fullmatch(text) is not None


class Checkpoint(Protocol):
    """The parser's state between two records; see `_native.pyi`."""

    @property
    def offset_bytes(self) -> int: ...
    @property
    def line(self) -> int: ...
    @property
    def rows_stored(self) -> int: ...
    @property
    def rows_rejected(self) -> int: ...
    @property
    def columns(self) -> list[str]: ...
    @property
    def sha256_state(self) -> bytes: ...


class RejectedRow(Protocol):
    """A record that cannot be stored; see `_native.pyi`."""

    @property
    def line(self) -> int: ...
    @property
    def byte_offset(self) -> int: ...
    @property
    def byte_length(self) -> int: ...
    @property
    def reason(self) -> str: ...
    @property
    def raw(self) -> bytes: ...


class Batch(Protocol):
    """Some whole records, encoded for the database, and the checkpoint after them; see `_native.pyi`."""

    @property
    def rows(self) -> bytes: ...
    @property
    def postings(self) -> bytes: ...
    @property
    def rows_stored(self) -> int: ...
    @property
    def rejected(self) -> Sequence[RejectedRow]: ...
    @property
    def checkpoint(self) -> Checkpoint: ...


class FileParser(Protocol):
    """Turns bytes into batches. `feed` and `finish` raise MalformedFile."""

    @property
    def received_bytes(self) -> int: ...
    def feed(self, data: bytes) -> Sequence[Batch]: ...
    def finish(self) -> Sequence[Batch]: ...
    def sha256(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a complete upload did."""

    upload: str
    knowledge_base: str
    version: int
    mode: UploadMode
    size_bytes: int
    sha256: bytes
    rows_stored: int
    rows_rejected: int
    columns: tuple[str, ...]
    dialect: Dialect
    create_time: datetime
    complete_time: datetime
    index_duration_s: float


@dataclass(frozen=True, slots=True)
class Upload:
    """One upload as the ledger has it. It satisfies `Checkpoint`: a parser can go on from it."""

    tenant: str
    id: str
    knowledge_base: str
    mode: UploadMode
    dialect: Dialect
    max_rejected_rows: int
    state: UploadState
    writer_epoch: int
    offset_bytes: int
    """The committed offset."""
    line: int
    rows_stored: int
    rows_rejected: int
    columns: list[str]
    sha256_state: bytes
    segment: str
    failure: str
    create_time: datetime
    update_time: datetime
    receipt: Receipt | None

    @property
    def name(self) -> str:
        """uploads/{id}"""
        return f"uploads/{self.id}"


class UploadStore(Protocol):
    """Keeps uploads and their rows. All methods raise `Unavailable` where the database is down."""

    def open(self, tenant: str, request: OpenUpload) -> Upload:
        """Make the upload or take it over from the stream that wrote it before (a new writer epoch).

        Raises NotFound for the knowledge base, UploadConflict where the upload has other parameters or has failed.
        """
        ...

    def commit(self, upload: Upload, since: Checkpoint, batch: Batch, sha256: bytes | None = None) -> None:
        """Store a batch and move the committed offset from `since` to the batch's checkpoint, all or nothing.

        `sha256`, the digest of the whole file, comes with the last batch, and ends the upload's bytes in the same
        transaction: a file that has grown meanwhile must not go on behind a last record that may have been half a line.

        Raises RivalWriter where the upload was opened again since, or the offset is not `since`; HeaderConflict;
        MalformedFile where the database cannot hold a row; NotFound for the knowledge base.
        """
        ...

    def fail(self, upload: Upload, failure: str) -> None:
        """End the upload for good and drop its rows. Does nothing where another stream has opened it since."""
        ...

    def publish(self, upload: Upload) -> Receipt:
        """Build the search index of an upload that has all its bytes, then make the new version visible. Idempotent.

        Raises RivalWriter, HeaderConflict, NotFound.
        """
        ...

    def get(self, tenant: str, id: str) -> Upload:
        """Raises NotFound."""
        ...

    def list(self, tenant: str, knowledge_base: str, before: tuple[datetime, str] | None, limit: int) -> list[Upload]:
        """Newest first, those behind the (create_time, id) `before`; "" means into all knowledge bases."""
        ...

    def list_rejected(self, tenant: str, id: str, after_offset_bytes: int, limit: int) -> "Sequence[StoredRejectedRow]":
        """In the order of the file, those that begin behind the offset. Raises NotFound."""
        ...


@dataclass(frozen=True, slots=True)
class StoredRejectedRow:
    """A rejected row as it is listed. Satisfies `RejectedRow`."""

    line: int
    byte_offset: int
    byte_length: int
    reason: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Committed:
    """A batch is safe."""

    offset_bytes: int
    rows_stored: int
    rows_rejected: int


def conflict_with(upload: Upload, request: OpenUpload) -> DariError | None:
    """The error for a request that goes on with an upload under other parameters, or with one that has failed."""
    for field, before, now in (
        ("knowledge_base", upload.knowledge_base, request.knowledge_base),
        ("mode", upload.mode, request.mode),
        ("dialect", upload.dialect, request.dialect),
    ):
        if before != now:
            return UploadConflict(
                f"{upload.name} was opened with another {field}; choose a new upload_id.",
                {"upload": upload.name, "field": field},
            )
    if upload.state is UploadState.FAILED:
        return UploadConflict(
            f"{upload.name} has failed; mend the file and choose a new upload_id. It failed because: {upload.failure}",
            {"upload": upload.name, "field": "state"},
        )
    return None


def has_all_bytes(upload: Upload) -> UploadConflict:
    """The error for bytes that come after a `finish`."""
    return UploadConflict(
        f"{upload.name} has been finished with {upload.offset_bytes} bytes; choose a new upload_id for a longer file.",
        {"upload": upload.name, "field": "size"},
    )


def check_chunk(offset_bytes: int, data: bytes) -> None:
    """Raise InvalidArgument for a chunk that no upload may hold."""
    violations = []
    if offset_bytes < 0:
        violations.append(FieldViolation("chunk.offset_bytes", "must be 0 or more"))
    if not 1 <= len(data) <= MAX_CHUNK_BYTES:
        violations.append(FieldViolation("chunk.data", f"must have 1 to {MAX_CHUNK_BYTES} bytes; 262144 are advised"))
    if violations:
        raise InvalidArgument.of(*violations)


def check_finish(total_size_bytes: int, sha256: bytes) -> None:
    """Raise InvalidArgument for a size or digest that no file has."""
    violations = []
    if total_size_bytes < 0:
        violations.append(FieldViolation("finish.total_size_bytes", "must be 0 or more"))
    if len(sha256) not in (0, 32):
        violations.append(FieldViolation("finish.sha256", "must have 32 bytes, or none"))
    if violations:
        raise InvalidArgument.of(*violations)
