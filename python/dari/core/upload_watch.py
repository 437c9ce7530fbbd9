"""Follows uploads as they move, for as many watchers as the limit allows."""

import threading
from collections.abc import Callable, Iterator

from dari.core.errors import Exhausted, Unavailable
from dari.core.uploads import ENDED, Upload, UploadStore

POLL_INTERVAL_S = 0.5


class UploadWatch:
    """Lets callers watch uploads. Each holds a thread, so that there may be only so many. Thread-safe."""

    def __init__(self, store: UploadStore, max_watchers: int, poll_interval_s: float = POLL_INTERVAL_S) -> None:
        self._store = store
        self._max_watchers = max_watchers
        self._poll_interval_s = poll_interval_s
        self._slots = threading.BoundedSemaphore(max_watchers)
        self._stopping = threading.Event()

    def watch(self, tenant: str, id: str, is_wanted: Callable[[], bool]) -> Iterator[Upload]:
        """The upload at once, then whenever it has changed, until it has ended or nobody wants it any more.

        Raises NotFound, also where it is deleted meanwhile; Exhausted where too many watch; Unavailable where the
        database is down, or this server stops.
        """
        if not self._slots.acquire(blocking=False):
            raise Exhausted(
                f"{self._max_watchers} callers watch uploads, the most that this server takes; ask with GetUpload.",
                {"limit": "max_watchers", "value": self._max_watchers},
            )
        try:
            told: Upload | None = None
            while is_wanted():
                upload = self._store.get(tenant, id)
                if upload != told:
                    yield upload
                    told = upload
                if upload.state in ENDED:
                    return
                if self._stopping.wait(self._poll_interval_s):
                    raise Unavailable("This server is stopping; watch again.", {"neighbour": "server"})
        finally:
            self._slots.release()

    def stop(self) -> None:
        """Let all who watch go."""
        self._stopping.set()
