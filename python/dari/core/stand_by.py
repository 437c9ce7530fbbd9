"""The stand-by: the next model answers in the background while the one that is asked is silent.

When the slow model fails, the turn goes on with the text that is there already. Models behind the slow one are asked
in order, one at a time, until one writes; what fails meanwhile is noted, and never asked again by the turn. All of
this runs on a spare thread, and only where there is one: nothing waits for a thread.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass
from enum import Enum

from dari.core.conversations import AttemptOutcome, AttemptRecord
from dari.core.event_context import carried
from dari.core.timed_attempt import Asking, Cut, TimedAttempt, is_final, skipped
from dari.core.turn_clock import Cause
from dari.core.upstream import UpstreamError


class SpareThreads:
    """Threads that are free or not: work is begun at once, or refused. Thread-safe."""

    def __init__(self, executor: Executor, count: int) -> None:
        """The executor, whose owner closes it, has `count` threads and no other work."""
        self._executor = executor
        self._free = threading.Semaphore(count)

    def start(self, work: Callable[[], None]) -> bool:
        """Run it; False where no thread is free, or they have stopped. Does not block. `work` must not raise."""
        if not self._free.acquire(blocking=False):
            return False
        try:
            self._executor.submit(self._run, work)
        except RuntimeError:  # The server stops.
            self._free.release()
            return False
        return True

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            self._free.release()


@dataclass(frozen=True, slots=True)
class StandByPlan:
    """Whether, when and where a stand-by is asked."""

    threads: SpareThreads
    after_s: float
    """How long a model may be silent before."""
    races: bool
    """Whether the stand-by's first token ends the slow model's attempt. If not, the stand-by waits for its failure."""


class _Phase(Enum):
    ARMED = "armed"
    """Nobody stands by yet."""
    BACKGROUND = "background"
    WON = "won"
    """In the background still; the slow model was aborted for it."""
    TAKEN_OVER = "taken over"
    """The turn reads its text."""
    DISMISSED = "dismissed"


class StandBy:
    """Whoever stands by for one slow attempt. `take_over`, `stand_down`, `pieces` and `close` are the turn's.

    The turn's thread either takes it over, or stands it down; `close` at last in any case.
    """

    def __init__(self, asking: Asking, plan: StandByPlan, slow: TimedAttempt, before: Cut | None) -> None:
        self._asking = asking
        self._plan = plan
        self._slow = slow
        self._before = before
        self._alarm = asking.clock.alarm(self._launch)
        self._carried_work = carried(self._work)
        # Guards all below between the turn's thread, the spare one and the watchdog. Reentrant.
        self._changed = threading.Condition()
        self._phase = _Phase.ARMED
        self._position = slow.position + 1
        """Of the link that is asked, or that is next."""
        self._ended: list[AttemptRecord] = []
        self._attempt: TimedAttempt | None = None
        self._unread: deque[str] = deque()
        """At most MAX_ANSWER_CHARS in all."""
        self._failure: UpstreamError | None = None
        self._defect: Exception | None = None
        self._is_told = False
        """Whether the turn knows what came of those who stood by."""
        self._is_over = False

    def arm(self) -> None:
        """From now on it begins when the slow model's time is over."""
        self._alarm.set(self._slow.started + self._plan.after_s)

    @property
    def position(self) -> int:
        """Where the chain stands if it goes on behind those that have ended here."""
        with self._changed:
            return self._position

    def take_over(self) -> tuple[list[AttemptRecord], TimedAttempt | None] | None:
        """Those that failed here, and the attempt whose `pieces` are read from now on; None where nobody stood by.

        The attempt is None where no model was left to be asked. Waits until one is. Raises Cancelled and
        DeadlineExceeded.
        """
        with self._changed:
            if self._phase is _Phase.ARMED:
                self._phase = _Phase.DISMISSED
                return None
            self._phase = _Phase.TAKEN_OVER
            while not (self._attempt or self._is_over):
                # A search for rows cannot be interrupted, but its result needs not be waited for.
                self._changed.wait(max(0.0, self._asking.clock.remaining_s()))
                self._asking.clock.check()
            if self._defect is not None:
                raise self._defect
            self._is_told = True
            return self._ended, self._attempt

    def pieces(self) -> Generator[str]:
        """The text of the attempt that was taken over. Raises what its own `pieces` raised."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._unread or self._is_over)
                unread = tuple(self._unread)
                self._unread.clear()
            if not unread:
                break
            yield from unread
        if self._failure is not None:
            raise self._failure
        if self._defect is not None:
            raise self._defect

    def stand_down(self) -> list[AttemptRecord] | None:
        """The slow model has given a token: end what runs here. The records of all that were asked.

        None where the race is lost: then `take_over`.
        """
        with self._changed:
            return None if self._phase is _Phase.WON else self._dismiss(Cause.NOT_NEEDED)

    def close(self, cause: Cause) -> list[AttemptRecord]:
        """The turn is over: end what runs here. The records of those that the turn has not heard of."""
        with self._changed:
            return self._dismiss(cause)

    def _dismiss(self, cause: Cause) -> list[AttemptRecord]:
        self._alarm.stop()
        self._phase = _Phase.DISMISSED
        if self._is_told:
            return []
        self._is_told = True
        if self._attempt is not None:
            self._ended.append(self._attempt.abandon(cause))
        return self._ended

    def _launch(self) -> None:
        with self._changed:
            if self._phase is _Phase.ARMED and self._plan.threads.start(self._carried_work):
                self._phase = _Phase.BACKGROUND

    def _work(self) -> None:
        try:
            while self._is_wanted():
                self._ask_next()
        except Exception as error:  # noqa: BLE001 - raised again on the turn's thread, which waits for this one
            self._defect = error
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _is_wanted(self) -> bool:
        with self._changed:
            if self._is_over or self._phase is _Phase.DISMISSED or self._position == len(self._asking.links):
                return False
        return self._asking.has_time()

    def _ask_next(self) -> None:
        link = self._asking.links[self._position]
        permit = link.circuit.admit()
        if permit is None:
            self._pass_by(skipped(link))
            return
        with permit:
            attempt = self._asking.begin(self._position, permit, self._before)
            if attempt is not None and self._present(attempt):
                self._read(attempt)
            else:
                self._end()

    def _present(self, attempt: TimedAttempt) -> bool:
        """Show the attempt to the turn; whether it is still wanted."""
        with self._changed:
            if self._phase is _Phase.DISMISSED:
                return False
            self._attempt = attempt
            self._changed.notify_all()
            return True

    def _read(self, attempt: TimedAttempt) -> None:
        try:
            with closing(attempt.pieces()) as pieces:
                for piece in pieces:
                    self._take(piece)
        except UpstreamError as error:
            self._lose(error, attempt)
        else:
            self._end()

    def _take(self, piece: str) -> None:
        with self._changed:
            self._unread.append(piece)
            self._changed.notify_all()
            wins = self._plan.races and self._phase is _Phase.BACKGROUND
            if wins:
                self._phase = _Phase.WON
        if wins:
            self._slow.abort(Cause.OUTRUN)

    def _lose(self, error: UpstreamError, attempt: TimedAttempt) -> None:
        """The attempt failed: the turn's affair where it reads it. Else nobody has seen its text: the next is asked."""
        with self._changed:
            if self._phase in (_Phase.TAKEN_OVER, _Phase.DISMISSED) or is_final(error):
                self._end(error)
                return
            self._attempt = None
            self._unread.clear()
            self._pass_by(attempt.end(AttemptOutcome.FAILED, error.code))

    def _pass_by(self, record: AttemptRecord) -> None:
        with self._changed:
            if self._phase is not _Phase.DISMISSED:
                self._ended.append(record)
                self._position += 1

    def _end(self, failure: UpstreamError | None = None) -> None:
        with self._changed:
            self._failure, self._is_over = failure, True
            self._changed.notify_all()
