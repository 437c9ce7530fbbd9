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
from dari.core.upload_session import UploadLimits, Uploads, UploadSession
from dari.core.uploads import (
    ALONE,
    Checkpoint,
    Committed,
    CommittedCheckpoint,
    Dialect,
    Move,
    OpenUpload,
    ParseOptions,
    Reading,
    Receipt,
    StoredRejectedRow,
    Turn,
    Upload,
    UploadMode,
    UploadState,
    too_many_rejected,
)
from tests.support.waiting import until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REQUEST = OpenUpload("u", "kb", UploadMode.REPLACE, ParseOptions(), max_rejected_rows=1_000_000, max_rejected_share=1)
READING = Reading(Dialect("utf-8", ",", '"', "", "", trims_blanks=False, preamble_lines=0, header_rows=1), None, 1.0)


@dataclass(frozen=True)
class Lines:
    """A Batch of whole lines. A line of "-" is rejected."""

    rows: bytes
    checkpoint: CommittedCheckpoint
    rejected: Sequence[StoredRejectedRow] = ()
    postings: bytes = b""
    evidence: bytes = b""

    @property
    def rows_stored(self) -> int:
        return self.rows.count(b"\n")


class LineParser:
    """A FileParser for lines; a line of "!" is malformed. The digest's state is simply all bytes so far."""

    reading = READING

    def __init__(self, resume: Checkpoint | None, batch_bytes: int) -> None:
        self._batch_bytes = batch_bytes
        self._at = CommittedCheckpoint()
        if resume is not None:
            self._at = CommittedCheckpoint(
                resume.offset_bytes,
                resume.line,
                resume.rows_stored,
                resume.rows_rejected,
                columns=resume.columns,
                state=resume.state,
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
        return hashlib.sha256(self._at.state).digest()

    def _batch(self, end: int) -> Lines:
        taken, self._open = self._open[:end], self._open[end:]
        lines = taken.splitlines()
        if b"!" in lines:
            raise MalformedFile("A line is malformed.", {"code": "malformed"})
        stored = [line for line in lines if line != b"-"]
        self._at = CommittedCheckpoint(
            self._at.offset_bytes + end,
            self._at.line + len(lines),
            self._at.rows_stored + len(stored),
            self._at.rows_rejected + len(lines) - len(stored),
            columns=["line"],
            state=self._at.state + taken,
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
    lock: threading.Lock = field(default_factory=threading.Lock)
    commits: int = 0
    at_once: int = 0
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def open(self, tenant: str, request: OpenUpload) -> Upload:
        if self.upload is None:
            self.upload = _new_upload(tenant, request)
        if self.upload.state is UploadState.FAILED:
            raise UploadConflict("It has failed.")
        self.upload = replace(self.upload, writer_epoch=self.upload.writer_epoch + 1)
        return self.upload

    def commit(self, upload: Upload, move: Move, turn: Turn = ALONE) -> None:
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.commits += 1
            fault = self.faults.pop() if self.faults else ""
        try:
            assert self.gate.wait(30)
            if fault == "before":
                raise Unavailable.of("database")
            turn.await_locks()
            turn.has_locks()
            turn.await_commit()
            self._store(upload, move)
            if fault == "after":
                raise Unavailable.of("database")
        finally:
            with self.lock:
                self.at_once -= 1

    def _store(self, upload: Upload, move: Move) -> None:
        current = self._mine(upload)
        since, after = move.since, move.batch.checkpoint
        if current.checkpoint.offset_bytes != since.offset_bytes or current.state is not UploadState.OPEN:
            raise RivalWriter("Another stream has it.")
        self.stored += move.batch.rows
        if after.offset_bytes > since.offset_bytes:
            self.ranges.append((since.offset_bytes, after.offset_bytes))
        assert isinstance(after, CommittedCheckpoint)
        self.upload = replace(
            current,
            checkpoint=after,
            reading=move.reading,
            state=UploadState.OPEN if move.sha256 is None else UploadState.INDEXING,
        )

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

    def cancel(self, tenant: str, id: str) -> Upload:
        raise NotImplementedError

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
        options=request.options,
        max_rejected_rows=request.max_rejected_rows,
        max_rejected_share=request.max_rejected_share,
        state=UploadState.OPEN,
        writer_epoch=0,
        checkpoint=CommittedCheckpoint(),
        reading=None,
        segment="0" * 32,
        failure="",
        create_time=NOW,
        update_time=NOW,
        receipt=None,
    )


def _receipt(upload: Upload) -> Receipt:
    at = upload.checkpoint
    assert upload.reading is not None
    return Receipt(
        upload=upload.id,
        knowledge_base=upload.knowledge_base,
        version=1,
        mode=upload.mode,
        size_bytes=at.offset_bytes,
        sha256=hashlib.sha256(at.state).digest(),
        rows_stored=at.rows_stored,
        rows_rejected=at.rows_rejected,
        lines_set_aside=at.lines_set_aside,
        rows_ragged=at.rows_ragged,
        rows_repaired=at.rows_repaired,
        rows_replaced=at.rows_replaced,
        columns=tuple(at.columns),
        reading=upload.reading,
        create_time=NOW,
        complete_time=NOW,
        index_duration_s=0.0,
    )


@contextmanager
def _uploads(
    store: Memory,
    *,
    batch_bytes: int = 8,
    max_open: int = 2,
    second_streams: int = 1,
    max_upload_bytes: int = 1_000_000,
) -> Iterator[Uploads]:
    limits = UploadLimits(max_open, second_streams, max_upload_bytes)
    with ThreadPoolExecutor(max_open + second_streams) as executor:
        yield Uploads(store, lambda _, resume: LineParser(resume, batch_bytes), executor, limits)


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
@given(_streams(), st.integers(0, 1))
def test_any_split_with_any_resends_and_reconnects_stores_each_byte_once(
    case: tuple[bytes, list[list[tuple[int, int]]], list[str]], second_streams: int
) -> None:
    file, streams, faults = case
    store = Memory(faults=faults)
    told: list[tuple[int, int]] = []
    with _uploads(store, second_streams=second_streams) as uploads:
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
    assert upload.checkpoint.state == file
    assert store.most_at_once <= 1 + second_streams
    lines = file.splitlines()
    assert store.stored == b"".join(line + b"\n" for line in lines if line != b"-")
    assert upload.checkpoint.rows_stored + upload.checkpoint.rows_rejected == len(lines)
    assert [start for start, _ in store.ranges] == [0, *(end for _, end in store.ranges)][: len(store.ranges)]
    assert sum(end - start for start, end in store.ranges) == len(file)


def _offset(store: Memory) -> int:
    assert store.upload is not None
    return store.upload.checkpoint.offset_bytes


def _send(session: UploadSession, file: bytes, chunks: list[tuple[int, int]]) -> None:
    """Send as told, and break off; where nothing is told, send the whole file."""
    told = session.committed_offset_bytes
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


@pytest.mark.parametrize("second_streams", [0, 1])
def test_behind_the_first_batch_as_many_go_to_the_database_at_once_as_there_are_streams(second_streams: int) -> None:
    """The first makes the tables, and nothing goes beside it."""
    store = Memory()
    news = threading.Semaphore(0)
    with _uploads(store, second_streams=second_streams) as uploads, uploads.open("t", REQUEST, news.release) as session:
        assert isinstance(session, UploadSession)
        list(session.chunk(0, b"12345678\n"))
        assert news.acquire(timeout=30)
        list(session.committed())
        store.gate.clear()
        list(session.chunk(9, b"12345678\n"))
        if second_streams:
            list(session.chunk(18, b"12345678\n"))
            until(lambda: store.at_once == 2)
        store.gate.set()
        list(session.finish(27 if second_streams else 18, b""))
    assert store.most_at_once == 1 + second_streams
    assert [start for start, _ in store.ranges] == sorted(start for start, _ in store.ranges)


def test_a_batch_behind_one_that_fails_is_not_stored() -> None:
    store = Memory()
    with _session(store) as session:
        list(session.chunk(0, b"12345678\n"))
        until(lambda: _offset(store) == 9)
        store.gate.clear()
        store.faults = ["", "before"]
        list(session.chunk(9, b"12345678\n"))
        until(lambda: store.at_once == 1)
        list(session.chunk(18, b"12345678\n"))
        store.gate.set()
        with pytest.raises(Unavailable) as raised:
            list(session.finish(27, b""))
    assert raised.value.metadata["committed_offset"] == "9"
    assert store.ranges == [(0, 9)]


def test_a_second_stream_is_free_again_when_its_session_closes() -> None:
    store = Memory()
    with _uploads(store, second_streams=1) as uploads:
        for offset in (0, 27, 54):
            with uploads.open("t", REQUEST) as session:
                assert isinstance(session, UploadSession)
                list(session.chunk(offset, b"12345678\n"))
                until(lambda offset=offset: _offset(store) == offset + 9)  # type: ignore[misc]
                store.gate.clear()
                list(session.chunk(offset + 9, b"12345678\n"))
                list(session.chunk(offset + 18, b"12345678\n"))
                until(lambda: store.at_once == 2)
                store.gate.set()


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
    assert raised.value.metadata == {
        "code": "too_many_rejected_rows",
        "limit": "2",
        "upload": "uploads/u",
        "line": "5",
        "byte_offset": "8",
        "rows": "4",
    }
    assert store.upload is not None
    assert (store.upload.state, store.upload.checkpoint.rows_rejected) == (UploadState.FAILED, 4)


@pytest.mark.parametrize(
    ("name", "lines", "is_end", "is_too_large"),
    [
        ("half is allowed", (500, 500), False, False),
        ("more is not", (499, 501), False, True),
        ("of few rows it says nothing", (0, 999), False, False),
        ("at the end it always counts", (0, 1), True, True),
        ("a file without rows has no share", (0, 0), True, False),
    ],
)
def test_a_share_of_rejected_rows_is_looked_at_from_a_thousand_rows_on_and_at_the_end(
    name: str, lines: tuple[int, int], is_end: bool, is_too_large: bool
) -> None:
    stored, rejected = lines
    upload = _new_upload("t", replace(REQUEST, max_rejected_share=0.5))
    error = too_many_rejected(upload, CommittedCheckpoint(9, 2, stored, rejected), is_end=is_end)
    assert (error is not None) == is_too_large
    if error is not None:
        assert error.metadata["code"] == "too_large_rejected_share"


def test_a_file_beyond_the_largest_size_is_refused_and_the_upload_can_go_on() -> None:
    store = Memory()
    with _uploads(store, max_upload_bytes=20) as uploads, uploads.open("t", REQUEST) as session:
        assert isinstance(session, UploadSession)
        list(session.chunk(0, b"12345678\n12345678\n12"))
        with pytest.raises(Exhausted) as raised:
            list(session.chunk(20, b"3"))
        assert raised.value.metadata["limit"] == "max_upload_bytes"
    assert store.upload is not None
    assert store.upload.state is UploadState.OPEN
    with _session(store) as session:
        assert isinstance(_send_all(session, b"12345678\n12345678\n123\n"), Receipt)


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


@pytest.mark.parametrize(
    ("hints", "fields"),
    [
        (Dialect(delimiter="\n", quote="||"), ["delimiter", "quote"]),
        (Dialect(delimiter=""), ["delimiter"]),
        (Dialect(quote="", escape="", comment=""), []),
        (Dialect(escape="\r", comment="ä"), ["escape", "comment"]),
        (Dialect(delimiter=";", quote=";"), ["quote"]),
        (Dialect(quote="'", escape="'"), ["escape"]),
        (Dialect(encoding="ascii"), ["encoding"]),
        (Dialect(encoding="utf-7"), ["encoding"]),
        (Dialect(encoding="cp949"), []),
        (Dialect(preamble_lines=-1, header_rows=9), ["preamble_lines", "header_rows"]),
        (Dialect(preamble_lines=0, header_rows=8), []),
    ],
)
def test_hints_that_no_file_could_have_are_named(hints: Dialect, fields: list[str]) -> None:
    assert [violation.field for violation in hints.violations()] == [f"open.dialect.{field}" for field in fields]


def test_every_wrong_field_is_named_before_anything_is_opened() -> None:
    store = Memory()
    request = OpenUpload("a/b", "kb", UploadMode.APPEND, ParseOptions(Dialect(delimiter="\n")), -1, 1.5)
    with _uploads(store) as uploads, pytest.raises(InvalidArgument) as raised, uploads.open("t", request):
        pass
    assert [violation.field for violation in raised.value.violations] == [
        "open.upload_id",
        "open.max_rejected_rows",
        "open.max_rejected_share",
        "open.dialect.delimiter",
    ]
    assert store.upload is None
