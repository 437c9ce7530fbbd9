"""What is done for uploads and versions while nobody asks: finish what was left alone, and remove what is over.

Any number of servers may do it over one database. An upload is published under the lock of its row, which the database
frees when a server dies; what removes is done by one server at a time.
"""

import threading
from dataclasses import asdict, dataclass
from typing import Protocol

from dari.core.errors import Aborted, HeaderConflict, NotFound, UploadConflict
from dari.core.event_context import new_work
from dari.core.event_log import EventLog, failure_fields
from dari.core.telemetry import NO_TELEMETRY, Step, Telemetry
from dari.core.uploads import Upload, UploadStore, too_many_rejected

_STOP_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept, and for how long."""

    version_grace_s: float
    """Since it was superseded; a reader may still hold it."""
    keep_versions: int
    """Versions of each knowledge base that stay beside the current one, however old. 0 or more."""
    upload_expiry_s: float
    """Since the last batch of an upload that is still open."""


@dataclass(frozen=True, slots=True)
class Done:
    """How much one round did."""

    uploads_published: int = 0
    uploads_failed: int = 0
    uploads_expired: int = 0
    versions_removed: int = 0
    segments_dropped: int = 0


class HousekeepingStore(Protocol):
    """Finds and removes. All methods raise `Unavailable` where the database is down."""

    def unfinished(self) -> list[Upload]:
        """Uploads that have all their bytes and are not published, but those that somebody is at work on."""
        ...

    def expire_uploads(self, upload_expiry_s: float) -> int:
        """Let open uploads that were silent for so long fail; returns how many."""
        ...

    def remove_versions(self, version_grace_s: float, keep_versions: int) -> int:
        """Forget versions that were superseded so long ago, but as many of each knowledge base; returns how many."""
        ...

    def drop_segments(self) -> int:
        """Drop the rows that belong to no version and to no upload that goes on; returns of how many uploads.

        What a reader holds at the moment is left for the next round.
        """
        ...


class Housekeeping:
    """Does a round at once, then one at each interval, on a thread of its own. `start`, then `close`."""

    def __init__(
        self,
        uploads: UploadStore,
        store: HousekeepingStore,
        retention: Retention,
        interval_s: float,
        log: EventLog,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self._uploads = uploads
        self._store = store
        self._retention = retention
        self._interval_s = interval_s
        self._log = log
        self._telemetry = telemetry
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Begin no further round. One that is building an index may go on until its connection is cut."""
        self._stopping.set()
        self._thread.join(_STOP_TIMEOUT_S)

    def run_once(self) -> Done:
        """Do a round now. Raises Unavailable, or another DariError that kept it from its end."""
        published = failed = 0
        for upload in self._store.unfinished():
            if self._stopping.is_set():
                break
            outcome = self._finish(upload)
            published += outcome is True
            failed += outcome is False
        retention = self._retention
        return Done(
            uploads_published=published,
            uploads_failed=failed,
            uploads_expired=self._store.expire_uploads(retention.upload_expiry_s),
            versions_removed=self._store.remove_versions(retention.version_grace_s, retention.keep_versions),
            segments_dropped=self._store.drop_segments(),
        )

    def _work(self) -> None:
        while True:
            try:
                with self._telemetry.step(Step.HOUSEKEEPING):
                    done = self.run_once()
            except Exception as error:  # noqa: BLE001 - the next round may succeed, and nobody else would tell of this
                self._log.warning("housekeeping_failed", **failure_fields(type(error), error.__traceback__))
            else:
                self._telemetry.housekeeping_done(asdict(done))
                if done != Done():
                    self._log.info("housekeeping_done", **asdict(done))
            if self._stopping.wait(self._interval_s):
                return

    def _finish(self, upload: Upload) -> bool | None:
        """Publish (True) or fail (False) an upload whose server left it behind; None where somebody else has it."""
        too_many = too_many_rejected(upload, upload.checkpoint, is_end=True)
        if too_many is not None:
            self._uploads.fail(upload, too_many.message)
            return False
        try:
            with new_work(upload=upload.name, tenant=upload.tenant), self._telemetry.step(Step.PUBLISH):
                self._uploads.publish(upload)
        except HeaderConflict as error:
            self._uploads.fail(upload, error.message)
            return False
        except (Aborted, NotFound, UploadConflict):
            return None
        return True
