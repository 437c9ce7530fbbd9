"""The time of a turn: its deadline, the caller's cancel, and the alarms of the attempts that run for it.

An attempt is watched by an alarm that stands, at any moment, at the earliest time by which it must have done its next
step. A rung alarm aborts the attempt from outside, so that no adapter needs a clock; so do the caller's cancel and
another model that was faster. The first cause is the one that is told.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Protocol, Self

from dari.core.errors import Cancelled, DeadlineExceeded
from dari.core.watchdog import NEVER, Alarm, Watchdog


class Cause(Enum):
    """Why an attempt was aborted from outside; the value is the code of its record."""

    CALLER_LEFT = "caller_left"
    DEADLINE = "deadline"
    TOTAL = "total_timeout"
    FIRST_EVENT = "first_event_timeout"
    FIRST_TOKEN = "first_token_timeout"  # noqa: S105 - a piece of text, no secret
    STALL = "stall_timeout"
    OUTRUN = "outrun"
    """Its stand-by gave a token first."""
    NOT_NEEDED = "not_needed"
    """It stood by, and the model before it gave a token."""


class Abortable(Protocol):
    """What an alarm ends; never blocks, idempotent."""

    def abort(self) -> None: ...


class AttemptWatch:
    """One attempt's alarm, and why it was aborted. `expect` and `rest` come from one thread, the others from any."""

    def __init__(self, watchdog: Watchdog) -> None:
        self._alarm: Alarm = watchdog.alarm(self._ring)
        # Guards all below against the watchdog and whoever aborts.
        self._lock = threading.Lock()
        self._attempt: Abortable | None = None
        self._cause: Cause | None = None
        self._due = NEVER
        self._due_cause = Cause.DEADLINE

    @property
    def cause(self) -> Cause | None:
        """Why the attempt was aborted from outside, if it was."""
        return self._cause

    def attach(self, attempt: Abortable) -> None:
        """This is the attempt; an abort that came before it is made up for."""
        with self._lock:
            self._attempt = attempt
            is_aborted = self._cause is not None
        if is_aborted:
            attempt.abort()

    def abort(self, cause: Cause) -> None:
        """End the attempt, now or as soon as there is one. Never blocks."""
        with self._lock:
            if self._cause is not None:
                return
            self._cause = cause
            attempt = self._attempt
        if attempt is not None:
            attempt.abort()

    def expect(self, due: float, cause: Cause) -> None:
        """The attempt must do its next step before `due` (monotonic clock)."""
        with self._lock:
            self._due, self._due_cause = due, cause
            self._alarm.set(due)

    def rest(self) -> None:
        """The attempt owes nothing at the moment."""
        with self._lock:
            self._due = NEVER
            self._alarm.stop()

    def _ring(self) -> None:
        with self._lock:
            if self._due > time.monotonic():
                # The watchdog was held up on its way here, and what it rings for is settled: a token came. It has
                # stopped the alarm, which may have been set again before.
                self._alarm.set(self._due)
                return
            cause = self._due_cause
        self.abort(cause)


class TurnClock:
    """A turn's deadline (monotonic clock) and the caller's cancel. Thread-safe.

    Use in a `with` statement: behind it nothing runs for the turn any more.
    """

    def __init__(self, watchdog: Watchdog, deadline: float) -> None:
        self.deadline = deadline
        self._watchdog = watchdog
        self._lock = threading.Lock()  # guards both below
        self._watches: set[AttemptWatch] = set()
        self._caller_left = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """The caller left: abort the attempts that run, and let none begin."""
        with self._lock:
            self._caller_left = True
            watches = tuple(self._watches)
        for watch in watches:
            watch.abort(Cause.CALLER_LEFT)

    def check(self) -> None:
        """Raise Cancelled or DeadlineExceeded where the turn is over."""
        if self._caller_left:
            raise Cancelled("The caller went away.")
        if self.remaining_s() <= 0:
            raise DeadlineExceeded("The deadline passed before an answer was complete; allow more time.")

    def remaining_s(self) -> float:
        """Until the caller's deadline; negative behind it."""
        return self.deadline - time.monotonic()

    def alarm(self, ring: Callable[[], None]) -> Alarm:
        """An alarm that is not set. `ring` must not block, and must not raise."""
        return self._watchdog.alarm(ring)

    def new_watch(self) -> AttemptWatch:
        """For one attempt, to be given to `watching`."""
        return AttemptWatch(self._watchdog)

    @contextmanager
    def watching(self, watch: AttemptWatch, attempt: Abortable) -> Iterator[None]:
        """Abort this attempt when its alarm rings or the caller leaves. At the end it is over, however it came."""
        with self._lock:
            self._watches.add(watch)
            is_over = self._caller_left
        if is_over:
            watch.abort(Cause.CALLER_LEFT)
        watch.attach(attempt)
        try:
            yield
        finally:
            watch.rest()
            with self._lock:
                self._watches.discard(watch)
            # Also where the reader stopped iterating: the upstream's connection is freed now, not at collection.
            attempt.abort()
