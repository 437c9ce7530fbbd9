"""Keeps knowledge bases in step with their sources: fetches what changed, through the same road as every upload.

A sync is exactly once, whichever replica dies. One replica at a time holds the lease of a source; the lease moves when
it is not renewed, and whoever takes it goes on with the same sync. The id of the upload is made of the knowledge base,
the version before, and the content, so that the same sync is the same upload: it goes on from its committed offset, or
gives its receipt again. Where that upload has ended badly (it was held, failed or was cancelled), the sync has one of
its own, by its number.
"""

import hashlib
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Protocol
from uuid import UUID

from dari.core.alerts import Alert, AlertKind, AlertSink
from dari.core.errors import Aborted, DariError, UploadConflict
from dari.core.event_context import new_work
from dari.core.event_log import EventLog, failure_fields
from dari.core.sources import KnowledgeBaseSource
from dari.core.telemetry import NO_TELEMETRY, Step, Telemetry
from dari.core.upload_session import Uploads, UploadSession
from dari.core.uploads import OpenUpload, ParseOptions, Receipt, UploadMode

_CHUNK_BYTES = 256 * 1024
_FIRST_RETRY_S = 10.0
_LONGEST_RETRY_S = 3_600.0
_STOP_TIMEOUT_S = 2.0


class SyncState(Enum):
    """What came of a sync."""

    RUNNING = "RUNNING"
    UNCHANGED = "UNCHANGED"
    COMPLETED = "COMPLETED"
    HELD = "HELD"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Sync:
    """One look at a source."""

    knowledge_base: str
    number: int
    state: SyncState
    code: str
    fetched_bytes: int
    uploads: tuple[str, ...]
    """Ids."""
    version: int
    """0 where none became current."""
    rows_before: int
    rows_found: int
    create_time: datetime
    complete_time: datetime | None
    next_time: datetime | None


@dataclass(frozen=True, slots=True)
class SourceMark:
    """What tells a content from another, without reading it and after having read it."""

    etag: str = ""
    """As the server or file system tells it; empty where it tells none."""
    last_modified: str = ""
    sha256: bytes = b""
    """Of the bytes as fetched; empty before the first fetch."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A sync that this replica is to do, under a lease."""

    tenant: str
    knowledge_base: str
    incarnation: str
    """Tells a knowledge base from one that had its id before."""
    lease: UUID
    number: int
    source: KnowledgeBaseSource
    mark: SourceMark
    """Of the content that was last fetched to its end."""
    is_held: bool
    """Whether that content waits for a person."""
    accepts_shrink: bool
    version_before: int
    rows_before: int
    failures: int
    """In a row, before this one."""
    start_time: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a sync ended."""

    state: SyncState
    code: str = ""
    fetched_bytes: int = 0
    uploads: tuple[str, ...] = ()
    version: int = 0
    rows_found: int = 0
    mark: SourceMark | None = None
    """Of the content that was looked at; None leaves the one before."""
    next_time: datetime | None = None


class SyncStore(Protocol):
    """Keeps sources, their leases and their syncs. All methods raise `Unavailable` where the database is down."""

    def request(self, tenant: str, knowledge_base: str, *, accepts_shrink: bool) -> Sync:
        """Begin a sync, or give the one under way. Raises NotFound, FailedPrecondition without a source."""
        ...

    def list(self, tenant: str, knowledge_base: str, before: tuple[datetime, str] | None, limit: int) -> Sequence[Sync]:
        """Latest first, those behind the (create_time, "kb/number") `before`; "" means of all knowledge bases."""
        ...

    def claim(self, lease_s: float) -> Claim | None:
        """Take the lease of a source that is due, was asked for, or whose replica died in the middle."""
        ...

    def renew(self, claim: Claim, lease_s: float) -> bool:
        """Hold the lease for longer; False where another has it."""
        ...

    def end(self, claim: Claim, outcome: Outcome) -> None:
        """Write the outcome and give the lease back. Does nothing where another has it."""
        ...


class Content(Protocol):
    """A file that is read from any byte on. Both raise SourceFailed where it is damaged."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, offset: int, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """The content of a source, on this machine's disk for as long as the fetch is open."""

    mark: SourceMark
    size_bytes: int
    content: Content
    """Unpacked, from its first byte."""


