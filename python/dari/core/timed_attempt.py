"""One question put to one model, under its timers.

The timers: the neighbour's first event where it promises one early, the first token, the silence between tokens, the
total, and the caller's deadline. While the reader of the pieces takes his time no timer of the model runs.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Protocol

from dari.core.circuit import Circuit, Permit
from dari.core.conversations import Answerer, AttemptOutcome, AttemptRecord
from dari.core.mapping import AiModel
from dari.core.tokens import likely_tokens
from dari.core.turn_clock import Cause, TurnClock
from dari.core.upstream import QUESTION_TOO_LONG, FailureKind, Prompt, Sign, Upstream, UpstreamError

LAST_RESORT_S = 0.2
"""Kept back from every attempt, so that the reply of rows alone still reaches the caller before the deadline."""
_FAIR_SHARE = 0.5
"""A model that was silent because the caller's deadline was near, or until another one was faster, has failed only if
it was given at least so much of its own time for the first token: impatient callers must not open a circuit for all
others, and patient enough ones must open that of a model that hangs."""
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


@dataclass(frozen=True, slots=True)
class ServerTimeouts:
    """How long a neighbour may take for what is no work of its model. Both above 0."""

    connect_s: float
    first_event_s: float
    """Until it is heard, where it promises to be heard at once (`Sign.ASKED`)."""


@dataclass(frozen=True, slots=True)
class Cut:
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
_Limit = tuple[float, Cause]
"""A time of the monotonic clock, and why it is the end."""
_when = itemgetter(0)


@dataclass(frozen=True, slots=True)
class Asking:
    """What all attempts of a turn share."""

    links: Sequence[Link]
    clock: TurnClock
    timeouts: ServerTimeouts

    def has_time(self) -> bool:
        """Whether another model can be asked. Raises Cancelled and DeadlineExceeded."""
        self.clock.check()
        return self.clock.remaining_s() > LAST_RESORT_S

    def begin(self, position: int, permit: Permit, before: Cut | None) -> "TimedAttempt | None":
        """The attempt of one link, its prompt made; None where the search for its rows took all the time.

        Raises Cancelled and DeadlineExceeded.
        """
        prompt = self.links[position].prompt()
        return TimedAttempt(self, position, permit, prompt, before) if self.has_time() else None


class TimedAttempt:
    """One attempt. `pieces` belongs to one thread; the rest may come from any."""

    def __init__(self, asking: Asking, position: int, permit: Permit, prompt: Prompt, before: Cut | None) -> None:
        self.position = position
        self.link = asking.links[position]
        self.started = time.monotonic()
        self.goes_on = False
        """Whether its text goes on behind `before`; known once a piece has come."""
        self._before = before
        self._clock = asking.clock
        self._timeouts = asking.timeouts
        self._permit = permit
        self._prompt = prompt
        self._watch = asking.clock.new_watch()
        self._record_lock = threading.Lock()  # guards _record
        self._record: AttemptRecord | None = None
        model = self.link.model
        last = asking.clock.deadline - LAST_RESORT_S
        # Each of the models that are left gets as much of the time: where all hang, the last one has its share as well.
        share_s = (last - self.started) / (len(asking.links) - position)
        self._deadline_limit: _Limit = (last, Cause.DEADLINE)
        self._total_limit: _Limit = (self.started + model.total_timeout_s, Cause.TOTAL)
        self._first_token_limit: _Limit = min(
            (self.started + model.first_token_timeout_s, Cause.FIRST_TOKEN),
            self._total_limit,
            (self.started + share_s, Cause.DEADLINE),
            key=_when,
        )
        self._first_token_s: float | None = None
        self._length_chars = 0
        self._tokens = 0
        """That the model was told and wrote so far."""

    def pieces(self) -> Generator[str]:
        """Put the question, and give the answer's text as it comes; returns only when it is whole.

        Raises UpstreamError for every other ending, behind which `record` is made. The permit has its verdict then.
        """
        try:
            upstream = self.link.upstream()
            prompt = self._prompt_for(upstream)
            connect_s = max(0.001, min(self._timeouts.connect_s, self._first_token_limit[0] - self.started))
            attempt = upstream.attempt(prompt, connect_s)
            self._tokens = _tokens_told(prompt)
            with self._clock.watching(self._watch, attempt):
                yield from self._timed(attempt.tokens())
        except UpstreamError as error:
            self._fail(error)
            raise
        self._permit.succeeded()

    def abort(self, cause: Cause) -> None:
        """Make `pieces` raise soon. Never blocks; idempotent."""
        self._watch.abort(cause)

    def abandon(self, cause: Cause) -> AttemptRecord:
        """Abort it, and its record without waiting for its end."""
        self.abort(cause)
        return self.end(_ABORTED.get(cause, AttemptOutcome.TIMED_OUT), cause.value)

    def end(self, outcome: AttemptOutcome, code: str) -> AttemptRecord:
        """Its record, made now unless it had ended before."""
        with self._record_lock:
            if self._record is None:
                duration_s = time.monotonic() - self.started
                self._record = record_of(self.link, outcome, code, duration_s, self._first_token_s, self._tokens)
            return self._record

    def _prompt_for(self, upstream: Upstream) -> Prompt:
        """With the text so far, where this model can go on behind it and was told the same rows by the same numbers."""
        before = self._before
        if before is None or not upstream.continues or not before.whole_words or before.visible != self.link.visible:
            return self._prompt
        self.goes_on = True
        self._length_chars = len(before.whole_words)
        return replace(self._prompt, answer_begun=before.whole_words)

    def _timed(self, tokens: Iterator[str | Sign]) -> Iterator[str]:
        self._watch.expect(*self._first_token_limit)
        for piece in tokens:
            self._watch.rest()
            if isinstance(piece, Sign):
                self._watch.expect(*self._limit_behind(piece))
                continue
            came = time.monotonic()
            if self._first_token_s is None:
                self._first_token_s = came - self.started
            self._length_chars += len(piece)
            self._tokens += likely_tokens(piece)
            if self._length_chars > MAX_ANSWER_CHARS:
                raise UpstreamError(FailureKind.UPSTREAM, "answer_too_long")
            yield piece
            now = time.monotonic()
            # While the reader took the piece the model could do nothing.
            self._total_limit = (self._total_limit[0] + now - came, Cause.TOTAL)
            stall_limit: _Limit = (now + self.link.model.stall_timeout_s, Cause.STALL)
            self._watch.expect(*min(stall_limit, self._total_limit, self._deadline_limit, key=_when))

    def _limit_behind(self, sign: Sign) -> _Limit:
        if sign is Sign.HEARD:
            return self._first_token_limit
        first_event_limit: _Limit = (time.monotonic() + self._timeouts.first_event_s, Cause.FIRST_EVENT)
        return min(first_event_limit, self._first_token_limit, key=_when)

    def _fail(self, error: UpstreamError) -> None:
        outcome, code = _OUTCOMES[error.kind], error.code
        cause = self._watch.cause
        if error.kind is FailureKind.CANCELLED:
            cause = cause or Cause.CALLER_LEFT
            outcome, code = _ABORTED.get(cause, AttemptOutcome.TIMED_OUT), cause.value
        self.end(outcome, code)
        if error.kind is FailureKind.UPSTREAM or (error.kind is FailureKind.CANCELLED and self._is_to_blame(cause)):
            self._permit.failed(code)
        else:
            self._permit.neutral()

    def _is_to_blame(self, cause: Cause | None) -> bool:
        """Whether an abort says something about the model, and not only about the caller or another model."""
        if cause in (Cause.CALLER_LEFT, Cause.NOT_NEEDED):
            return False
        if cause not in (Cause.DEADLINE, Cause.OUTRUN):
            return True
        waited_s = time.monotonic() - self.started
        return self._first_token_s is None and waited_s >= self.link.model.first_token_timeout_s * _FAIR_SHARE


_OUTCOMES = {
    FailureKind.UPSTREAM: AttemptOutcome.FAILED,
    FailureKind.BUSY: AttemptOutcome.BUSY,
    FailureKind.OURS: AttemptOutcome.MISCONFIGURED,
    FailureKind.CALLERS: AttemptOutcome.FAILED,
    FailureKind.CANCELLED: AttemptOutcome.CANCELLED,
}
_ABORTED = {
    Cause.CALLER_LEFT: AttemptOutcome.CANCELLED,
    Cause.OUTRUN: AttemptOutcome.OUTRUN,
    Cause.NOT_NEEDED: AttemptOutcome.OUTRUN,
}


def is_final(error: UpstreamError) -> bool:
    """Whether no other model is to be asked. Not where the question is too long: another one may hold more."""
    return error.kind is FailureKind.CALLERS and error.code != QUESTION_TOO_LONG


def answerer_of(model: AiModel) -> Answerer:
    """Who answers when this model does."""
    return Answerer[model.kind.name]


def skipped(link: Link) -> AttemptRecord:
    """The record of a model that is passed by."""
    return record_of(link, AttemptOutcome.SKIPPED, "circuit_open", 0.0, None)


def record_of(
    link: Link, outcome: AttemptOutcome, code: str, duration_s: float, first_token_s: float | None, tokens: int = 0
) -> AttemptRecord:
    """What came of asking this link's model, how long it took, and what it read and wrote."""
    return AttemptRecord(link.model.id, answerer_of(link.model), outcome, code, duration_s, first_token_s, tokens)


def _tokens_told(prompt: Prompt) -> int:
    texts = (prompt.instructions, prompt.question, prompt.answer_begun, *(message.text for message in prompt.history))
    return sum(map(likely_tokens, texts))
