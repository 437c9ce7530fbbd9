"""Upload sessions over a store and a parser of the test's: every byte is stored once, however the streams break."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dari.core.errors import (
    ChecksumMismatch,
    DariError,
    Exhausted,
    InvalidArgument,
    MalformedFile,
    OffsetGap,
    RivalWriter,
    Unavailable,
    UploadConflict,
)
from dari.core.upload_session import Uploads, UploadSession
from dari.core.uploads import (
    Batch,
    Checkpoint,
    Committed,
    Dialect,
    OpenUpload,
    Receipt,
    StoredRejectedRow,
    Upload,
    UploadMode,
    UploadState,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REQUEST = OpenUpload("u", "kb", UploadMode.REPLACE, Dialect(), max_rejected_rows=1_000_000)


@dataclass(frozen=True)
class At:
    """A Checkpoint; its digest's state is simply all bytes so far."""

    offset_bytes: int
    line: int
    rows_stored: int
    rows_rejected: int
    columns: list[str]
    sha256_state: bytes


@dataclass(frozen=True)
class Lines:
    """A Batch of whole lines. A line of "-" is rejected."""

    rows: bytes
    checkpoint: At
    rejected: Sequence[StoredRejectedRow] = ()
    postings: bytes = b""

    @property
    def rows_stored(self) -> int:
        return self.rows.count(b"\n")


class LineParser:
    """A FileParser for lines; a line of "!" is malformed."""

    def __init__(self, resume: Checkpoint | None, batch_bytes: int) -> None:
        self._batch_bytes = batch_bytes
        self._at = (
            At(0, 1, 0, 0, [], b"")
            if resume is None
            else At(
                resume.offset_bytes,
                resume.line,
                resume.rows_stored,
                resume.rows_rejected,
                resume.columns,
                resume.sha256_state,
            )
        )
        self._open = b""
        self.received_bytes = self._at.offset_bytes

    def feed(self, data: bytes) -> list[Lines]:
        self._open += data
        self.received_bytes += len(data)
        end = self._open.rfind(b"\n") + 1
        return [self._batch(end)] if end >= self._batch_bytes else []

    def finish(self) -> list[Lines]:
        return [self._batch(len(self._open))]

    def sha256(self) -> bytes:
        return hashlib.sha256(self._at.sha256_state).digest()

    def _batch(self, end: int) -> Lines:
        taken, self._open = self._open[:end], self._open[end:]
        lines = taken.splitlines()
        if b"!" in lines:
            raise MalformedFile("A line is malformed.", {"code": "malformed"})
        stored = [line for line in lines if line != b"-"]
        self._at = At(
            self._at.offset_bytes + end,
            self._at.line + len(lines),
            self._at.rows_stored + len(stored),
            self._at.rows_rejected + len(lines) - len(stored),
            ["line"],
            self._at.sha256_state + taken,
        )
        return Lines(b"".join(line + b"\n" for line in stored), self._at)


