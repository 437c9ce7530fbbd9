"""The chain: models asked in order until one answers, inside one deadline.

Before the first token a failure moves on silently. After it the caller has chosen: the text so far is superseded and
the next model begins anew; or the next model goes on behind it, where it can and was told the same rows; or the turn
ends as interrupted. A cut answer never ends as if it were whole.

All timers are here. One alarm a turn stands, at any moment, at the earliest of: the caller's deadline, the attempt's
total, the wait for the first token, the silence between tokens; it aborts the attempt from outside, so that no adapter
needs a clock. While the caller reads slowly no timer of the model runs; only the caller's own deadline does.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from operator import itemgetter
from typing import Protocol, Self

from dari.core.circuit import Circuit, Permit
from dari.core.conversations import Answerer, AttemptOutcome, AttemptRecord, OnInterruption
from dari.core.errors import AnswerInterrupted, Cancelled, DeadlineExceeded, FieldViolation, InvalidArgument
from dari.core.mapping import AiModel
from dari.core.upstream import Attempt, FailureKind, Prompt, Upstream, UpstreamError
from dari.core.watchdog import NEVER, Alarm, Watchdog

LAST_RESORT_S = 0.2
"""Kept back from every attempt, so that the reply of rows alone still reaches the caller before the deadline."""
_SHARE_WITH_LATER = 0.5
"""Of the time left, how much a model may wait for its first token while another model stands behind it."""
_FAIR_SHARE = 0.5
"""A model that was silent because the caller's deadline was near has failed only if it was given at least so much of
its own time for the first token: impatient callers must not open a circuit for all others, and patient enough ones
must open that of a model that hangs."""
MAX_ANSWER_CHARS = 256 * 1024
"""A longer answer is a model that does not stop. So much text, the longest of UTF-8 even, fits a gRPC message twice."""


@dataclass(frozen=True, slots=True)
class Link:
    """One model of the chain. `upstream` and `prompt` are called right before it is asked, or never."""

    model: AiModel
    upstream: Callable[[], Upstream]
    """Raises `UpstreamError(OURS)` where the model's configuration cannot be used."""
    circuit: Circuit
    prompt: Callable[[], Prompt]
    visible: frozenset[str]
    """The knowledge bases whose rows this model may be told."""


class Directory(Protocol):
    """Knows the neighbour that stands behind each AI model of each tenant, and its circuit."""

    def upstream(self, tenant: str, model: AiModel) -> Upstream:
        """Raises `UpstreamError(OURS)` where the model's configuration cannot be used."""
        ...

    def circuit(self, tenant: str, model: AiModel) -> Circuit: ...


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
        # Guards all below against the watchdog and the canceller.
        self._lock = threading.Lock()
        self._attempt: Attempt | None = None
        self._cause: _Cause | None = None
        self._due = NEVER
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
            self.rest()
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
            attempt = self._attempt
            if attempt is None or self._cause is not None:
                return
            if self._due > time.monotonic():
                # The watchdog was held up on its way here, and what it rings for is settled: a token came, or the
                # next attempt has begun. It has stopped the alarm, which may have been set again before.
                self._alarm.set(self._due)
                return
            self._cause = self._due_cause
        attempt.abort()


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """A model did not answer; the next one is asked."""

    record: AttemptRecord


@dataclass(frozen=True, slots=True)
class Superseded:
    """The text so far, which this attempt or those before it sent, is void."""

    record: AttemptRecord


@dataclass(frozen=True, slots=True)
class Seam:
    """The next model goes on behind the text so far, or the part of it that ends with a whole word."""

    record: AttemptRecord
    """The attempt that was cut."""
    offset_chars: int
    """Characters of the text so far that stand; those behind are void."""


@dataclass(frozen=True, slots=True)
class TokenCame:
    """More text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer is whole. The last event of a chain in which a model answered."""

    record: AttemptRecord
    text: str


ChainEvent = AttemptEnded | Superseded | Seam | TokenCame | Answered


