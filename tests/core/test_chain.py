"""The chain over fakes: who is asked, in which order, and what a failure at each moment makes of the stream.

The fakes implement the ports; a script says what each model does. Nothing sleeps: a silent model blocks until it is
aborted, by a timer of some milliseconds or by the caller.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dari.core.chain import Answered, AttemptEnded, ChainEvent, Seam, Superseded, TextBegins, TokenCame, ask
from dari.core.conversations import AttemptOutcome, AttemptRecord, OnInterruption
from dari.core.errors import AnswerInterrupted, Cancelled, DeadlineExceeded, InvalidArgument
from dari.core.timed_attempt import LAST_RESORT_S, MAX_ANSWER_CHARS
from dari.core.turn_clock import Cause, TurnClock
from dari.core.upstream import QUESTION_TOO_LONG, FailureKind, Prompt, Sign
from dari.core.watchdog import Watchdog
from tests.support.scripted_models import (
    LONG_S,
    PROMPT,
    SHORT_S,
    TIMEOUTS,
    TOO_LONG,
    FakeAttempt,
    Model,
    ObedientCaller,
    Step,
    run,
    texts,
)


@pytest.fixture(scope="module")
def watchdog() -> Iterator[Watchdog]:
    watchdog = Watchdog()
    yield watchdog
    watchdog.close()


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
    ("is too small", (TOO_LONG,), "FAILED", QUESTION_TOO_LONG, "neutral", False),
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
    assert failing.attempt.over.is_set()
    assert failing.attempt.aborted.is_set()


CONTINUE, STOP = OnInterruption.CONTINUE, OnInterruption.STOP


def test_the_next_model_goes_on_behind_a_cut_answer(watchdog: Watchdog) -> None:
    """It is told the text so far, the seam is told before its first token, and the answer is both."""
    first, second = Model("The airport", " is L", UPSTREAM), Model(" LGA", ".", continues=True)
    done = run(watchdog, first, second, on_interruption=CONTINUE)
    assert texts(done) == ["The airport", " is L", "!", "|", " LGA", ".", "."]
    assert Seam(done.records[0], len("The airport is")) in done.events
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


FIRST_EVENT, FIRST_TOKEN = "first_event_timeout", "first_token_timeout"
# name, script, longest wait for the first token, what ends it
SILENCES: list[tuple[str, tuple[Step, ...], float, str]] = [
    ("promises to be heard, and is not", (Sign.ASKED, None), LONG_S, FIRST_EVENT),
    ("is heard once, and then not", (Sign.ASKED, Sign.HEARD, Sign.ASKED, None), LONG_S, FIRST_EVENT),
    ("is heard and thinks", (Sign.ASKED, Sign.HEARD, None), 5 * SHORT_S, FIRST_TOKEN),
    ("promises nothing", (None,), 5 * SHORT_S, FIRST_TOKEN),
    ("should have written before it should be heard", (Sign.ASKED, None), SHORT_S / 2, FIRST_TOKEN),
]


@pytest.mark.parametrize(("name", "script", "first_token_s", "code"), SILENCES)
def test_a_server_that_hangs_is_left_before_a_model_that_thinks(
    watchdog: Watchdog, name: str, script: tuple[Step, ...], first_token_s: float, code: str
) -> None:
    """By the first event's timer only where the neighbour promises to be heard; both are failures."""
    model = Model(*script, first_token_s=first_token_s)
    assert run(watchdog, model).summary == [("m0", "TIMED_OUT", code)]
    assert model.circuit.verdicts == [f"failed: {code}"]


def test_a_server_that_was_heard_may_take_its_time(watchdog: Watchdog) -> None:
    """Signs are no text, and the first event's timer stops with the first event."""
    done = run(watchdog, Model(Sign.ASKED, Sign.HEARD, 3 * SHORT_S, "a", first_token_s=LONG_S))
    assert texts(done) == ["a", "."]


def test_a_question_too_long_for_every_model_asked_is_the_callers(watchdog: Watchdog) -> None:
    """Models that were not asked say nothing about it; the circuits learn nothing."""
    models = [Model(TOO_LONG), Model("never", circuit_open=True), Model(TOO_LONG)]
    done = run(watchdog, *models)
    assert isinstance(done.error, InvalidArgument)
    assert [violation.field for violation in done.error.violations] == ["question"]
    assert "m0, m2" in done.error.message
    assert [record.code for record in done.records] == [QUESTION_TOO_LONG, "circuit_open", QUESTION_TOO_LONG]
    assert models[2].circuit.verdicts == ["neutral"]


@pytest.mark.parametrize("other", [UPSTREAM, BUSY, OURS])
def test_a_model_that_fails_may_have_held_the_question(watchdog: Watchdog, other: FailureKind) -> None:
    """So the caller is not told that it is too long."""
    done = run(watchdog, Model(TOO_LONG), Model(other))
    assert done.error is None
    assert texts(done) == ["!", "!"]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 5), st.data(), st.floats(1.0, 600.0), st.floats(0.1, 600.0))
def test_each_model_that_is_left_gets_an_equal_part_of_the_time_left(
    watchdog: Watchdog, length: int, data: st.DataObject, timeout_s: float, first_token_s: float
) -> None:
    """Whatever the place in the chain; or its own timer, where that is shorter. Told by the time to connect."""
    place = data.draw(st.integers(0, length - 1))
    models = [
        Model("x", circuit_open=number < place, first_token_s=first_token_s, total_s=3_600.0)
        for number in range(length)
    ]
    run(watchdog, *models, timeout_s=timeout_s, timeouts=replace(TIMEOUTS, connect_s=3_600.0))
    (given_s,) = models[place].upstream.connect_timeouts_s
    part_s = (timeout_s - LAST_RESORT_S) / (length - place)
    assert given_s <= min(part_s, first_token_s) + 1e-6
    assert given_s >= min(part_s, first_token_s) - 0.5


