"""Reads at an interval what takes a neighbour to read, so that a scrape waits for nobody."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from dari.core.errors import DariError
from dari.core.event_log import EventLog, failure_fields

Value = TypeVar("Value")
LOOK_INTERVAL_S = 15.0
"""As often as Prometheus mostly scrapes."""
_STOP_TIMEOUT_S = 2.0


class RegularLook(Generic[Value]):
    """Looks at once, and then at each interval, on a thread of its own. `start`, then `close`."""

    def __init__(self, read: Callable[[], Value], log: EventLog, interval_s: float = LOOK_INTERVAL_S) -> None:
        """What `read` raises as a DariError is the neighbour's absence, of which others tell."""
        self._read = read
        self._log = log
        self._interval_s = interval_s
        self._began_s = time.monotonic()
        self._seen: tuple[Value, float] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="stored-figures", daemon=True)

    @property
    def latest(self) -> Value | None:
        """What was seen last; None before the first time."""
        return None if self._seen is None else self._seen[0]

    def age_s(self) -> float:
        """How long ago that was; before the first time, how long it has been tried."""
        return time.monotonic() - (self._began_s if self._seen is None else self._seen[1])

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join(_STOP_TIMEOUT_S)

    def _work(self) -> None:
        while True:
            try:
                self._seen = self._read(), time.monotonic()
            except DariError:
                pass
            except Exception as error:  # noqa: BLE001 - the next look may succeed, and nobody else would tell of this
                self._log.error("figures_not_read", **failure_fields(type(error), error.__traceback__))
            if self._stopping.wait(self._interval_s):
                return
