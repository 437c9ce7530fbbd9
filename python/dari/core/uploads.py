"""One file on its way in: the upload, its ledger, and who keeps them.

The invariant: the committed offset, the rows of all bytes before it, and the rejected rows among them change in one
transaction, and only by the stream that opened the upload last. So a client may break off anywhere and go on from the
committed offset, and every row is stored exactly once.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Protocol

from dari.core.errors import DariError, FieldViolation, InvalidArgument, MalformedFile, UploadConflict

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
    CANCELLED = "CANCELLED"


ENDED = frozenset({UploadState.COMPLETED, UploadState.FAILED, UploadState.CANCELLED})
"""States that no upload leaves."""
ENCODINGS = frozenset({"ascii", "utf-8", "utf-16le", "utf-16be", "cp949", "shift_jis", "gb18030", "windows-1252"})
MAX_HEADER_ROWS = 8


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a file is written.

    As hints: None is to be found out. In a Reading every field is set. "" is none for quote, escape and comment.
    """

    encoding: str | None = None
    """One of ENCODINGS; ascii is found out only."""
    delimiter: str | None = None
    quote: str | None = None
    escape: str | None = None
    comment: str | None = None
    trims_blanks: bool | None = None
    preamble_lines: int | None = None
    header_rows: int | None = None

    def violations(self) -> Iterator[FieldViolation]:
        """Every hint that cannot be used, by its path in an OpenUpload message."""
        character = "must be one ASCII character, not a line end or NUL"
        if self.delimiter is not None and not _is_separator(self.delimiter):
            yield FieldViolation("open.dialect.delimiter", character)
        for name, value in (("quote", self.quote), ("escape", self.escape), ("comment", self.comment)):
            if value and not _is_separator(value):
                yield FieldViolation(f"open.dialect.{name}", f'{character}, or "none"')
        taken: dict[str, str] = {}
        for name, value in self._marks():
            if value in taken:
                yield FieldViolation(f"open.dialect.{name}", f"must differ from the {taken[value]}")
            taken.setdefault(value, name)
        if self.encoding is not None and self.encoding not in ENCODINGS - {"ascii"}:
            yield FieldViolation("open.dialect.encoding", "must be one of the encodings; ASCII files are also UTF-8")
        if self.preamble_lines is not None and self.preamble_lines < 0:
            yield FieldViolation("open.dialect.preamble_lines", "must be 0 or more")
        if self.header_rows is not None and not 0 <= self.header_rows <= MAX_HEADER_ROWS:
            yield FieldViolation("open.dialect.header_rows", f"must be 0 to {MAX_HEADER_ROWS}")

    def _marks(self) -> Iterator[tuple[str, str]]:
        """The characters that are set, by their fields."""
        for name in ("delimiter", "quote", "escape", "comment"):
            value = getattr(self, name)
            if value:
                yield name, value


