"""Alarms that may be moved at no cost: one thread watches all of them.

An alarm that is put off again and again (a token came, wait for the next) only writes a number; the thread looks again
when the time it knew of has come. So a thousand streams cost one sleeping thread.
"""

import heapq
import itertools
import threading
import time
from collections.abc import Callable

NEVER = float("inf")


class Alarm:
    """Calls `ring` once when its time has come. Made by `Watchdog.alarm`."""

    def __init__(self, watchdog: "Watchdog", ring: Callable[[], None]) -> None:
        self._watchdog = watchdog
        self._ring = ring
        self.due = NEVER

    def set(self, due: float) -> None:
        """Ring at this time of the monotonic clock, and at no other; NEVER is never."""
        self.due = due
        self._watchdog.watch(self)

    def stop(self) -> None:
        """Do not ring any more."""
        self.due = NEVER

    def ring(self) -> None:
        """Called by the watchdog when the alarm is due."""
        self._ring()


class Watchdog:
    """The thread that rings alarms. `ring` functions run on it: they must not block, and must not raise."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Guards _heap, _known and _stopped. _known holds the earliest entry of each alarm in the heap.
        self._condition = threading.Condition()
        self._heap: list[tuple[float, int, Alarm]] = []
        self._known: dict[Alarm, float] = {}
        self._sequence = itertools.count()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def alarm(self, ring: Callable[[], None]) -> Alarm:
        """An alarm that is not set."""
        return Alarm(self, ring)

    def watch(self, alarm: Alarm) -> None:
        """Look at the alarm at its time at the latest. Only for `Alarm.set`."""
        if self._known.get(alarm, NEVER) <= alarm.due:
            return
        with self._condition:
            self._push(alarm)
            if self._heap and self._heap[0][2] is alarm:
                self._condition.notify()

    def close(self) -> None:
        """Stop the thread; no alarm rings after that."""
        with self._condition:
            self._stopped = True
            self._condition.notify()
        self._thread.join()

    def _push(self, alarm: Alarm) -> None:
        due = alarm.due
        if due != NEVER and due < self._known.get(alarm, NEVER):
            self._known[alarm] = due
            heapq.heappush(self._heap, (due, next(self._sequence), alarm))

    def _run(self) -> None:
        while True:
            with self._condition:
                if self._stopped:
                    return
                wait = self._heap[0][0] - self._clock() if self._heap else None
                if wait is None or wait > 0:
                    self._condition.wait(wait)
                    continue
                entered, _, alarm = heapq.heappop(self._heap)
                if self._known.get(alarm) != entered:
                    continue  # An earlier entry of the same alarm has taken its place.
                del self._known[alarm]
                # `due` is left as it is: its owner may be setting it anew at this moment.
                is_due = alarm.due <= self._clock()
                if not is_due:
                    self._push(alarm)
            if is_due:
                alarm.ring()
