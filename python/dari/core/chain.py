"""The chain: models asked in order until one answers, inside one deadline.

Before the first token a failure moves on silently. After it the caller has chosen: the text so far is superseded and
the next model begins anew; or the next model goes on behind it, where it can and was told the same rows; or the turn
ends as interrupted. A cut answer never ends as if it were whole.

Whoever asks, one reader tells: an attempt runs on the turn's thread (`timed_attempt`), or has begun in the background
while the one before it was silent (`stand_by`) and is read from there on.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from dari.core.conversations import AttemptOutcome, AttemptRecord, OnInterruption
from dari.core.errors import AnswerInterrupted, Cancelled, FieldViolation, InvalidArgument
from dari.core.stand_by import StandBy, StandByPlan
from dari.core.telemetry import NO_TELEMETRY, Telemetry
from dari.core.timed_attempt import Asking, Cut, Link, ServerTimeouts, TimedAttempt, is_final, skipped
from dari.core.turn_clock import Cause, TurnClock
from dari.core.upstream import QUESTION_TOO_LONG, FailureKind, UpstreamError


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """A model did not answer; another one does, or is asked."""

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
class TextBegins:
    """What comes now, up to the next of these, is this model's."""

    ai_model: str


@dataclass(frozen=True, slots=True)
class TokenCame:
    """More text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer is whole. The last event of a chain in which a model answered."""

    record: AttemptRecord
    text: str


ChainEvent = AttemptEnded | Superseded | Seam | TextBegins | TokenCame | Answered


def ask(
    links: Sequence[Link],
    clock: TurnClock,
    timeouts: ServerTimeouts,
    records: list[AttemptRecord],
    on_interruption: OnInterruption = OnInterruption.RESTART,
    stand_by: StandByPlan | None = None,
    *,
    telemetry: Telemetry = NO_TELEMETRY,
) -> Generator[ChainEvent]:
    """Ask the models in order. Ends after `Answered`, or without it where no model answered; no text stands then.

    `records` gets every attempt when it ends, in the order of the chain, also the one that ends because the caller
    leaves or closes this generator; one that stood by comes behind the one it stood by for. Raises Cancelled,
    DeadlineExceeded, InvalidArgument where a model says that nobody can answer the question, or every model asked that
    it is too long, and AnswerInterrupted where an answer is cut and the caller wants no other.
    """
    return _Walk(Asking(links, clock, timeouts, telemetry), records, on_interruption, stand_by).events()