def _is_separator(text: str) -> bool:
    return len(text) == 1 and text.isascii() and text not in "\r\n\0"


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is read, and how sure that was."""

    dialect: Dialect
    runner_up: Dialect | None
    """The next best way; None where there was none, or nothing was to be found out."""
    confidence: float
    """How far the dialect is ahead of the runner-up: 0 to 1."""


@dataclass(frozen=True, slots=True)
class ParseOptions:
    """What a caller says about the reading of a file."""

    dialect: Dialect = Dialect()
    """Hints."""
    replaces_invalid_bytes: bool = False
    """Store U+FFFD for bytes that the encoding does not have, instead of rejecting the row."""
    keeps_ragged_rows: bool = True
    """Store rows of another width than the header, instead of rejecting them."""


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """What a client says when it opens an upload, or goes on with one."""

    id: str
    knowledge_base: str
    mode: UploadMode
    options: ParseOptions
    max_rejected_rows: int
    max_rejected_share: float
    """Of all rows, 0 to 1."""

    def violations(self) -> Iterator[FieldViolation]:
        """Every field that is out of range, by its path in an IngestRequest message."""
        if not is_upload_id(self.id):
            yield FieldViolation("open.upload_id", "must be 1 to 128 letters, digits, '.', '_' and '-'")
        if self.max_rejected_rows < 0:
            yield FieldViolation("open.max_rejected_rows", "must be 0 or more")
        if not 0 <= self.max_rejected_share <= 1:
            yield FieldViolation("open.max_rejected_share", "must be 0 to 1")
        yield from self.options.dialect.violations()


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
    def lines_set_aside(self) -> int: ...
    @property
    def rows_ragged(self) -> int: ...
    @property
    def rows_repaired(self) -> int: ...
    @property
    def rows_replaced(self) -> int: ...
    @property
    def columns(self) -> list[str]: ...
    @property
    def state(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class CommittedCheckpoint:
    """A Checkpoint as the ledger has it."""

    offset_bytes: int = 0
    """The committed offset."""
    line: int = 1
    rows_stored: int = 0
    rows_rejected: int = 0
    lines_set_aside: int = 0
    rows_ragged: int = 0
    rows_repaired: int = 0
    rows_replaced: int = 0
    columns: list[str] = field(default_factory=list)
    state: bytes = b""


class RejectedRow(Protocol):
    """A record or line that is not stored as a row; see `_native.pyi`."""

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
    def evidence(self) -> bytes: ...
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
    @property
    def reading(self) -> Reading | None: ...
    def feed(self, data: bytes) -> Sequence[Batch]: ...
    def finish(self) -> Sequence[Batch]: ...
    def sha256(self) -> bytes: ...


ParserFactory = Callable[[ParseOptions, Checkpoint | None], FileParser]
"""Makes a parser at the beginning of a file (None), or at a checkpoint."""


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
    lines_set_aside: int
    rows_ragged: int
    rows_repaired: int
    rows_replaced: int
    columns: tuple[str, ...]
    reading: Reading
    create_time: datetime
    complete_time: datetime
    index_duration_s: float


@dataclass(frozen=True, slots=True)
class Upload:
    """One upload as the ledger has it."""

    tenant: str
    id: str
    knowledge_base: str
    mode: UploadMode
    options: ParseOptions
    max_rejected_rows: int
    max_rejected_share: float
    state: UploadState
    writer_epoch: int
    checkpoint: CommittedCheckpoint
    """What a parser goes on from."""
    reading: Reading | None
    """None until the first batch is committed."""
    segment: str
    failure: str
    create_time: datetime
    update_time: datetime
    receipt: Receipt | None

    @property
    def name(self) -> str:
        """uploads/{id}"""
        return f"uploads/{self.id}"


@dataclass(frozen=True, slots=True)
class Move:
    """A batch, and what of the upload it moves: the committed offset from `since` to the batch's checkpoint."""

    since: Checkpoint
    batch: Batch
    reading: Reading | None
    """Stored with the first batch."""
    sha256: bytes | None = None
    """Digest of the whole file, with the last batch. It ends the upload's bytes in the same transaction: a file that
    has grown meanwhile must not go on behind a last record that may have been half a line."""

    @property
    def makes_tables(self) -> bool:
        """Whether this is the batch from which the columns are known: nothing may be stored beside it."""
        return not self.since.columns and bool(self.batch.checkpoint.columns)


def _go_on() -> None:
    """Wait for nothing, tell nobody."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The place of a batch among those of one upload that go into the database at once.

    Locks are taken, and offsets moved, in the order of the file. So no batch waits for a lock that one behind it holds,
    also where somebody who wants the tables for himself stands in the queue for it.
    """

    await_locks: Callable[[], None] = _go_on
    """Returns when the batch before holds every lock on the tables that it will need, or has ended."""
    has_locks: Callable[[], None] = _go_on
    """Called when this one does."""
    await_commit: Callable[[], None] = _go_on
    """Returns when the batch before is committed; raises what kept it from that."""


ALONE = Turn()
"""Of a batch that nothing goes beside."""


