"""The chain: models asked in order until one answers, inside one deadline.

Before the first token a failure moves on silently. After it the text so far is superseded, and the next model begins
anew: a cut answer never ends as if it were whole. All timers are here. One alarm a turn stands, at any moment, at the
earliest of: the caller's deadline, the attempt's total, the wait for the first token, the silence between tokens; it
aborts the attempt from outside, so that no adapter needs a clock. While the caller reads slowly no timer of the model
runs.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, Self

from dari.core.circuit import Circuit, Permit
from dari.core.conversations import Answerer, AttemptOutcome, AttemptRecord
from dari.core.errors import Cancelled, DeadlineExceeded, FieldViolation, InvalidArgument
from dari.core.mapping import AiModel
from dari.core.upstream import Attempt, FailureKind, Prompt, Upstream, UpstreamError
from dari.core.watchdog import Alarm, Watchdog

LAST_RESORT_S = 0.2
"""Kept back from every attempt, so that the reply of rows alone still reaches the caller before the deadline."""
_SHARE_WITH_LATER = 0.5
"""Of the time left, how much a model may wait for its first token while another model stands behind it."""


@dataclass(frozen=True, slots=True)
class Link:
    """One model of the chain. `upstream` and `prompt` are called right before it is asked, or never."""

    model: AiModel
    upstream: Callable[[], Upstream]
    """Raises `UpstreamError(OURS)` where the model's configuration cannot be used."""
    circuit: Circuit
    prompt: Callable[[], Prompt]


class Directory(Protocol):
    """Knows the neighbour that stands behind each AI model, and its circuit."""

    def upstream(self, model: AiModel) -> Upstream:
        """Raises `UpstreamError(OURS)` where the model's configuration cannot be used."""
        ...

    def circuit(self, model: AiModel) -> Circuit: ...


class _Cause(Enum):
    """Why an attempt was aborted from outside."""

    CALLER_LEFT = "caller_left"
    DEADLINE = "deadline"
    TOTAL = "total_timeout"
    FIRST_TOKEN = "first_token_timeout"  # noqa: S105 - a piece of text, no secret
    STALL = "stall_timeout"


class TurnClock:
    """A turn's deadline, its alarm, and the caller's cancel. `cancel` may come from any thread; the rest from one.

    Use in a `with` statement.
    """

    def __init__(self, watchdog: Watchdog, deadline: float) -> None:
        self.deadline = deadline
        self._alarm: Alarm = watchdog.alarm(self._ring)
        # Guards the three below against the watchdog and the canceller.
        self._lock = threading.Lock()
        self._attempt: Attempt | None = None
        self._cause: _Cause | None = None
        self._due_cause = _Cause.DEADLINE
        self._caller_left = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._alarm.stop()

    def cancel(self) -> None:
        """The caller left: abort the attempt that runs, and let none begin."""
        with self._lock:
            self._caller_left = True
            self._cause = _Cause.CALLER_LEFT
            attempt = self._attempt
        if attempt is not None:
            attempt.abort()

    def check(self) -> None:
        """Raise Cancelled or DeadlineExceeded where the turn is over."""
        if self._caller_left:
            raise Cancelled("The caller went away.")
        if self.remaining_s() <= 0:
            raise DeadlineExceeded("The deadline passed before an answer was complete; allow more time.")

    def remaining_s(self) -> float:
        """Until the caller's deadline; negative behind it."""
        return self.deadline - time.monotonic()

    @contextmanager
    def watching(self, attempt: Attempt) -> Iterator[Attempt]:
        """Abort this attempt when an alarm rings or the caller leaves. At the end it is over, however it came."""
        with self._lock:
            self._attempt = attempt
            self._cause = _Cause.CALLER_LEFT if self._caller_left else None
        if self._caller_left:
            attempt.abort()
        try:
            yield attempt
        finally:
            self._alarm.stop()
            with self._lock:
                self._attempt = None
            # Also where the caller stopped iterating: the upstream's connection is freed now, not at collection.
            attempt.abort()

    @property
    def cause(self) -> "_Cause | None":
        """Why the latest attempt was aborted from outside, if it was."""
        return self._cause

    def expect(self, due: float, cause: _Cause) -> None:
        """The attempt must do its next step before `due` (monotonic clock)."""
        self._due_cause = cause
        self._alarm.set(due)

    def rest(self) -> None:
        """The attempt owes nothing at the moment."""
        self._alarm.stop()

    def _ring(self) -> None:
        with self._lock:
            attempt = self._attempt
            if attempt is None or self._cause is not None:
                return
            self._cause = self._due_cause
        attempt.abort()


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """A model did not answer; the next one is asked. `superseded`: some of its text was sent and is void."""

    record: AttemptRecord
    superseded: bool