@dataclass(frozen=True, slots=True)
class _Cut:
    """Text that was sent and whose writer stopped in the middle."""

    record: AttemptRecord
    text: str
    visible: frozenset[str]

    @property
    def whole_words(self) -> str:
        """The text without its last word, which may be half of one, and without the blanks before it.

        A model writes in pieces that begin with a blank and are mostly whole words: half a word in front of it, which
        it would have spelled by other pieces, makes it stumble.
        """
        text = self.text.rstrip()
        if text != self.text or text.endswith(_SENTENCE_ENDS):
            return text
        words = text.rsplit(maxsplit=1)
        return words[0] if len(words) > 1 else ""


_SENTENCE_ENDS = (".", "!", "?", "。", "…")


def ask(
    links: Sequence[Link],
    clock: TurnClock,
    connect_timeout_s: float,
    records: list[AttemptRecord],
    on_interruption: OnInterruption = OnInterruption.RESTART,
) -> Generator[ChainEvent]:
    """Ask the models in order. Ends after `Answered`, or without it where no model answered; no text stands then.

    `records` gets every attempt when it ends, also the one that ends because the caller leaves or closes this
    generator. Raises Cancelled, DeadlineExceeded, InvalidArgument where a model says that the question itself cannot
    be answered by anyone, and AnswerInterrupted where an answer is cut and the caller wants no other.
    """
    cut: _Cut | None = None
    for position, link in enumerate(links):
        clock.check()
        if clock.remaining_s() <= LAST_RESORT_S:
            break
        permit = link.circuit.admit()
        if permit is None:
            skipped = _record(link, AttemptOutcome.SKIPPED, "circuit_open", 0.0, None)
            records.append(skipped)
            yield AttemptEnded(skipped)
            continue
        with permit:
            prompt = link.prompt()
            clock.check()
            if clock.remaining_s() <= LAST_RESORT_S:
                break  # The search for its rows took the time: the model is not to blame.
            run = _Run(link, permit, clock, records, cut, has_later=position + 1 < len(links))
            yield from run.events(prompt, connect_timeout_s)
        if run.answered:
            return
        cut = run.cut
        if cut is None or cut.record is not records[-1]:
            continue  # It had sent nothing.
        if on_interruption is OnInterruption.STOP:
            raise AnswerInterrupted.of(link.model.id, cut.record.code, len(cut.text))
        if on_interruption is OnInterruption.RESTART:
            yield Superseded(cut.record)
            cut = None
    if cut is not None:
        yield Superseded(cut.record)


def answerer_of(model: AiModel) -> Answerer:
    """Who answers when this model does."""
    return Answerer[model.kind.name]


_Limit = tuple[float, _Cause]
"""A time of the monotonic clock, and why it is the end."""
_when = itemgetter(0)


