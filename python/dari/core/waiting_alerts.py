"""Alerts between those who raise them and the thread that stores them: in memory, bounded.

What repeats itself while it waits is counted instead of kept, so that a wrong key that every turn meets is one line.
They are lost with the process.
"""

import threading
from collections import deque
from dataclasses import replace

from dari.core.alerts import ENDS, Alert, AlertKind

MAX_WAITING = 1_000
"""Beyond it the oldest is lost: what goes on is said again."""


class WaitingAlerts:
    """A queue for many who put and one who takes. Thread-safe; nothing blocks."""

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        self._max_waiting = max_waiting
        self._lock = threading.Lock()  # guards all below
        self._alerts: deque[Alert] = deque()
        self._taken: Alert | None = None
        self._lost = 0

    def put(self, alert: Alert) -> None:
        """Add it, or count it where the latest word on its matter is the same."""
        with self._lock:
            for place in reversed(range(len(self._alerts))):
                same = self._alerts[place]
                if _is_same_matter(same, alert):
                    if same.kind is alert.kind and same is not self._taken:
                        self._alerts[place] = replace(same, times=same.times + alert.times)
                        return
                    break
            self._alerts.append(alert)
            if len(self._alerts) > self._max_waiting:
                self._alerts.popleft()
                self._lost += 1

    def oldest(self) -> Alert | None:
        """The one to store next; it stays, and is not counted up any more, until `done`."""
        with self._lock:
            self._taken = self._alerts[0] if self._alerts else None
            return self._taken

    def done(self) -> None:
        """The one that `oldest` gave is stored."""
        with self._lock:
            if self._alerts and self._alerts[0] is self._taken:
                self._alerts.popleft()
            self._taken = None

    def lost(self) -> int:
        """How many were lost since this was asked last."""
        with self._lock:
            lost, self._lost = self._lost, 0
            return lost

    def __len__(self) -> int:
        with self._lock:
            return len(self._alerts)


def _is_same_matter(one: Alert, other: Alert) -> bool:
    return (one.tenant, one.subject) == (other.tenant, other.subject) and (
        _begun_by(one.kind) & _begun_by(other.kind) != frozenset()
    )


def _begun_by(kind: AlertKind) -> frozenset[AlertKind]:
    """The kinds of which it tells the beginning or the end."""
    return ENDS.get(kind, frozenset({kind}))