@dataclass(frozen=True, slots=True)
class TokenCame:
    """More text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer is whole. The last event of a chain in which a model answered."""

    record: AttemptRecord
    text: str


ChainEvent = AttemptEnded | TokenCame | Answered


def ask(links: Sequence[Link], clock: TurnClock, connect_timeout_s: float) -> Iterator[ChainEvent]:
    """Ask the models in order. Ends after `Answered`, or without it where no model answered.

    Raises Cancelled, DeadlineExceeded, and InvalidArgument where a model says that the question itself cannot be
    answered by anyone.
    """
    for position, link in enumerate(links):
        clock.check()
        if clock.remaining_s() <= LAST_RESORT_S:
            return
        permit = link.circuit.admit()
        if permit is None:
            yield AttemptEnded(_record(link, AttemptOutcome.SKIPPED, "circuit_open", 0.0, None), superseded=False)
            continue
        with permit:
            prompt = link.prompt()
            run = _Run(link, permit, clock, has_later=position + 1 < len(links))
            yield from run.events(prompt, connect_timeout_s)
        if run.answered:
            return


def answerer_of(model: AiModel) -> Answerer:
    """Who answers when this model does."""
    return Answerer[model.kind.name]


class _Run:
    """One attempt under its timers."""

    def __init__(self, link: Link, permit: Permit, clock: TurnClock, *, has_later: bool) -> None:
        self.answered = False
        self._link = link
        self._permit = permit
        self._clock = clock
        self._started = time.monotonic()
        last = clock.deadline - LAST_RESORT_S
        self._total_due = min(self._started + link.model.total_timeout_s, last)
        share = (last - self._started) * (_SHARE_WITH_LATER if has_later else 1.0)
        self._first_token_due = min(self._started + min(link.model.first_token_timeout_s, share), self._total_due)
        self._first_token_s: float | None = None
        self._pieces: list[str] = []

    def events(self, prompt: Prompt, connect_timeout_s: float) -> Iterator[ChainEvent]:
        # No longer than the first token is waited for: a connect cannot be aborted.
        connect_s = max(0.001, min(connect_timeout_s, self._first_token_due - self._started))
        try:
            with self._clock.watching(self._link.upstream().attempt(prompt, connect_s)) as attempt:
                yield from self._tokens(attempt.tokens())
        except UpstreamError as error:
            yield self._failed(error, self._clock.cause)
            return
        self._permit.succeeded()
        self.answered = True
        yield Answered(self._record(AttemptOutcome.ANSWERED, ""), "".join(self._pieces))

    def _tokens(self, tokens: Iterator[str]) -> Iterator[TokenCame]:
        self._expect(self._first_token_due, _Cause.FIRST_TOKEN)
        for piece in tokens:
            self._clock.rest()
            if self._first_token_s is None:
                self._first_token_s = time.monotonic() - self._started
            self._pieces.append(piece)
            yield TokenCame(piece)
            self._expect(time.monotonic() + self._link.model.stall_timeout_s, _Cause.STALL)

    def _expect(self, due: float, cause: _Cause) -> None:
        if due >= self._total_due:
            due, cause = self._total_due, _Cause.TOTAL
        self._clock.expect(due, cause)

    def _failed(self, error: UpstreamError, cause: _Cause | None) -> AttemptEnded:
        outcome, code = _OUTCOMES[error.kind], error.code
        if error.kind is FailureKind.CANCELLED:
            if cause is None or cause is _Cause.CALLER_LEFT:
                raise Cancelled("The caller went away.") from error
            outcome, code = AttemptOutcome.TIMED_OUT, cause.value
        if error.kind is FailureKind.CALLERS:
            raise InvalidArgument.of(
                FieldViolation("question", f"cannot be answered by {self._link.model.id}: {code}; make it shorter")
            ) from error
        if outcome in (AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT):
            self._permit.failed(code)
        else:
            self._permit.neutral()
        return AttemptEnded(self._record(outcome, code), superseded=bool(self._pieces))

    def _record(self, outcome: AttemptOutcome, code: str) -> AttemptRecord:
        return _record(self._link, outcome, code, time.monotonic() - self._started, self._first_token_s)


_OUTCOMES = {
    FailureKind.UPSTREAM: AttemptOutcome.FAILED,
    FailureKind.BUSY: AttemptOutcome.BUSY,
    FailureKind.OURS: AttemptOutcome.MISCONFIGURED,
    FailureKind.CALLERS: AttemptOutcome.FAILED,
    FailureKind.CANCELLED: AttemptOutcome.CANCELLED,
}


def _record(
    link: Link, outcome: AttemptOutcome, code: str, duration_s: float, first_token_s: float | None
) -> AttemptRecord:
    return AttemptRecord(link.model.id, answerer_of(link.model), outcome, code, duration_s, first_token_s)