class _Run:
    """One attempt under its timers."""

    def __init__(
        self,
        link: Link,
        permit: Permit,
        clock: TurnClock,
        records: list[AttemptRecord],
        before: _Cut | None,
        *,
        has_later: bool,
    ) -> None:
        self.answered = False
        self.cut = before
        """The text that stands without an end: what was cut before, until this attempt sends text of its own."""
        self._link = link
        self._permit = permit
        self._clock = clock
        self._records = records
        self._started = time.monotonic()
        last = clock.deadline - LAST_RESORT_S
        share = (last - self._started) * (_SHARE_WITH_LATER if has_later else 1.0)
        self._first_token_limit: _Limit = min(
            (self._started + link.model.first_token_timeout_s, _Cause.FIRST_TOKEN),
            (self._started + link.model.total_timeout_s, _Cause.TOTAL),
            (self._started + share, _Cause.DEADLINE),
            key=_when,
        )
        self._total_limit: _Limit = (self._started + link.model.total_timeout_s, _Cause.TOTAL)
        self._deadline_limit: _Limit = (last, _Cause.DEADLINE)
        self._first_token_s: float | None = None
        self._pieces: list[str] = []
        self._length_chars = 0

    def events(self, prompt: Prompt, connect_timeout_s: float) -> Iterator[ChainEvent]:
        connect_s = max(0.001, min(connect_timeout_s, self._first_token_limit[0] - self._started))
        try:
            upstream = self._link.upstream()
            goes_on = self._may_go_on(upstream)
            if self.cut is not None and goes_on:
                prompt = replace(prompt, answer_begun=self.cut.whole_words)
            with self._clock.watching(upstream.attempt(prompt, connect_s)) as attempt:
                yield from self._tokens(attempt.tokens(), goes_on=goes_on)
        except UpstreamError as error:
            record = self._failed(error, self._clock.cause)
            if self._pieces:
                self.cut = _Cut(record, self._text(), self._link.visible)
            yield AttemptEnded(record)
            return
        except GeneratorExit:
            self._note(AttemptOutcome.CANCELLED, _Cause.CALLER_LEFT.value)
            raise
        self._permit.succeeded()
        self.answered = True
        yield Answered(self._note(AttemptOutcome.ANSWERED, ""), self._text())

    def _may_go_on(self, upstream: Upstream) -> bool:
        """Whether this model can go on behind the text that was cut, and was told the same rows by the same numbers."""
        cut = self.cut
        return cut is not None and upstream.continues and bool(cut.whole_words) and cut.visible == self._link.visible

    def _text(self) -> str:
        return "".join(self._pieces)

    def _tokens(self, tokens: Iterator[str], *, goes_on: bool) -> Iterator[ChainEvent]:
        self._clock.expect(*self._first_token_limit)
        for piece in tokens:
            self._clock.rest()
            came = time.monotonic()
            if self._first_token_s is None:
                self._first_token_s = came - self._started
                if self.cut is not None:
                    yield self._join(self.cut, goes_on=goes_on)
            self._length_chars += len(piece)
            if self._length_chars > MAX_ANSWER_CHARS:
                raise UpstreamError(FailureKind.UPSTREAM, "answer_too_long")
            self._pieces.append(piece)
            yield TokenCame(piece)
            now = time.monotonic()
            # While the caller took the token the model could do nothing.
            self._total_limit = (self._total_limit[0] + now - came, _Cause.TOTAL)
            stall_limit: _Limit = (now + self._link.model.stall_timeout_s, _Cause.STALL)
            self._clock.expect(*min(stall_limit, self._total_limit, self._deadline_limit, key=_when))
        if self.cut is not None and goes_on:
            yield self._join(self.cut, goes_on=True)  # It had nothing to add: the text was whole but for its end.

    def _join(self, cut: _Cut, *, goes_on: bool) -> ChainEvent:
        """What becomes of the text before this attempt's first token."""
        self.cut = None
        if not goes_on:
            return Superseded(cut.record)
        self._pieces.append(cut.whole_words)
        self._length_chars = len(cut.whole_words)
        return Seam(cut.record, len(cut.whole_words))

    def _failed(self, error: UpstreamError, cause: _Cause | None) -> AttemptRecord:
        outcome, code = _OUTCOMES[error.kind], error.code
        if error.kind is FailureKind.CANCELLED:
            if cause is None or cause is _Cause.CALLER_LEFT:
                self._note(outcome, _Cause.CALLER_LEFT.value)
                raise Cancelled("The caller went away.") from error
            outcome, code = AttemptOutcome.TIMED_OUT, cause.value
        record = self._note(outcome, code)
        if error.kind is FailureKind.CALLERS:
            raise InvalidArgument.of(
                FieldViolation("question", f"cannot be answered by {self._link.model.id}: {code}; make it shorter")
            ) from error
        if outcome is AttemptOutcome.FAILED or (outcome is AttemptOutcome.TIMED_OUT and self._is_to_blame(cause)):
            self._permit.failed(code)
        else:
            self._permit.neutral()
        return record

    def _is_to_blame(self, cause: _Cause | None) -> bool:
        """Whether a timer that rang says something about the model, and not only about the caller's patience."""
        if cause is not _Cause.DEADLINE:
            return True
        waited_s = time.monotonic() - self._started
        return self._first_token_s is None and waited_s >= self._link.model.first_token_timeout_s * _FAIR_SHARE

    def _note(self, outcome: AttemptOutcome, code: str) -> AttemptRecord:
        record = _record(self._link, outcome, code, time.monotonic() - self._started, self._first_token_s)
        self._records.append(record)
        return record


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