class _Walk:
    """One turn's way along the chain, on the turn's thread."""

    def __init__(
        self,
        asking: Asking,
        records: list[AttemptRecord],
        on_interruption: OnInterruption,
        plan: StandByPlan | None,
    ) -> None:
        self._asking = asking
        self._records = records
        self._on_interruption = on_interruption
        self._plan = plan
        self._position = 0
        """Of the link that is next."""
        self._stand_by: StandBy | None = None
        """Of the attempt that is being told, until that gives a token."""
        self._stood_by: list[AttemptRecord] = []
        """What came of those who stood by for the attempt that is being told."""
        self._cut: Cut | None = None
        """The text that stands without an end, until the next model's first token."""
        self._text: list[str] = []
        """Of the attempt that is being told, with what it goes on behind."""
        self._is_over = False

    def events(self) -> Generator[ChainEvent]:
        try:
            while not self._is_over:
                yield from self._next()
        finally:
            self._end_stand_by(Cause.CALLER_LEFT if self._asking.clock.remaining_s() > 0 else Cause.DEADLINE)

    def _next(self) -> Iterator[ChainEvent]:
        """Whoever stands by, or else the next link."""
        stand_by = self._stand_by
        taken_over = None if stand_by is None else stand_by.take_over()
        self._stand_by = None
        if stand_by is None or taken_over is None:
            yield from self._ask()
            return
        ended, attempt = taken_over
        self._position = stand_by.position
        yield from self._told_ended(ended, attempt)
        if attempt is not None:
            yield from self._tell(attempt, stand_by.pieces())

    def _ask(self) -> Iterator[ChainEvent]:
        if self._position == len(self._asking.links) or not self._asking.has_time():
            yield from self._end()
            return
        link = self._asking.links[self._position]
        permit = link.circuit.admit()
        if permit is None:
            self._position += 1
            self._records.append(skipped(link))
            yield AttemptEnded(self._records[-1])
            return
        with permit:
            attempt = self._asking.begin(self._position, permit, self._cut)
            if attempt is None:
                yield from self._end()  # The search for its rows took the time: the model is not to blame.
            else:
                yield from self._tell(attempt, attempt.pieces())

    def _end(self) -> Iterator[ChainEvent]:
        """No model answered."""
        self._is_over = True
        if self._cut is not None:
            yield Superseded(self._cut.record)
        asked = [record for record in self._records if record.outcome is not AttemptOutcome.SKIPPED]
        if asked and all(record.code == QUESTION_TOO_LONG for record in asked):
            raise _unanswerable(", ".join(record.ai_model for record in asked), QUESTION_TOO_LONG)

    def _told_ended(self, ended: list[AttemptRecord], attempt: TimedAttempt | None) -> Iterator[ChainEvent]:
        """Those that failed while they stood by. `attempt` runs already, and must not if the caller leaves here."""
        self._records += ended
        try:
            yield from map(AttemptEnded, ended)
        except GeneratorExit:
            if attempt is not None:
                self._note(attempt.abandon(Cause.CALLER_LEFT))
            raise

    def _tell(self, attempt: TimedAttempt, pieces: Generator[str]) -> Iterator[ChainEvent]:
        """All that the caller sees of one attempt."""
        self._position = attempt.position + 1
        self._text = []
        self._arm_stand_by(attempt)
        try:
            with closing(pieces):
                yield from self._told(attempt, pieces)
        except UpstreamError as error:
            yield from self._fail(attempt, error)
            return
        except GeneratorExit:
            self._note(attempt.abandon(Cause.CALLER_LEFT))
            raise
        self._is_over = True
        yield Answered(self._note(attempt.end(AttemptOutcome.ANSWERED, "")), "".join(self._text))

    def _arm_stand_by(self, attempt: TimedAttempt) -> None:
        if self._plan is not None and self._position < len(self._asking.links):
            self._stand_by = StandBy(self._asking, self._plan, attempt, self._cut)
            self._stand_by.arm()

    def _told(self, attempt: TimedAttempt, pieces: Iterator[str]) -> Iterator[ChainEvent]:
        has_begun = False
        for piece in pieces:
            if not has_begun:
                has_begun = True
                yield from self._begin_text(attempt)
            self._text.append(piece)
            yield TokenCame(piece)
        if not has_begun:
            yield from self._begin_text(attempt)  # It had nothing to add: the text was whole but for its end.

    def _begin_text(self, attempt: TimedAttempt) -> Iterator[ChainEvent]:
        """What comes before an attempt's first token. Raises UpstreamError where its stand-by was faster."""
        if self._stand_by is not None:
            stood_by = self._stand_by.stand_down()
            if stood_by is None:
                attempt.abandon(Cause.OUTRUN)
                raise UpstreamError(FailureKind.CANCELLED, Cause.OUTRUN.value)
            self._position = self._stand_by.position
            self._stand_by = None
            self._stood_by = stood_by
            yield from (AttemptEnded(record) for record in stood_by if record.outcome not in _UNASKED)
        yield TextBegins(attempt.link.model.id)
        cut, self._cut = self._cut, None
        if cut is not None and attempt.goes_on:
            self._text.append(cut.whole_words)
            yield Seam(cut.record, len(cut.whole_words))
        elif cut is not None:
            yield Superseded(cut.record)

    def _fail(self, attempt: TimedAttempt, error: UpstreamError) -> Iterator[ChainEvent]:
        record = self._note(attempt.end(AttemptOutcome.FAILED, error.code))
        if record.outcome is AttemptOutcome.CANCELLED:
            raise Cancelled("The caller went away.") from error
        if is_final(error):
            self._end_stand_by(Cause.NOT_NEEDED)
            raise _unanswerable(record.ai_model, error.code) from error
        text = "".join(self._text)
        if text:
            self._cut = Cut(record, text, attempt.link.visible)
        yield AttemptEnded(record)
        if not text:
            return
        if self._on_interruption is OnInterruption.STOP:
            raise AnswerInterrupted.of(record.ai_model, record.code, len(text))
        if self._on_interruption is OnInterruption.RESTART:
            self._cut = None
            yield Superseded(record)

    def _end_stand_by(self, cause: Cause) -> None:
        if self._stand_by is not None:
            self._records += self._stand_by.close(cause)
            self._stand_by = None

    def _note(self, record: AttemptRecord) -> AttemptRecord:
        self._records += [record, *self._stood_by]
        self._stood_by = []
        return record


_UNASKED = (AttemptOutcome.SKIPPED, AttemptOutcome.OUTRUN)
"""What came of a stand-by that the caller need not hear of before the turn is complete."""


def _unanswerable(ai_models: str, code: str) -> InvalidArgument:
    return InvalidArgument.of(FieldViolation("question", f"cannot be answered by {ai_models}: {code}; make it shorter"))
