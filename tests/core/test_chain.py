"""The chain over fakes: who is asked, in which order, and what a failure at each moment makes of the stream.

The fakes implement the ports; a script says what each model does. Nothing sleeps: a silent model blocks until it is
aborted, by a timer of some milliseconds or by the caller.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dari.core.chain import (
    LAST_RESORT_S,
    MAX_ANSWER_CHARS,
    Answered,
    AttemptEnded,
    ChainEvent,
    Link,
    Seam,
    Superseded,
    TokenCame,
    TurnClock,
    ask,
)
from dari.core.conversations import AttemptOutcome, AttemptRecord, OnInterruption
from dari.core.errors import AnswerInterrupted, Cancelled, DeadlineExceeded, InvalidArgument
from dari.core.mapping import AiModel, LocalTarget
from dari.core.upstream import FailureKind, Prompt, UpstreamError
from dari.core.watchdog import Watchdog

SHORT_S = 0.01
LONG_S = 60.0
PROMPT = Prompt("attempt", "", (), "question", 100)

Step = str | FailureKind | float | None
"""A token, a failure, seconds of work, or None: silence until the attempt is aborted. A script without a failure ends
whole."""


@dataclass
class FakeAttempt:
    """Plays a script; `aborted` as the port wants it."""

    script: tuple[Step, ...]
    aborted: threading.Event = field(default_factory=threading.Event)
    silent: threading.Event = field(default_factory=threading.Event)
    is_over: bool = False
    may_be_empty: bool = False

    def tokens(self) -> Iterator[str]:
        try:
            for step in self.script:
                if self.aborted.is_set():
                    raise UpstreamError(FailureKind.CANCELLED, "aborted")
                if isinstance(step, float):
                    self.aborted.wait(step)
                    continue
                if step is None:
                    self.silent.set()
                    assert self.aborted.wait(LONG_S)
                    raise UpstreamError(FailureKind.CANCELLED, "aborted")
                if isinstance(step, FailureKind):
                    raise UpstreamError(step, "scripted")
                yield step
            if not self.may_be_empty and not any(isinstance(step, str) for step in self.script):
                raise UpstreamError(FailureKind.UPSTREAM, "empty_answer")
        finally:
            self.is_over = True

    def abort(self) -> None:
        self.aborted.set()


@dataclass
class FakeUpstream:
    """Hands out one attempt, and notes the time that it was given to connect."""

    attempt_made: FakeAttempt
    continues: bool = False
    prompts: list[Prompt] = field(default_factory=list)
    connect_timeouts_s: list[float] = field(default_factory=list)

    def attempt(self, prompt: Prompt, connect_timeout_s: float) -> FakeAttempt:
        assert replace(prompt, answer_begun="") == PROMPT
        self.prompts.append(prompt)
        self.connect_timeouts_s.append(connect_timeout_s)
        return self.attempt_made


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
    """One link of a chain: a script, and the fakes that play it."""

    def __init__(
        self,
        *script: Step,
        first_token_s: float = SHORT_S,
        stall_s: float = SHORT_S,
        total_s: float = LONG_S,
        circuit_open: bool = False,
        misconfigured: bool = False,
        continues: bool = False,
        visible: frozenset[str] = frozenset(),
    ) -> None:
        self.attempt = FakeAttempt(script)
        self.upstream = FakeUpstream(self.attempt, continues)
        self.visible = visible
        self.circuit = FakeCircuit(open_=circuit_open)
        self._misconfigured = misconfigured
        self._timers = (first_token_s, stall_s, total_s)

    def link(self, id: str) -> Link:
        first_token_s, stall_s, total_s = self._timers
        model = AiModel(id, id, LocalTarget(), first_token_s, stall_s, total_s)
        return Link(model, self._connect, self.circuit, lambda: PROMPT, self.visible)

    def _connect(self) -> FakeUpstream:
        if self._misconfigured:
            raise UpstreamError(FailureKind.OURS, "unknown_secret")
        return self.upstream


@pytest.fixture(scope="module")
def watchdog() -> Iterator[Watchdog]:
    watchdog = Watchdog()
    yield watchdog
    watchdog.close()


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
    connect_timeout_s: float = 1.0,
    on_interruption: OnInterruption = OnInterruption.RESTART,
) -> Outcome:
    """Ask the models m0, m1, … and collect everything."""
    outcome = Outcome([], [])
    links = [model.link(f"m{number}") for number, model in enumerate(models)]
    with TurnClock(watchdog, time.monotonic() + timeout_s) as clock:
        try:
            for event in ask(links, clock, connect_timeout_s, outcome.records, on_interruption):
                outcome.events.append(event)
        except (AnswerInterrupted, Cancelled, DeadlineExceeded, InvalidArgument) as error:
            outcome.error = error
    return outcome


UPSTREAM, BUSY, OURS, CALLERS = FailureKind.UPSTREAM, FailureKind.BUSY, FailureKind.OURS, FailureKind.CALLERS
# name, script, outcome, code, verdict, is its text superseded
ENDINGS: list[tuple[str, tuple[Step, ...], str, str, str, bool]] = [
    ("fails at once", (UPSTREAM,), "FAILED", "scripted", "failed: scripted", False),
    ("is cut", ("a", "b", UPSTREAM), "FAILED", "scripted", "failed: scripted", True),
    ("is busy", (BUSY,), "BUSY", "scripted", "neutral", False),
    ("is busy in mid-answer", ("a", BUSY), "BUSY", "scripted", "neutral", True),
    ("is misconfigured", (OURS,), "MISCONFIGURED", "scripted", "neutral", False),
    ("says nothing", (), "FAILED", "empty_answer", "failed: empty_answer", False),
    ("is silent", (None,), "TIMED_OUT", "first_token_timeout", "failed: first_token_timeout", False),
    ("stalls", ("a", None), "TIMED_OUT", "stall_timeout", "failed: stall_timeout", True),
    ("does not stop", ("a" * MAX_ANSWER_CHARS, "b"), "FAILED", "answer_too_long", "failed: answer_too_long", True),
]


@pytest.mark.parametrize(("name", "script", "outcome", "code", "verdict", "superseded"), ENDINGS)
def test_every_failure_moves_on(
    watchdog: Watchdog, name: str, script: tuple[Step, ...], outcome: str, code: str, verdict: str, superseded: bool
) -> None:
    """Its record, its verdict, whether text is void; and the next model begins anew."""
    failing, next_one = Model(*script), Model("x", "y")
    done = run(watchdog, failing, next_one)
    assert done.summary == [("m0", outcome, code), ("m1", "ANSWERED", "")]
    ended = [each for each in done.events if isinstance(each, AttemptEnded | Superseded)]
    assert ended == [AttemptEnded(done.records[0]), Superseded(done.records[0])][: 2 if superseded else 1]
    assert isinstance(done.events[-1], Answered)
    assert done.events[-1].text == "xy"
    assert (failing.circuit.verdicts, next_one.circuit.verdicts) == ([verdict], ["succeeded"])
    assert failing.attempt.is_over
    assert failing.attempt.aborted.is_set()


CONTINUE, STOP = OnInterruption.CONTINUE, OnInterruption.STOP


def texts(outcome: Outcome) -> list[str]:
    """The events as words: pieces of text, and | for a seam, ~ for what is void, ! for an attempt that ended."""
    signs = {AttemptEnded: "!", Seam: "|", Superseded: "~", Answered: "."}
    return [each.text if isinstance(each, TokenCame) else signs[type(each)] for each in outcome.events]


def test_the_next_model_goes_on_behind_a_cut_answer(watchdog: Watchdog) -> None:
    """It is told the text so far, the seam is told before its first token, and the answer is both."""
    first, second = Model("The airport", " is L", UPSTREAM), Model(" LGA", ".", continues=True)
    done = run(watchdog, first, second, on_interruption=CONTINUE)
    assert texts(done) == ["The airport", " is L", "!", "|", " LGA", ".", "."]
    assert done.events[3] == Seam(done.records[0], len("The airport is"))
    assert isinstance(done.events[-1], Answered)
    assert done.events[-1].text == "The airport is LGA."
    assert [prompt.answer_begun for prompt in second.upstream.prompts] == ["The airport is"]


@pytest.mark.parametrize(
    ("text", "stands"),
    [
        ("공항은 김포", "공항은"),
        ("공항은 김포 ", "공항은 김포"),
        ("It is LGA.", "It is LGA."),
        ("It is\n\nL", "It is"),
        ("One two  ", "One two"),
    ],
)
def test_half_a_word_at_the_seam_is_dropped(watchdog: Watchdog, text: str, stands: str) -> None:
    """A blank or the end of a sentence says that the last word is whole."""
    second = Model(" x", continues=True)
    done = run(watchdog, Model(text, UPSTREAM), second, on_interruption=CONTINUE)
    assert second.upstream.prompts[0].answer_begun == stands
    assert [each.offset_chars for each in done.events if isinstance(each, Seam)] == [len(stands)]
    assert isinstance(done.events[-1], Answered)
    assert done.events[-1].text == f"{stands} x"


@pytest.mark.parametrize("text", ["Half", " ", " Half", "\n "])
def test_where_no_whole_word_was_sent_the_next_model_begins_anew(watchdog: Watchdog, text: str) -> None:
    """There is nothing to go on behind."""
    done = run(watchdog, Model(text, UPSTREAM), Model("b", continues=True), on_interruption=CONTINUE)
    assert texts(done) == [text, "!", "~", "b", "."]


def test_seams_add_up(watchdog: Watchdog) -> None:
    """A model that goes on and is cut as well hands on all of the text."""
    models = [Model("a ", UPSTREAM), Model(" b.", None, continues=True), Model(" c", continues=True)]
    done = run(watchdog, *models, on_interruption=CONTINUE)
    assert texts(done) == ["a ", "!", "|", " b.", "!", "|", " c", "."]
    assert [each.offset_chars for each in done.events if isinstance(each, Seam)] == [1, 4]
    assert models[2].upstream.prompts[0].answer_begun == "a b."


def test_a_model_that_fails_before_it_goes_on_leaves_the_text_to_the_next(watchdog: Watchdog) -> None:
    """Nor does one that is passed by."""
    models = [
        Model("a.", UPSTREAM),
        Model(UPSTREAM, continues=True),
        Model("never", circuit_open=True),
        Model("b", continues=True),
    ]
    assert texts(run(watchdog, *models, on_interruption=CONTINUE)) == ["a.", "!", "!", "!", "|", "b", "."]


def test_a_model_that_cannot_go_on_begins_anew(watchdog: Watchdog) -> None:
    """The text so far is void when its first token comes, and no sooner."""
    done = run(watchdog, Model("a", UPSTREAM), Model(BUSY), Model("b", "c"), on_interruption=CONTINUE)
    assert texts(done) == ["a", "!", "!", "~", "b", "c", "."]


@pytest.mark.parametrize("visible", [{"public"}, {"public", "private", "third"}, set()])
def test_a_model_that_may_see_other_data_is_not_told_the_text(watchdog: Watchdog, visible: set[str]) -> None:
    """What was written over rows may repeat them, and names them by numbers of its own: the model begins anew."""
    first = Model("a row.", UPSTREAM, visible=frozenset({"public", "private"}))
    second = Model("b", continues=True, visible=frozenset(visible))
    assert texts(run(watchdog, first, second, on_interruption=CONTINUE)) == ["a row.", "!", "~", "b", "."]
    assert second.upstream.prompts[0].answer_begun == ""


def test_a_text_that_was_whole_but_for_its_end_is_completed_by_nothing(watchdog: Watchdog) -> None:
    """The model that goes on has nothing to add: that is an answer."""
    second = Model(continues=True)
    second.attempt.may_be_empty = True
    done = run(watchdog, Model("whole.", UPSTREAM), second, on_interruption=CONTINUE)
    assert texts(done) == ["whole.", "!", "|", "."]
    assert isinstance(done.events[-1], Answered)
    assert done.events[-1].text == "whole."


def test_where_nobody_goes_on_the_text_is_void(watchdog: Watchdog) -> None:
    """The chain never ends with text that stands and is not whole."""
    models = [Model("a.", UPSTREAM), Model(UPSTREAM, continues=True)]
    assert texts(run(watchdog, *models, on_interruption=CONTINUE)) == ["a.", "!", "!", "~"]


def test_a_caller_who_wants_no_other_answer_is_told_where_it_was_cut(watchdog: Watchdog) -> None:
    """STOP: no other model is asked once text was sent; before that the chain goes on as ever."""
    never = Model("x")
    done = run(watchdog, Model(UPSTREAM), Model("abc", UPSTREAM), never, on_interruption=STOP)
    assert texts(done) == ["!", "abc", "!"]
    assert isinstance(done.error, AnswerInterrupted)
    assert done.error.metadata == {"ai_model": "aiModels/m1", "code": "scripted", "length_chars": "3"}
    assert never.circuit.permits == 0


def test_an_open_circuit_is_passed_by(watchdog: Watchdog) -> None:
    """Its model is not asked, no prompt is made for it, and the record says so."""
    skipped = Model("never", circuit_open=True)
    done = run(watchdog, skipped, Model("a"))
    assert done.summary == [("m0", "SKIPPED", "circuit_open"), ("m1", "ANSWERED", "")]
    assert skipped.upstream.connect_timeouts_s == []


def test_a_model_that_cannot_be_used_is_passed_by(watchdog: Watchdog) -> None:
    """The directory says so before anything is sent."""
    model = Model(misconfigured=True)
    assert run(watchdog, model, Model("a")).summary[0] == ("m0", "MISCONFIGURED", "unknown_secret")
    assert model.circuit.verdicts == ["neutral"]


def test_a_question_that_nobody_can_answer_ends_the_chain(watchdog: Watchdog) -> None:
    """The caller is told; the next model is not asked; the circuit learns nothing."""
    first, second = Model(CALLERS), Model("a")
    done = run(watchdog, first, second)
    assert isinstance(done.error, InvalidArgument)
    assert [violation.field for violation in done.error.violations] == ["question"]
    assert done.summary == [("m0", "FAILED", "scripted")]
    assert (first.circuit.verdicts, second.circuit.permits) == (["neutral"], 0)


def test_nobody_answers(watchdog: Watchdog) -> None:
    """The chain just ends: what then, the turn decides."""
    done = run(watchdog, Model(UPSTREAM), Model(BUSY))
    assert not any(isinstance(each, Answered) for each in done.events)
    assert done.error is None
    assert run(watchdog).events == []


def test_the_total_ends_an_answer_that_goes_on(watchdog: Watchdog) -> None:
    """Tokens may come in time each, and all of them too late."""
    model = Model("a", None, stall_s=LONG_S, total_s=SHORT_S)
    assert run(watchdog, model).summary == [("m0", "TIMED_OUT", "total_timeout")]
    assert model.circuit.verdicts == ["failed: total_timeout"]


def test_the_first_of_two_models_leaves_the_second_half_of_the_time(watchdog: Watchdog) -> None:
    """It would wait for a minute; the caller would not. Its connect timeout is no longer than that either."""
    first = Model(None, first_token_s=LONG_S)
    done = run(watchdog, first, Model("in time"), timeout_s=LAST_RESORT_S + 0.1, connect_timeout_s=LONG_S)
    assert done.summary == [("m0", "TIMED_OUT", "deadline"), ("m1", "ANSWERED", "")]
    assert first.circuit.verdicts == ["neutral"]
    assert first.upstream.connect_timeouts_s[0] <= 0.05


def test_a_model_that_was_silent_for_a_fair_time_failed_even_where_the_deadline_ended_it(watchdog: Watchdog) -> None:
    """Callers of ordinary patience open the circuit of a model that hangs."""
    model = Model(None, first_token_s=0.3)
    done = run(watchdog, model, timeout_s=LAST_RESORT_S + 0.2)
    assert done.summary == [("m0", "TIMED_OUT", "deadline")]
    assert model.circuit.verdicts == ["failed: deadline"]


def test_a_deadline_that_cuts_an_answer_is_not_the_models_fault(watchdog: Watchdog) -> None:
    """It was writing."""
    model = Model("a", None, first_token_s=SHORT_S, stall_s=LONG_S)
    done = run(watchdog, model, Model("never"), timeout_s=LAST_RESORT_S + 0.1)
    assert done.summary == [("m0", "TIMED_OUT", "deadline")]
    assert model.circuit.verdicts == ["neutral"]


def test_without_time_nobody_is_asked(watchdog: Watchdog) -> None:
    """What is left is for the rows; behind the deadline there is nothing to do."""
    model = Model("a")
    assert run(watchdog, model, timeout_s=LAST_RESORT_S / 2).events == []
    assert isinstance(run(watchdog, model, timeout_s=-1.0).error, DeadlineExceeded)
    assert model.circuit.permits == 0


def test_a_caller_who_reads_slowly_trips_no_timer(watchdog: Watchdog) -> None:
    """His pauses are longer than the model's timers, which measure the model's own work; the text is whole."""
    model = Model("a", 0.02, "b", 0.02, "c", first_token_s=LONG_S, stall_s=0.5, total_s=0.5)
    records: list[AttemptRecord] = []
    pause = threading.Event()
    with TurnClock(watchdog, time.monotonic() + LONG_S) as clock:
        events = []
        for each in ask([model.link("m")], clock, 1.0, records):
            events.append(each)
            pause.wait(0.6)  # nothing to wait for: this caller is slow
    assert isinstance(events[-1], Answered)
    assert events[-1].text == "abc"
    assert model.circuit.verdicts == ["succeeded"]


@pytest.mark.parametrize("script", [(None,), ("a", None)])
def test_a_caller_who_leaves_ends_the_attempt_from_another_thread(watchdog: Watchdog, script: tuple[Step, ...]) -> None:
    """Wherever the model is; the record stays, the circuit learns nothing, the next is not asked."""
    model, next_one = Model(*script, first_token_s=LONG_S, stall_s=LONG_S), Model("never")
    records: list[AttemptRecord] = []
    with TurnClock(watchdog, time.monotonic() + LONG_S) as clock:

        def leave() -> None:
            model.attempt.silent.wait(LONG_S)
            clock.cancel()

        leaver = threading.Thread(target=leave)
        leaver.start()
        with pytest.raises(Cancelled):
            list(ask([model.link("m0"), next_one.link("m1")], clock, 1.0, records))
        leaver.join()
    assert [(record.outcome, record.code) for record in records] == [(AttemptOutcome.CANCELLED, "caller_left")]
    assert model.circuit.verdicts == ["neutral"]
    assert next_one.circuit.permits == 0


def test_a_caller_who_left_before_is_not_asked_for(watchdog: Watchdog) -> None:
    """No model hears of it."""
    model = Model("a")
    with TurnClock(watchdog, time.monotonic() + LONG_S) as clock:
        clock.cancel()
        with pytest.raises(Cancelled):
            list(ask([model.link("m")], clock, 1.0, []))
    assert model.circuit.permits == 0


def test_a_caller_who_leaves_while_the_prompt_is_made_costs_no_question(watchdog: Watchdog) -> None:
    """The search for rows cannot be interrupted; what comes after it can."""
    model = Model("a")
    with TurnClock(watchdog, time.monotonic() + LONG_S) as clock:
        link = model.link("m")

        def prompt() -> Prompt:
            clock.cancel()
            return PROMPT

        with pytest.raises(Cancelled):
            list(ask([replace(link, prompt=prompt)], clock, 1.0, []))
    assert model.upstream.connect_timeouts_s == []
    assert model.circuit.verdicts == ["neutral"]


def test_closing_the_stream_frees_the_attempt_at_once(watchdog: Watchdog) -> None:
    """Between two tokens, by a consumer that just stops."""
    model = Model("a", "b")
    records: list[AttemptRecord] = []
    with (
        TurnClock(watchdog, time.monotonic() + LONG_S) as clock,
        closing(ask([model.link("m")], clock, 1.0, records)) as events,
    ):
        assert next(events) == TokenCame("a")
    assert model.attempt.aborted.is_set()
    assert [record.outcome for record in records] == [AttemptOutcome.CANCELLED]
    assert model.circuit.verdicts == ["neutral"]


def test_a_prompt_that_cannot_be_made_leaks_no_permit(watchdog: Watchdog) -> None:
    """A defect there must not keep the place of a probe."""
    model = Model("a")
    link = model.link("m")

    def no_prompt() -> Prompt:
        raise ZeroDivisionError

    broken = replace(link, prompt=no_prompt)
    with TurnClock(watchdog, time.monotonic() + LONG_S) as clock, pytest.raises(ZeroDivisionError):
        list(ask([broken], clock, 1.0, []))
    assert model.circuit.verdicts == ["neutral"]


class HeldUpWatchdog(Watchdog):
    """A watchdog whose thread never runs: a test rings by hand, at the worst moment."""

    def _run(self) -> None:
        pass


def test_an_alarm_that_comes_late_hurts_nobody_else() -> None:
    """It was due for the attempt before; the one that runs now has all its time."""
    watchdog = HeldUpWatchdog()
    first, second = FakeAttempt((None,)), FakeAttempt((None,))
    with TurnClock(watchdog, time.monotonic() + LONG_S) as clock:
        ring = partial(clock._alarm.ring)
        with clock.watching(first):
            clock.expect(time.monotonic() - 1.0, clock._due_cause)
        with clock.watching(second):
            clock.expect(time.monotonic() + LONG_S, clock._due_cause)
            clock._alarm.due = float("inf")  # what the watchdog writes before it rings
            ring()
            assert not second.aborted.is_set()
            assert clock._alarm.due < float("inf")
            clock.rest()
            ring()
            assert not second.aborted.is_set()
            clock.expect(time.monotonic() - 1.0, clock._due_cause)
            ring()
            assert second.aborted.is_set()
    watchdog.close()


tokens = st.text("ab한", min_size=1, max_size=3)
endings: st.SearchStrategy[tuple[Step, ...]] = st.sampled_from([(), (UPSTREAM,), (BUSY,), (OURS,), (None,), (CALLERS,)])
scripts = st.builds(lambda begun, ending: (*begun, *ending), st.lists(tokens, max_size=3), endings)
models = st.builds(
    lambda script, is_open, wrong, continues: Model(
        *script,
        circuit_open=is_open,
        misconfigured=wrong,
        continues=continues,
        first_token_s=0.003,
        stall_s=0.003,
    ),
    scripts,
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


class ObedientCaller:
    """Keeps the text that the events leave standing, and holds each event against the scripts."""

    def __init__(self, chain: list[Model], on_interruption: OnInterruption) -> None:
        self._chain = chain
        self._on_interruption = on_interruption
        self._last_seam = 0
        self.text = ""
        self.has_answer = False

    def take(self, event: ChainEvent) -> None:
        assert not self.has_answer
        match event:
            case TokenCame():
                self.text += event.text
            case Superseded():
                assert self.text
                assert self._on_interruption is not STOP
                self.text, self._last_seam = "", 0
            case Seam():
                assert self._on_interruption is CONTINUE
                assert 0 < event.offset_chars <= len(self.text)
                self._last_seam, self.text = event.offset_chars, self.text[: event.offset_chars]
            case Answered():
                self._end(event)

    def _end(self, event: Answered) -> None:
        assert event.text == self.text
        script = self._chain[int(event.record.ai_model[1:])].attempt.script
        assert self.text[self._last_seam :] == "".join(step for step in script if isinstance(step, str))
        assert all(isinstance(step, str) for step in script)
        self.has_answer = True


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(models, max_size=4), st.integers(0, 8), st.sampled_from(OnInterruption))
def test_no_stream_ends_clean_after_a_cut(
    watchdog: Watchdog, chain: list[Model], read: int, on_interruption: OnInterruption
) -> None:
    """For any scripts, and any moment at which the caller stops reading: order, wholeness, one verdict a permit."""
    records: list[AttemptRecord] = []
    events: list[ChainEvent] = []
    links = [model.link(f"m{number}") for number, model in enumerate(chain)]
    stopped = False
    with (
        TurnClock(watchdog, time.monotonic() + LONG_S) as clock,
        closing(ask(links, clock, 1.0, records, on_interruption)) as stream,
    ):
        try:
            for each in stream:
                events.append(each)
                if len(events) > read:
                    stopped = True
                    break
        except (AnswerInterrupted, InvalidArgument):
            stopped = True
    caller = ObedientCaller(chain, on_interruption)
    for each in events:
        caller.take(each)
    if not stopped:
        assert not caller.text or caller.has_answer
    asked = [record.ai_model for record in records]
    assert asked == [f"m{number}" for number in range(len(asked))]
    for model in chain:
        assert len(model.circuit.verdicts) == model.circuit.permits
        assert model.circuit.permits <= 1
        assert model.attempt.aborted.is_set() or not model.upstream.connect_timeouts_s