@dataclass
class Memory:
    """An UploadStore of one upload. `faults` are what the next commits do: nothing, or fail before or after storing."""

    faults: list[str] = field(default_factory=list)
    upload: Upload | None = None
    stored: bytes = b""
    ranges: list[tuple[int, int]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    commits: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def open(self, tenant: str, request: OpenUpload) -> Upload:
        if self.upload is None:
            self.upload = _new_upload(tenant, request)
        if self.upload.state is UploadState.FAILED:
            raise UploadConflict("It has failed.")
        self.upload = replace(self.upload, writer_epoch=self.upload.writer_epoch + 1)
        return self.upload

    def commit(self, upload: Upload, since: Checkpoint, batch: Batch, sha256: bytes | None = None) -> None:
        assert self.gate.wait(30)
        self.commits += 1
        fault = self.faults.pop() if self.faults else ""
        if fault == "before":
            raise Unavailable.of("database")
        current = self._mine(upload)
        if current.offset_bytes != since.offset_bytes or current.state is not UploadState.OPEN:
            raise RivalWriter("Another stream has it.")
        after = batch.checkpoint
        self.stored += batch.rows
        if after.offset_bytes > since.offset_bytes:
            self.ranges.append((since.offset_bytes, after.offset_bytes))
        self.upload = replace(
            current,
            offset_bytes=after.offset_bytes,
            line=after.line,
            rows_stored=after.rows_stored,
            rows_rejected=after.rows_rejected,
            columns=after.columns,
            sha256_state=after.sha256_state,
            state=UploadState.OPEN if sha256 is None else UploadState.INDEXING,
        )
        if fault == "after":
            raise Unavailable.of("database")

    def fail(self, upload: Upload, failure: str) -> None:
        current = self._mine(upload)
        self.upload = replace(current, state=UploadState.FAILED, failure=failure)

    def publish(self, upload: Upload) -> Receipt:
        if self.faults and self.faults.pop():
            raise Unavailable.of("database")
        current = self._mine(upload)
        assert current.state is UploadState.INDEXING
        receipt = _receipt(current)
        self.upload = replace(current, state=UploadState.COMPLETED, receipt=receipt)
        return receipt

    def get(self, tenant: str, id: str) -> Upload:
        raise NotImplementedError

    def list(self, tenant: str, knowledge_base: str, before: tuple[datetime, str] | None, limit: int) -> list[Upload]:
        raise NotImplementedError

    def list_rejected(self, tenant: str, id: str, after_offset_bytes: int, limit: int) -> Sequence[StoredRejectedRow]:
        raise NotImplementedError

    def _mine(self, upload: Upload) -> Upload:
        assert self.upload is not None
        if self.upload.writer_epoch != upload.writer_epoch:
            raise RivalWriter("Another stream has it.")
        return self.upload


def _new_upload(tenant: str, request: OpenUpload) -> Upload:
    return Upload(
        tenant=tenant,
        id=request.id,
        knowledge_base=request.knowledge_base,
        mode=request.mode,
        dialect=request.dialect,
        max_rejected_rows=request.max_rejected_rows,
        state=UploadState.OPEN,
        writer_epoch=0,
        offset_bytes=0,
        line=1,
        rows_stored=0,
        rows_rejected=0,
        columns=[],
        sha256_state=b"",
        segment="0" * 32,
        failure="",
        create_time=NOW,
        update_time=NOW,
        receipt=None,
    )


def _receipt(upload: Upload) -> Receipt:
    return Receipt(
        upload=upload.id,
        knowledge_base=upload.knowledge_base,
        version=1,
        mode=upload.mode,
        size_bytes=upload.offset_bytes,
        sha256=hashlib.sha256(upload.sha256_state).digest(),
        rows_stored=upload.rows_stored,
        rows_rejected=upload.rows_rejected,
        columns=tuple(upload.columns),
        dialect=upload.dialect,
        create_time=NOW,
        complete_time=NOW,
        index_duration_s=0.0,
    )


@contextmanager
def _uploads(store: Memory, *, batch_bytes: int = 8, max_open: int = 2) -> Iterator[Uploads]:
    with ThreadPoolExecutor(2) as executor:
        yield Uploads(store, lambda _, resume: LineParser(resume, batch_bytes), executor, max_open)


@contextmanager
def _session(
    store: Memory, request: OpenUpload = REQUEST, on_commit: Callable[[], None] = lambda: None
) -> Iterator[UploadSession]:
    with _uploads(store) as uploads, uploads.open("t", request, on_commit) as session:
        assert isinstance(session, UploadSession)
        yield session


LINE = st.sampled_from([b"a", b"bb", b"-", b"", b"ccccccccc", b"dddddddddddddddddddd"])


@st.composite
def _streams(draw: st.DrawFn) -> tuple[bytes, list[list[tuple[int, int]]], list[str]]:
    """A file; for each stream that breaks, how far back and how far on each of its chunks goes; and faults."""
    file = b"\n".join(draw(st.lists(LINE, min_size=1, max_size=40))) + draw(st.sampled_from([b"", b"\n"]))
    chunk = st.tuples(st.integers(0, 30), st.integers(1, 40))
    streams = draw(st.lists(st.lists(chunk, max_size=12), max_size=5))
    faults = draw(st.lists(st.sampled_from(["", "", "before", "after"]), max_size=8))
    return file, streams, faults


@settings(deadline=None, max_examples=300)
@given(_streams())
def test_any_split_with_any_resends_and_reconnects_stores_each_byte_once(
    case: tuple[bytes, list[list[tuple[int, int]]], list[str]],
) -> None:
    file, streams, faults = case
    store = Memory(faults=faults)
    told: list[tuple[int, int]] = []
    with _uploads(store) as uploads:
        for chunks in [*streams, *([] for _ in range(len(faults) + 1))]:
            try:
                with uploads.open("t", REQUEST) as session:
                    if isinstance(session, Receipt):
                        break
                    _send(session, file, chunks)
            except Unavailable as error:
                told.append((int(error.metadata["committed_offset"]), _offset(store)))
    assert all(committed <= stored for committed, stored in told)
    upload = store.upload
    assert upload is not None
    assert upload.state is UploadState.COMPLETED
    assert upload.sha256_state == file
    lines = file.splitlines()
    assert store.stored == b"".join(line + b"\n" for line in lines if line != b"-")
    assert upload.rows_stored + upload.rows_rejected == len(lines)
    assert [start for start, _ in store.ranges] == [0, *(end for _, end in store.ranges)][: len(store.ranges)]
    assert sum(end - start for start, end in store.ranges) == len(file)


def _offset(store: Memory) -> int:
    assert store.upload is not None
    return store.upload.offset_bytes


def _send(session: UploadSession, file: bytes, chunks: list[tuple[int, int]]) -> None:
    """Send as told, and break off; where nothing is told, send the whole file."""
    told = session.upload.offset_bytes
    sent = told
    for back, length in chunks:
        start = max(0, sent - back)
        data = file[start : start + length]
        if data:
            for committed in session.chunk(start, data):
                assert committed.offset_bytes >= told
                told = committed.offset_bytes
            sent = max(sent, start + len(data))
    if not chunks:
        if file[sent:]:
            list(session.chunk(sent, file[sent:]))
        steps = list(session.finish(len(file), hashlib.sha256(file).digest()))
        assert isinstance(steps[-1], Receipt)
        assert steps[-1].size_bytes == len(file)


def _send_all(session: UploadSession, file: bytes) -> object:
    """Send the whole file; gives the last answer."""
    list(session.chunk(0, file))
    return list(session.finish(len(file), b""))[-1]


def test_the_next_batch_is_parsed_while_the_database_takes_the_one_before() -> None:
    store = Memory()
    store.gate.clear()
    news = threading.Semaphore(0)
    with _session(store, on_commit=news.release) as session:
        assert list(session.chunk(0, b"12345678\n")) == []
        assert list(session.chunk(9, b"1234")) == [], "taken while the first batch is on its way"
        assert list(session.committed()) == []
        store.gate.set()
        assert news.acquire(timeout=30)
        assert list(session.committed()) == [Committed(9, 1, 0)]
        assert list(session.committed()) == []


def test_leaving_waits_for_the_batch_in_flight() -> None:
    store = Memory()
    store.gate.clear()
    opened = threading.Event()

    def work() -> None:
        with _session(store) as session:
            list(session.chunk(0, b"12345678\n"))
            opened.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert opened.wait(30)
    assert thread.is_alive()
    store.gate.set()
    thread.join()
    assert _offset(store) == 9


def test_a_skipped_chunk_is_acknowledged_once_it_is_safe() -> None:
    with _session(Memory()) as session:
        assert list(session.chunk(0, b"123")) == []
        assert list(session.chunk(0, b"12")) == [], "received, but not safe"
        list(session.finish(3, b""))
    store = Memory()
    with _session(store) as session:
        list(session.chunk(0, b"12345678\n"))
    with _session(store) as session:
        assert list(session.chunk(0, b"1234")) == [Committed(9, 1, 0)]
        assert store.commits == 1


@pytest.mark.parametrize(
    ("name", "send", "error", "metadata", "is_failed"),
    [
        ("gap", lambda s: s.chunk(5, b"x"), OffsetGap, {"expected_offset": "0"}, False),
        ("finish too early", lambda s: s.finish(5, b""), OffsetGap, {"expected_offset": "0"}, False),
        ("malformed", lambda s: s.chunk(0, b"12345678\n!\n"), MalformedFile, {"upload": "uploads/u"}, True),
        ("digest", lambda s: s.finish(0, b"x" * 32), ChecksumMismatch, {"upload": "uploads/u"}, True),
    ],
)
def test_what_cannot_be_taken_is_told(
    name: str,
    send: Callable[[UploadSession], Iterator[object]],
    error: type[DariError],
    metadata: dict[str, str],
    is_failed: bool,
) -> None:
    store = Memory()
    with _session(store) as session, pytest.raises(error) as raised:
        list(send(session))
    assert metadata.items() <= raised.value.metadata.items()
    assert store.upload is not None
    assert (store.upload.state is UploadState.FAILED) == is_failed


def test_a_size_below_what_was_received_fails_the_upload() -> None:
    store = Memory()
    with _session(store) as session:
        list(session.chunk(0, b"1\n2\n"))
        with pytest.raises(ChecksumMismatch):
            list(session.finish(3, b""))
    with pytest.raises(UploadConflict), _session(store):
        pass


def test_rows_that_are_too_many_are_stored_as_rejected_before_the_upload_fails() -> None:
    store = Memory()
    with _session(store, replace(REQUEST, max_rejected_rows=2)) as session, pytest.raises(MalformedFile) as raised:
        _send_all(session, b"-\n-\n-\n-\n")
    assert raised.value.metadata == {"code": "too_many_rejected_rows", "limit": "2", "upload": "uploads/u"}
    assert store.upload is not None
    assert (store.upload.state, store.upload.rows_rejected) == (UploadState.FAILED, 4)


def test_bytes_behind_a_finish_are_refused() -> None:
    store = Memory(faults=["publish", ""])
    with _session(store) as session, pytest.raises(Unavailable) as raised:
        _send_all(session, b"ab")
    assert raised.value.metadata["committed_offset"] == "2"
    with _session(store) as session, pytest.raises(UploadConflict) as conflict:
        list(session.chunk(2, b"c\n"))
    assert conflict.value.metadata == {"upload": "uploads/u", "field": "size"}
    with _session(store) as session:
        assert isinstance(list(session.finish(2, b""))[-1], Receipt)
    assert store.stored == b"ab\n"


def test_a_rival_ends_the_stream_before() -> None:
    store = Memory()
    with _uploads(store) as uploads, uploads.open("t", REQUEST) as first, uploads.open("t", REQUEST) as second:
        assert isinstance(first, UploadSession)
        assert isinstance(second, UploadSession)
        with pytest.raises(RivalWriter):
            _send_all(first, b"12345678\n")
        assert isinstance(_send_all(second, b"12345678\n"), Receipt)
    assert store.stored == b"12345678\n"


def test_places_are_limited_and_given_back_however_an_upload_ends() -> None:
    store = Memory()
    with _uploads(store, max_open=1) as uploads:

        def work() -> None:
            with uploads.open("t", REQUEST):
                with pytest.raises(Exhausted), uploads.open("t", REQUEST):
                    pass
                raise ValueError("mine")

        for _ in range(3):
            with pytest.raises(ValueError, match="mine"):
                work()
        with uploads.open("t", REQUEST) as session:
            assert isinstance(session, UploadSession)


def test_every_wrong_field_is_named_before_anything_is_opened() -> None:
    store = Memory()
    request = OpenUpload("a/b", "kb", UploadMode.APPEND, Dialect("\n", "||"), -1)
    with _uploads(store) as uploads, pytest.raises(InvalidArgument) as raised, uploads.open("t", request):
        pass
    assert [violation.field for violation in raised.value.violations] == [
        "open.upload_id",
        "open.max_rejected_rows",
        "open.dialect.delimiter",
        "open.dialect.quote",
    ]
    assert store.upload is None