def test_the_last_of_five_answers_where_four_hang(watchdog: Watchdog) -> None:
    """Each had a part of the time, and none took that of those behind it."""
    hanging = [Model(None, first_token_s=LONG_S) for _ in range(4)]
    done = run(watchdog, *hanging, Model("in time", first_token_s=LONG_S), timeout_s=LAST_RESORT_S + 0.5)
    assert done.summary == [*((f"m{n}", "TIMED_OUT", "deadline") for n in range(4)), ("m4", "ANSWERED", "")]


def test_a_faster_link_answers_before_a_short_deadline(watchdog: Watchdog) -> None:
    """C12: the caller allows 2 s, the first model needs 10."""
    slow = Model(10.0, "late", first_token_s=LONG_S)
    done = run(watchdog, slow, Model("in time", first_token_s=LONG_S), timeout_s=2.0)
    assert done.summary == [("m0", "TIMED_OUT", "deadline"), ("m1", "ANSWERED", "")]
    assert slow.attempt.over.is_set()


def test_the_first_of_two_models_leaves_the_second_half_of_the_time(watchdog: Watchdog) -> None:
    """It would wait for a minute; the caller would not. Its connect timeout is no longer than that either."""
    first = Model(None, first_token_s=LONG_S)
    done = run(
        watchdog, first, Model("in time"), timeout_s=LAST_RESORT_S + 0.1, timeouts=replace(TIMEOUTS, connect_s=LONG_S)
    )
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
        for each in ask([model.link("m")], clock, TIMEOUTS, records):
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
            list(ask([model.link("m0"), next_one.link("m1")], clock, TIMEOUTS, records))
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
            list(ask([model.link("m")], clock, TIMEOUTS, []))
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
            list(ask([replace(link, prompt=prompt)], clock, TIMEOUTS, []))
    assert model.upstream.connect_timeouts_s == []
    assert model.circuit.verdicts == ["neutral"]


def test_closing_the_stream_frees_the_attempt_at_once(watchdog: Watchdog) -> None:
    """Between two tokens, by a consumer that just stops."""
    model = Model("a", "b")
    records: list[AttemptRecord] = []
    with (
        TurnClock(watchdog, time.monotonic() + LONG_S) as clock,
        closing(ask([model.link("m")], clock, TIMEOUTS, records)) as events,
    ):
        assert [next(events), next(events)] == [TextBegins("m"), TokenCame("a")]
    assert model.attempt.aborted.is_set()
    assert [record.outcome for record in records] == [AttemptOutcome.CANCELLED]
    assert model.circuit.verdicts == ["neutral"]


def test_a_caller_who_stops_at_the_whole_answer_changes_no_record(watchdog: Watchdog) -> None:
    """There was one attempt, and it answered."""
    records: list[AttemptRecord] = []
    with (
        TurnClock(watchdog, time.monotonic() + LONG_S) as clock,
        closing(ask([Model("a").link("m")], clock, TIMEOUTS, records)) as events,
    ):
        assert [type(next(events)) for _ in range(3)] == [TextBegins, TokenCame, Answered]
    assert [record.outcome for record in records] == [AttemptOutcome.ANSWERED]


def test_a_prompt_that_cannot_be_made_leaks_no_permit(watchdog: Watchdog) -> None:
    """A defect there must not keep the place of a probe."""
    model = Model("a")
    link = model.link("m")

    def no_prompt() -> Prompt:
        raise ZeroDivisionError

    broken = replace(link, prompt=no_prompt)
    with TurnClock(watchdog, time.monotonic() + LONG_S) as clock, pytest.raises(ZeroDivisionError):
        list(ask([broken], clock, TIMEOUTS, []))
    assert model.circuit.verdicts == ["neutral"]


class HeldUpWatchdog(Watchdog):
    """A watchdog whose thread never runs: a test rings by hand, at the worst moment."""

    def _run(self) -> None:
        pass


def test_an_alarm_that_comes_late_hurts_nobody() -> None:
    """It was due for the token that has come since; and for an attempt that is over it aborts nothing else."""
    watchdog = HeldUpWatchdog()
    first, second = FakeAttempt((None,)), FakeAttempt((None,))
    with TurnClock(watchdog, time.monotonic() + LONG_S) as clock:
        watch, next_watch = clock.new_watch(), clock.new_watch()
        with clock.watching(watch, first):
            watch.expect(time.monotonic() - 1.0, Cause.STALL)
        with clock.watching(next_watch, second):
            watch._alarm.ring()
            next_watch.expect(time.monotonic() + LONG_S, Cause.STALL)
            next_watch._alarm.due = float("inf")  # what the watchdog writes before it rings
            next_watch._alarm.ring()
            assert not second.aborted.is_set()
            assert next_watch._alarm.due < float("inf")
            next_watch.rest()
            next_watch._alarm.ring()
            assert not second.aborted.is_set()
            next_watch.expect(time.monotonic() - 1.0, Cause.STALL)
            next_watch._alarm.ring()
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
        closing(ask(links, clock, TIMEOUTS, records, on_interruption)) as stream,
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