class SourceFailed(Exception):
    """A source gives no content. `code` is one snake_case word; nothing of the source's own text is kept."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class SourceReader(Protocol):
    """Fetches sources."""

    def fetch(
        self, tenant: str, source: KnowledgeBaseSource, known: SourceMark, stopped: threading.Event
    ) -> AbstractContextManager[Fetched | None]:
        """The content, by the tenant's credentials; None where it is the `known` one.

        Raises SourceFailed, also when `stopped` is set.
        """
        ...


class _Held(Exception):
    """So few rows wait for a person."""

    def __init__(self, rows_found: int) -> None:
        super().__init__(rows_found)
        self.rows_found = rows_found


class Syncs:
    """Does the syncs that are due, on threads of its own. `start`, then `close`. Any number of replicas may."""

    def __init__(
        self,
        store: SyncStore,
        reader: SourceReader,
        uploads: Uploads,
        alerts: AlertSink,
        log: EventLog,
        *,
        interval_s: float,
        lease_s: float,
        max_at_once: int,
        max_rejected: tuple[int, float],
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self._store = store
        self._reader = reader
        self._uploads = uploads
        self._alerts = alerts
        self._log = log
        self._telemetry = telemetry
        self._interval_s = interval_s
        self._lease_s = lease_s
        self._max_rejected = max_rejected
        self._stopping = threading.Event()
        # Guards _asked: someone may ask while all threads are at work.
        self._wake = threading.Condition()
        self._asked = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"sync-{number}", daemon=True) for number in range(max_at_once)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Begin no other; those under way break off and go on elsewhere once their leases are over."""
        self._stopping.set()
        with self._wake:
            self._wake.notify_all()
        for thread in self._threads:
            thread.join(_STOP_TIMEOUT_S)

    def request(self, tenant: str, knowledge_base: str, *, accepts_shrink: bool) -> Sync:
        """See SyncStore; and look for it at once."""
        sync = self._store.request(tenant, knowledge_base, accepts_shrink=accepts_shrink)
        with self._wake:
            self._asked += 1
            self._wake.notify()
        return sync

    def list(self, tenant: str, knowledge_base: str, before: tuple[datetime, str] | None, limit: int) -> Sequence[Sync]:
        """See SyncStore."""
        return self._store.list(tenant, knowledge_base, before, limit)

    def run_once(self) -> bool:
        """Do one sync that is due; False where none is. Raises what the store raises."""
        claim = self._store.claim(self._lease_s)
        if claim is None:
            return False
        base = f"knowledgeBases/{claim.knowledge_base}"
        with new_work(tenant=claim.tenant, knowledge_base=base, sync=str(claim.number)):
            self._sync(claim)
        return True

    def _sync(self, claim: Claim) -> None:
        lost = threading.Event()
        with self._held_lease(claim, lost), self._telemetry.step(Step.SYNC, tenant=claim.tenant) as span:
            outcome = self._outcome(claim, lost)
            if outcome is not None:
                span.tell(state=outcome.state.value, code=outcome.code, fetched_bytes=outcome.fetched_bytes)
        if outcome is not None:
            self._store.end(claim, outcome)
            self._tell(claim, outcome)

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                if self.run_once():
                    continue
            except Exception as error:  # noqa: BLE001 - the next round may succeed, and nobody else would tell of this
                self._log.warning("sync_round_failed", **failure_fields(type(error), error.__traceback__))
            with self._wake:
                self._wake.wait_for(lambda: self._asked or self._stopping.is_set(), self._interval_s)
                self._asked = max(0, self._asked - 1)

    @contextmanager
    def _held_lease(self, claim: Claim, lost: threading.Event) -> Iterator[None]:
        """Renew the lease as long as the body runs; `lost` is set once that fails, and when dari stops."""
        done = threading.Event()
        thread = threading.Thread(target=self._renew, args=(claim, lost, done), name="sync-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _renew(self, claim: Claim, lost: threading.Event, done: threading.Event) -> None:
        while not done.wait(self._lease_s / 4):
            if self._stopping.is_set() or not self._is_renewed(claim):
                lost.set()
                return

    def _is_renewed(self, claim: Claim) -> bool:
        try:
            return self._store.renew(claim, self._lease_s)
        except DariError:
            return False

    def _outcome(self, claim: Claim, lost: threading.Event) -> Outcome | None:
        """How it ended; None where it is to go on, here or elsewhere."""
        try:
            outcome = self._synced(claim, lost)
        except SourceFailed as error:
            outcome = self._failed(claim, error.code)
        except Aborted:
            return None
        except DariError as error:
            outcome = self._failed(claim, error.metadata.get("code") or error.reason.lower())
        except Exception as error:  # noqa: BLE001 - a source must not end the thread that all sources share
            self._log.error("sync_broke", **failure_fields(type(error), error.__traceback__))
            outcome = self._failed(claim, "internal")
        return None if lost.is_set() or self._stopping.is_set() else outcome

    def _synced(self, claim: Claim, lost: threading.Event) -> Outcome:
        known = SourceMark() if claim.accepts_shrink else claim.mark
        next_time = None if claim.source.paused else claim.source.schedule.next_after(claim.start_time)
        with self._reader.fetch(claim.tenant, claim.source, known, lost) as fetched:
            if fetched is None:
                return _same(claim, None, 0, next_time)
            if fetched.mark.sha256 == known.sha256:
                return _same(claim, fetched.mark, fetched.size_bytes, next_time)
            try:
                upload, receipt = self._stored(claim, fetched, lost)
            except _Held as held:
                return Outcome(
                    SyncState.HELD, "shrunk", fetched.size_bytes, (), 0, held.rows_found, fetched.mark, next_time
                )
        return Outcome(
            SyncState.COMPLETED, "", fetched.size_bytes, (upload,), receipt.version, receipt.rows_stored, fetched.mark,
            next_time,
        )  # fmt: skip

    def _stored(self, claim: Claim, fetched: Fetched, lost: threading.Event) -> tuple[str, Receipt]:
        """The upload that has the content, complete."""
        upload = _upload_id(claim, fetched.mark.sha256)
        try:
            return upload, self._uploaded(claim, upload, fetched.content, lost)
        except UploadConflict:
            own = f"{upload}-{claim.number}"
            return own, self._uploaded(claim, own, fetched.content, lost)

    def _uploaded(self, claim: Claim, upload: str, content: Content, lost: threading.Event) -> Receipt:
        """Send the content through an upload session, from where an earlier one stopped."""
        max_rows, max_share = self._max_rejected
        request = OpenUpload(upload, claim.knowledge_base, UploadMode.REPLACE, ParseOptions(), max_rows, max_share)

        with self._uploads.open(claim.tenant, request) as opened:
            if isinstance(opened, Receipt):
                return opened
            session = opened

            def accept(rows_found: int) -> None:
                if lost.is_set():
                    raise Aborted("The lease of the source moved to another server.")
                if not claim.accepts_shrink and claim.source.holds(claim.rows_before, rows_found):
                    session.cancel()
                    raise _Held(rows_found)

            offset = _sent(session, content, lost)
            *_, receipt = session.finish(offset, b"", accept)
            if not isinstance(receipt, Receipt):
                raise TypeError("finish ends with the receipt")
            return receipt

    def _failed(self, claim: Claim, code: str) -> Outcome:
        has_schedule = not claim.source.paused and claim.source.schedule.next_after(claim.start_time) is not None
        pause = timedelta(seconds=retry_pause_s(claim.failures + 1))
        return Outcome(SyncState.FAILED, code, next_time=datetime.now(UTC) + pause if has_schedule else None)

    def _tell(self, claim: Claim, outcome: Outcome) -> None:
        base = f"knowledgeBases/{claim.knowledge_base}"
        self._telemetry.sync_ended(outcome.state.value)
        self._log.info("sync_ended", knowledge_base=base, state=outcome.state.value, code=outcome.code)
        if outcome.state is SyncState.FAILED:
            self._alerts.tell(Alert(AlertKind.SYNC_FAILED, base, outcome.code, tenant=claim.tenant))
        if outcome.state is SyncState.HELD and not claim.is_held:
            self._alerts.tell(Alert(AlertKind.SYNC_HELD, base, tenant=claim.tenant))


def retry_pause_s(failures: int) -> float:
    """How long a source rests behind so many failures in a row: doubling, a half of it at random."""
    longest = min(_LONGEST_RETRY_S, _FIRST_RETRY_S * 2.0 ** min(failures - 1, 16))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


def _same(claim: Claim, mark: SourceMark | None, fetched_bytes: int, next_time: datetime | None) -> Outcome:
    if claim.is_held:
        return Outcome(SyncState.HELD, "shrunk", fetched_bytes, mark=mark, next_time=next_time)
    return Outcome(SyncState.UNCHANGED, "", fetched_bytes, rows_found=claim.rows_before, mark=mark, next_time=next_time)


def _upload_id(claim: Claim, sha256: bytes) -> str:
    parts = (claim.tenant, claim.knowledge_base, claim.incarnation, str(claim.version_before), sha256.hex())
    return f"sync-{hashlib.sha256('/'.join(parts).encode()).hexdigest()}"


def _sent(session: UploadSession, content: Content, lost: threading.Event) -> int:
    """Send all bytes behind those that are safe; returns the size of the content."""
    offset = content.seek(session.committed_offset_bytes)
    while piece := content.read(_CHUNK_BYTES):
        if lost.is_set():
            raise Aborted("The lease of the source moved to another server.")
        for _ in session.chunk(offset, piece):
            pass
        offset += len(piece)
    return offset
