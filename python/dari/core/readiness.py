"""Looks again and again whether the database answers, so that a replica's health says what it can do.

Chats do without the database, by what was known last; everything else needs it.
"""

import threading
from collections.abc import Callable

from dari.core.errors import DariError, Unavailable
from dari.core.event_log import EventLog, failure_fields
from dari.core.patience import Patience

LOOK_TIMEOUT_S = 2.0
FAILURES_IN_A_ROW = 2
"""Before the database counts as gone: one may be a connection that broke."""
_STOP_TIMEOUT_S = LOOK_TIMEOUT_S + 1.0


class DatabaseWatch:
    """Tells each change, on a thread of its own. `start`, then `close`: behind it nothing is told."""

    def __init__(
        self, look: Callable[[], None], tell: Callable[[bool], None], log: EventLog, *, interval_s: float
    ) -> None:
        """`look` raises Unavailable where the database does not answer; any other answer is one."""
        self._look = look
        self._tell = tell
        self._log = log
        self._interval_s = interval_s
        self._failures = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="database-watch", daemon=True)

    def start(self) -> None:
        """Begin; the database answers at this moment."""
        self._thread.start()

    def close(self) -> None:
        """Look no further."""
        self._stopping.set()
        self._thread.join(_STOP_TIMEOUT_S)

    def _work(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                answers = self._answers()
            except Exception as error:  # noqa: BLE001 - the next look may succeed, and nobody else would tell of this
                self._log.error("database_watch_failed", **failure_fields(type(error), error.__traceback__))
                continue
            before = self._failures
            self._failures = 0 if answers else before + 1
            if self._stopping.is_set():
                return
            if self._failures == FAILURES_IN_A_ROW:
                self._log.warning("database_gone")
                self._tell(False)
            elif answers and before >= FAILURES_IN_A_ROW:
                self._log.info("database_back")
                self._tell(True)

    def _answers(self) -> bool:
        try:
            with Patience(LOOK_TIMEOUT_S):
                self._look()
        except Unavailable:
            return False
        except DariError:
            return True  # It is busy, say.
        return True
