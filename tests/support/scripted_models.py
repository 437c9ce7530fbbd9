"""Models that play a script, to be chained in tests: fakes of every port that the chain asks through.

Nothing sleeps: a silent model blocks until it is aborted, by a timer of some milliseconds or by the caller.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Self

from dari.core.chain import Answered, AttemptEnded, ChainEvent, Seam, Superseded, TextBegins, TokenCame, ask
from dari.core.conversations import AttemptRecord, OnInterruption
from dari.core.errors import AnswerInterrupted, Cancelled, DeadlineExceeded, InvalidArgument
from dari.core.mapping import AiModel, LocalTarget
from dari.core.stand_by import StandByPlan
from dari.core.timed_attempt import Link, ServerTimeouts
from dari.core.turn_clock import TurnClock
from dari.core.upstream import QUESTION_TOO_LONG, FailureKind, Prompt, Sign, UpstreamError
from dari.core.watchdog import Watchdog

SHORT_S = 0.01
LONG_S = 60.0
PROMPT = Prompt("attempt", "", (), "question", 100)
TIMEOUTS = ServerTimeouts(connect_s=1.0, first_event_s=SHORT_S)

Step = str | Sign | FailureKind | UpstreamError | threading.Event | float | None
"""A token or a sign; a failure; an event to wait for; seconds of work; or None: silence until the attempt is aborted. A
script without a failure ends whole."""
TOO_LONG = UpstreamError(FailureKind.CALLERS, QUESTION_TOO_LONG)


@dataclass
class FakeAttempt:
    """Plays a script; `aborted` as the port wants it."""

    script: tuple[Step, ...]
    aborted: threading.Event = field(default_factory=threading.Event)
    silent: threading.Event = field(default_factory=threading.Event)
    wrote: threading.Event = field(default_factory=threading.Event)
    """Set when somebody takes the step behind its first token."""
    over: threading.Event = field(default_factory=threading.Event)
    may_be_empty: bool = False

    def tokens(self) -> Iterator[str | Sign]:
        try:
            for step in self.script:
                self._refuse_if_aborted()
                if isinstance(step, str | Sign):
                    yield step
                    self.wrote.set()
                else:
                    self._play(step)
            self._refuse_if_aborted()
            if not self.may_be_empty and not any(isinstance(step, str) for step in self.script):
                raise UpstreamError(FailureKind.UPSTREAM, "empty_answer")
        finally:
            self.over.set()

    def _play(self, step: FailureKind | UpstreamError | threading.Event | float | None) -> None:
        if isinstance(step, FailureKind):
            raise UpstreamError(step, "scripted")
        if isinstance(step, UpstreamError):
            raise UpstreamError(step.kind, step.code)
        if isinstance(step, float):
            self.aborted.wait(step)
        elif step is None:
            self.silent.set()
            assert self.aborted.wait(LONG_S)
        else:
            while not (step.is_set() or self.aborted.is_set()):
                step.wait(0.002)
        self._refuse_if_aborted()

    def _refuse_if_aborted(self) -> None:
        if self.aborted.is_set():
            raise UpstreamError(FailureKind.CANCELLED, "aborted")

    def abort(self) -> None:
        self.aborted.set()


@dataclass
class FakeUpstream:
    """Hands out its attempts, one after another, and notes the time that each was given to connect."""

    attempts: list[FakeAttempt]
    continues: bool = False
    prompts: list[Prompt] = field(default_factory=list)
    connect_timeouts_s: list[float] = field(default_factory=list)

    def attempt(self, prompt: Prompt, connect_timeout_s: float) -> FakeAttempt:
        assert replace(prompt, answer_begun="") == PROMPT
        self.prompts.append(prompt)
        self.connect_timeouts_s.append(connect_timeout_s)
        return self.attempts[len(self.prompts) - 1]


class FakeCircuit:
    """Notes each permit and its verdict."""

    def __init__(self, *, open_: bool = False) -> None:
        self._open = open_
        self.verdicts: list[str] = []
        self.permits = 0

    def admit(self) -> "FakePermit | None":
        if self._open:
            return None
        self.permits += 1
        return FakePermit(self)

    def retry(self) -> None:
        self._open = False


class FakePermit:
    """Fails where a second verdict comes."""

    def __init__(self, circuit: FakeCircuit) -> None:
        self._circuit = circuit
        self._told = False

    def succeeded(self) -> None:
        self._tell("succeeded")

    def failed(self, code: str) -> None:
        self._tell(f"failed: {code}")

    def neutral(self) -> None:
        self._tell("neutral")

    def _tell(self, verdict: str) -> None:
        assert not self._told
        self._told = True
        self._circuit.verdicts.append(verdict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._told:
            self._tell("neutral")


class Model:
    """One link of a chain: a script, that of a second attempt, and the fakes that play them."""

    def __init__(
        self,
        *script: Step,
        again: tuple[Step, ...] = (),
        first_token_s: float = SHORT_S,
        stall_s: float = SHORT_S,
        total_s: float = LONG_S,
        circuit_open: bool = False,
        misconfigured: bool = False,
        continues: bool = False,
        visible: frozenset[str] = frozenset(),
    ) -> None:
        self.attempt = FakeAttempt(script)
        self.upstream = FakeUpstream([self.attempt, FakeAttempt(again)], continues)
        self.prompt: Callable[[], Prompt] = lambda: PROMPT
        self.visible = visible
        self.circuit = FakeCircuit(open_=circuit_open)
        self._misconfigured = misconfigured
        self._timers = (first_token_s, stall_s, total_s)

    def link(self, id: str) -> Link:
        first_token_s, stall_s, total_s = self._timers
        model = AiModel(id, id, LocalTarget(), first_token_s, stall_s, total_s)
        return Link(model, self._connect, self.circuit, self.prompt, self.visible)

    def _connect(self) -> FakeUpstream:
        if self._misconfigured:
            raise UpstreamError(FailureKind.OURS, "unknown_secret")
        return self.upstream


@dataclass
class Outcome:
    """What a chain did."""

    events: list[ChainEvent]
    records: list[AttemptRecord]
    error: Exception | None = None

    @property
    def summary(self) -> list[tuple[str, str, str]]:
        return [(record.ai_model, record.outcome.value, record.code) for record in self.records]


def run(
    watchdog: Watchdog,
    *models: Model,
    timeout_s: float = LONG_S,
    timeouts: ServerTimeouts = TIMEOUTS,
    on_interruption: OnInterruption = OnInterruption.RESTART,
    stand_by: StandByPlan | None = None,
) -> Outcome:
    """Ask the models m0, m1, … and collect everything."""
    outcome = Outcome([], [])
    links = [model.link(f"m{number}") for number, model in enumerate(models)]
    with TurnClock(watchdog, time.monotonic() + timeout_s) as clock:
        try:
            for event in ask(links, clock, timeouts, outcome.records, on_interruption, stand_by):
                outcome.events.append(event)
        except (AnswerInterrupted, Cancelled, DeadlineExceeded, InvalidArgument) as error:
            outcome.error = error
    return outcome


def texts(outcome: Outcome) -> list[str]:
    """The events as words: pieces of text, and | for a seam, ~ for what is void, ! for an attempt that ended."""
    signs = {AttemptEnded: "!", Seam: "|", Superseded: "~", Answered: "."}
    shown = [each for each in outcome.events if not isinstance(each, TextBegins)]
    return [each.text if isinstance(each, TokenCame) else signs[type(each)] for each in shown]


class ObedientCaller:
    """Keeps the text that the events leave standing, and holds each event against the scripts."""

    def __init__(self, chain: list[Model], on_interruption: OnInterruption) -> None:
        self._chain = chain
        self._on_interruption = on_interruption
        self._last_seam = 0
        self._writer = ""
        self.text = ""
        self.has_answer = False

    def take(self, event: ChainEvent) -> None:
        assert not self.has_answer
        match event:
            case TextBegins():
                assert event.ai_model != self._writer
                self._writer = event.ai_model
            case TokenCame():
                assert self._writer
                self.text += event.text
            case Superseded():
                assert self.text
                assert self._on_interruption is not OnInterruption.STOP
                self.text, self._last_seam = "", 0
            case Seam():
                assert self._on_interruption is OnInterruption.CONTINUE
                assert 0 < event.offset_chars <= len(self.text)
                self._last_seam, self.text = event.offset_chars, self.text[: event.offset_chars]
            case Answered():
                self._end(event)

    def _end(self, event: Answered) -> None:
        assert event.text == self.text
        assert event.record.ai_model == self._writer
        whole = [attempt.script for attempt in self._chain[int(event.record.ai_model[1:])].upstream.attempts]
        texts = ["".join(step for step in script if isinstance(step, str)) for script in whole if _is_whole(script)]
        assert self.text[self._last_seam :] in texts
        self.has_answer = True


def _is_whole(script: tuple[Step, ...]) -> bool:
    return all(isinstance(step, str | float) for step in script)