class UploadStore(Protocol):
    """Keeps uploads and their rows. All methods raise `Unavailable` where the database is down."""

    def open(self, tenant: str, request: OpenUpload) -> Upload:
        """Make the upload or take it over from the stream that wrote it before (a new writer epoch).

        Raises NotFound for the knowledge base, UploadConflict where the upload has other parameters or has ended.
        """
        ...

    def commit(self, upload: Upload, move: Move, turn: Turn = ALONE) -> None:
        """Store a batch and move the committed offset, all or nothing.

        The rows go to the database at once; only when the batch before is committed is the offset moved, and all of it
        committed. A move that makes the tables must be alone.

        Raises RivalWriter where the upload was opened again since, or the offset is not `since`; UploadConflict where
        it was cancelled or has failed; HeaderConflict; MalformedFile where the database cannot hold a row; NotFound for
        the knowledge base.
        """
        ...

    def fail(self, upload: Upload, failure: str) -> None:
        """End the upload for good and drop its rows. Does nothing where another stream has opened it since."""
        ...

    def cancel(self, tenant: str, id: str) -> Upload:
        """End the upload for good, whoever writes it, and drop its rows; one that has failed stays as it is.

        Raises NotFound, UploadConflict where it is complete.
        """
        ...

    def publish(self, upload: Upload) -> Receipt:
        """Build the search index of an upload that has all its bytes, then make the new version visible. Idempotent.

        Raises RivalWriter, UploadConflict where it was cancelled or has failed, HeaderConflict, NotFound.
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
    """The error for a request that goes on with an upload under other parameters, or with one that has ended badly."""
    for name, before, now in (
        ("knowledge_base", upload.knowledge_base, request.knowledge_base),
        ("mode", upload.mode, request.mode),
        ("dialect", upload.options.dialect, request.options.dialect),
        ("invalid_bytes", upload.options.replaces_invalid_bytes, request.options.replaces_invalid_bytes),
        ("ragged_rows", upload.options.keeps_ragged_rows, request.options.keeps_ragged_rows),
    ):
        if before != now:
            return UploadConflict(
                f"{upload.name} was opened with another {name}; choose a new upload_id.",
                {"upload": upload.name, "field": name},
            )
    return has_ended(upload)


def has_ended(upload: Upload) -> UploadConflict | None:
    """The error for work on an upload that has failed or was cancelled."""
    ends = {
        UploadState.FAILED: "has failed; mend the file and choose a new upload_id. It failed because:"
        f" {upload.failure}",
        UploadState.CANCELLED: "was cancelled; choose a new upload_id.",
    }
    if upload.state not in ends:
        return None
    return UploadConflict(f"{upload.name} {ends[upload.state]}", {"upload": upload.name, "field": "state"})


_SHARE_MEANS_SOMETHING_FROM_ROWS = 1_000


def too_many_rejected(upload: Upload, at: Checkpoint, *, is_end: bool) -> MalformedFile | None:
    """The error for an upload that has more rejected rows than it may have at this point of the file."""
    rows = at.rows_stored + at.rows_rejected
    place = {"upload": upload.name, "line": at.line, "byte_offset": at.offset_bytes, "rows": rows}
    remedy = "ListRejectedRows shows them. Mend the file, or allow more with"
    if at.rows_rejected > upload.max_rejected_rows:
        return MalformedFile(
            f"More than {upload.max_rejected_rows} rows were rejected before line {at.line} (byte {at.offset_bytes});"
            f" {remedy} max_rejected_rows, under a new upload_id.",
            {"code": "too_many_rejected_rows", "limit": upload.max_rejected_rows, **place},
        )
    has_share = is_end or rows >= _SHARE_MEANS_SOMETHING_FROM_ROWS
    if has_share and at.rows_rejected > rows * upload.max_rejected_share:
        return MalformedFile(
            f"{at.rows_rejected} of {rows} rows before line {at.line} (byte {at.offset_bytes}) were rejected, a larger"
            f" share than {upload.max_rejected_share:g}; {remedy} max_rejected_share, under a new upload_id.",
            {"code": "too_large_rejected_share", "limit": f"{upload.max_rejected_share:g}", **place},
        )
    return None


def has_all_bytes(upload: Upload) -> UploadConflict:
    """The error for bytes that come after a `finish`."""
    return UploadConflict(
        f"{upload.name} has been finished with {upload.checkpoint.offset_bytes} bytes; choose a new upload_id for a"
        " longer file.",
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
