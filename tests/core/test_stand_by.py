"""The stand-by over scripted models: who answers when the model asked is silent, and that nothing is told twice.

Scripts wait for one another by events, so that each order of two models that run at once is the one that is meant.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dari.core.chain import AttemptEnded, ChainEvent, TokenCame, ask
from dari.core.conversations import AttemptRecord, OnInterruption
from dari.core.errors import AnswerInterrupted, Cancelled, DeadlineExceeded, InvalidArgument
from dari.core.stand_by import SpareThreads, StandByPlan
from dari.core.timed_attempt import LAST_RESORT_S
from dari.core.turn_clock import TurnClock
from dari.core.upstream import FailureKind, Prompt
from dari.core.watchdog import Watchdog
from tests.support.scripted_models import (
    LONG_S,
    PROMPT,
    TIMEOUTS,
    TOO_LONG,
    Model,
    ObedientCaller,
    Outcome,
    Step,
    run,
    texts,
)

UPSTREAM, BUSY, OURS, CALLERS = FailureKind.UPSTREAM, FailureKind.BUSY, FailureKind.OURS, FailureKind.CALLERS
AFTER_S = 0.01
THREADS = 2


@pytest.fixture(scope="module")
def watchdog() -> Iterator[Watchdog]:
    watchdog = Watchdog()
    yield watchdog
    watchdog.close()


class Spare(SpareThreads):
    """Threads of which a test can wait until all are free."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        super().__init__(executor, THREADS)
        self.executor = executor

    def assert_free(self) -> None:
        """Soon: a piece of work that needs all threads at once gets them."""
        meeting = threading.Barrier(THREADS)
        waiting = [self.executor.submit(meeting.wait, LONG_S) for _ in range(THREADS)]
        for each in waiting:
            each.result(LONG_S)


@pytest.fixture(scope="module")
def spare() -> Iterator[Spare]:
    with ThreadPoolExecutor(THREADS) as executor:
        yield Spare(executor)


@pytest.fixture
def warm(spare: Spare) -> Iterator[StandByPlan]:
    yield StandByPlan(spare, AFTER_S, races=False)
    spare.assert_free()


@pytest.fixture
def race(spare: Spare) -> Iterator[StandByPlan]:
    yield StandByPlan(spare, AFTER_S, races=True)
    spare.assert_free()


def patient(*script: Step, again: tuple[Step, ...] = (), continues: bool = False) -> Model:
    """A model whose own timers do not ring in a test."""
    return Model(*script, again=again, first_token_s=LONG_S, stall_s=LONG_S, continues=continues)


def test_a_warm_stand_by_has_its_answer_ready_when_the_slow_model_fails(watchdog: Watchdog, warm: StandByPlan) -> None:
    """It is whole before the failure, and told once, behind it."""
    ready = patient("x", "y")
    slow = patient(ready.attempt.over, UPSTREAM)
    done = run(watchdog, slow, ready, stand_by=warm)
    assert texts(done) == ["!", "x", "y", "."]
    assert done.summary == [("m0", "FAILED", "scripted"), ("m1", "ANSWERED", "")]
    assert (slow.circuit.verdicts, ready.circuit.verdicts) == (["failed: scripted"], ["succeeded"])


def test_a_stand_by_that_still_writes_is_read_from_where_it_is(watchdog: Watchdog, warm: StandByPlan) -> None:
    """What is there comes at once, the rest as it is written."""
    is_read = threading.Event()
    second = patient("x", "y", is_read, "z")
    outcome = Outcome([], [])
    links = [patient(second.attempt.wrote, UPSTREAM).link("m0"), second.link("m1")]
    with TurnClock(watchdog, time.monotonic() + LONG_S) as clock:
        for event in ask(links, clock, TIMEOUTS, outcome.records, stand_by=warm):
            outcome.events.append(event)
            if event == TokenCame("y"):
                is_read.set()
    assert texts(outcome) == ["!", "x", "y", "z", "."]


@pytest.mark.parametrize("ready", [("x", None), ("x", "y")])
def test_a_slow_model_that_writes_after_all_answers_and_the_warm_stand_by_is_not_told(
    watchdog: Watchdog, warm: StandByPlan, spare: Spare, ready: tuple[Step, ...]
) -> None:
    """However far the stand-by is, it stays unseen; the record says so, and what it knew is no failure."""
    second = patient(*ready)
    awaited = second.attempt.silent if None in ready else second.attempt.over
    done = run(watchdog, patient(awaited, "a", "b"), second, stand_by=warm)
    assert texts(done) == ["a", "b", "."]
    assert done.summary == [("m0", "ANSWERED", ""), ("m1", "OUTRUN", "not_needed")]
    spare.assert_free()
    assert second.circuit.verdicts == ["neutral" if None in ready else "succeeded"]
    assert second.attempt.aborted.is_set()


def test_in_a_race_the_first_token_answers_and_the_slow_model_is_ended(watchdog: Watchdog, race: StandByPlan) -> None:
    """It learnt nothing of the slow one, which had not been given a fair time."""
    slow, fast = patient(None), patient("x", "y")
    done = run(watchdog, slow, fast, stand_by=race)
    assert texts(done) == ["!", "x", "y", "."]
    assert done.summary == [("m0", "OUTRUN", "outrun"), ("m1", "ANSWERED", "")]
    assert (slow.circuit.verdicts, fast.circuit.verdicts) == (["neutral"], ["succeeded"])
    assert slow.attempt.aborted.is_set()


def test_a_model_that_was_outrun_after_a_fair_time_has_failed(watchdog: Watchdog, spare: Spare) -> None:
    """A black hole must open its circuit however fast its stand-by is."""
    slow = Model(None, first_token_s=2.0)
    done = run(watchdog, slow, patient("x"), stand_by=StandByPlan(spare, 1.0, races=True))
    assert done.summary == [("m0", "OUTRUN", "outrun"), ("m1", "ANSWERED", "")]
    assert slow.circuit.verdicts == ["failed: outrun"]


def test_in_a_race_the_slow_model_may_still_win(watchdog: Watchdog, race: StandByPlan) -> None:
    """Its token comes first: the stand-by is ended without a word."""
    second = patient(None)
    done = run(watchdog, patient(second.attempt.silent, "a"), second, stand_by=race)
    assert texts(done) == ["a", "."]
    assert done.summary == [("m0", "ANSWERED", ""), ("m1", "OUTRUN", "not_needed")]
    assert second.attempt.aborted.is_set()


def test_a_model_that_is_fast_has_no_stand_by(watchdog: Watchdog, spare: Spare) -> None:
    """Nor has one that fails at once: the next is asked as ever."""
    plan = StandByPlan(spare, LONG_S, races=True)
    second = patient("x")
    assert run(watchdog, patient("a"), second, stand_by=plan).summary == [("m0", "ANSWERED", "")]
    assert second.circuit.permits == 0
    assert texts(run(watchdog, patient(UPSTREAM), second, stand_by=plan)) == ["!", "x", "."]


@pytest.mark.parametrize("failing", [UPSTREAM, BUSY, OURS, TOO_LONG])
def test_where_a_stand_by_fails_the_one_behind_it_stands_by(
    watchdog: Watchdog, race: StandByPlan, failing: Step
) -> None:
    """A model that refuses at once must not leave the turn to the silent one; each is asked once."""
    models = [patient(None), patient("unseen", failing), patient("x")]
    done = run(
        watchdog, *models, stand_by=StandByPlan(race.threads, AFTER_S, races=False), timeout_s=LAST_RESORT_S + 1.0
    )
    assert texts(done) == ["!", "!", "x", "."]
    assert [record.ai_model for record in done.records] == ["m0", "m1", "m2"]
    assert [model.circuit.permits for model in models] == [1, 1, 1]


def test_a_race_is_won_by_the_first_that_writes_whoever_failed_before(watchdog: Watchdog, race: StandByPlan) -> None:
    """One is passed by, one refuses, the third outruns the silent one."""
    models = [patient(None), Model("never", circuit_open=True), patient(UPSTREAM), patient("x")]
    done = run(watchdog, *models, stand_by=race)
    assert texts(done) == ["!", "!", "!", "x", "."]
    assert [record.outcome.value for record in done.records] == ["OUTRUN", "SKIPPED", "FAILED", "ANSWERED"]


def test_what_failed_while_it_stood_by_is_told_where_the_slow_model_answers(
    watchdog: Watchdog, warm: StandByPlan
) -> None:
    """Operators must hear of it; the answer is the slow model's."""
    second = patient(UPSTREAM)
    third = patient(None)
    done = run(watchdog, patient(third.attempt.silent, "a"), second, third, stand_by=warm)
    assert texts(done) == ["!", "a", "."]
    assert done.events[0] == AttemptEnded(done.records[1])
    assert done.summary == [("m0", "ANSWERED", ""), ("m1", "FAILED", "scripted"), ("m2", "OUTRUN", "not_needed")]


def test_where_all_who_stood_by_failed_the_chain_ends_with_the_slow_model(
    watchdog: Watchdog, warm: StandByPlan
) -> None:
    """None is asked again."""
    second = patient(UPSTREAM)
    done = run(watchdog, patient(second.attempt.over, UPSTREAM), second, stand_by=warm)
    assert texts(done) == ["!", "!"]
    assert second.circuit.permits == 1


def test_a_stand_by_that_was_sent_away_is_asked_anew_when_the_model_is_cut(
    watchdog: Watchdog, warm: StandByPlan
) -> None:
    """It had done nothing wrong; both its attempts are on record."""
    second = patient(None, again=("x", "y"))
    done = run(watchdog, patient(second.attempt.silent, "a", UPSTREAM), second, stand_by=warm)
    assert texts(done) == ["a", "!", "~", "x", "y", "."]
    assert done.summary == [("m0", "FAILED", "scripted"), ("m1", "OUTRUN", "not_needed"), ("m1", "ANSWERED", "")]


def test_a_stand_by_that_is_cut_once_it_is_told_is_superseded(watchdog: Watchdog, race: StandByPlan) -> None:
    """From its first token on it is as any other model."""
    go_on = threading.Event()
    outcome = Outcome([], [])
    models = [patient(None), patient("x", go_on, UPSTREAM), patient("z")]
    links = [model.link(f"m{number}") for number, model in enumerate(models)]
    with TurnClock(watchdog, time.monotonic() + LONG_S) as clock:
        for event in ask(links, clock, TIMEOUTS, outcome.records, stand_by=race):
            outcome.events.append(event)
            if event == TokenCame("x"):
                go_on.set()
    assert texts(outcome) == ["!", "x", "!", "~", "z", "."]


def test_a_silent_stand_by_that_was_taken_over_has_one_of_its_own(watchdog: Watchdog, race: StandByPlan) -> None:
    """Two at once at most, but never one that is silent and alone while others could answer."""
    second = patient(None)
    done = run(watchdog, patient(second.attempt.silent, UPSTREAM), second, patient("x"), stand_by=race)
    assert texts(done) == ["!", "!", "x", "."]
    assert [record.outcome.value for record in done.records] == ["FAILED", "OUTRUN", "ANSWERED"]


def test_a_stand_by_goes_on_behind_a_cut_answer(watchdog: Watchdog, race: StandByPlan) -> None:
    """It is told the text so far as the silent model was that it stands by for."""
    third = patient(" c", continues=True)
    done = run(
        watchdog,
        patient("a b.", UPSTREAM),
        patient(None, continues=True),
        third,
        stand_by=race,
        on_interruption=OnInterruption.CONTINUE,
    )
    assert texts(done) == ["a b.", "!", "!", "|", " c", "."]
    assert third.upstream.prompts[0].answer_begun == "a b."


def test_without_a_spare_thread_nobody_stands_by(watchdog: Watchdog) -> None:
    """The chain is asked in order, and does not wait for a thread."""
    with ThreadPoolExecutor(1) as executor:
        spare = SpareThreads(executor, 1)
        busy = threading.Event()
        assert spare.start(lambda: assert_set(busy))
        second = patient("x")
        done = run(watchdog, Model(None), second, stand_by=StandByPlan(spare, AFTER_S / 10, races=True))
        assert done.summary == [("m0", "TIMED_OUT", "first_token_timeout"), ("m1", "ANSWERED", "")]
        busy.set()
    assert not spare.start(busy.set)  # They have stopped.


def assert_set(event: threading.Event) -> None:
    assert event.wait(LONG_S)


def test_a_slow_search_of_the_stand_by_holds_up_no_alarm(watchdog: Watchdog, warm: StandByPlan) -> None:
    """Its prompt is made on the spare thread: the slow model's own timer rings meanwhile."""
    go_on = threading.Event()
    second = patient("x")

    def search() -> Prompt:
        assert_set(go_on)
        return PROMPT

    second.prompt = search
    outcome = Outcome([], [])
    with TurnClock(watchdog, time.monotonic() + LONG_S) as clock:
        links = [Model(None, first_token_s=5 * AFTER_S).link("m0"), second.link("m1")]
        for event in ask(links, clock, TIMEOUTS, outcome.records, stand_by=warm):
            outcome.events.append(event)
            go_on.set()
    assert outcome.summary == [("m0", "TIMED_OUT", "first_token_timeout"), ("m1", "ANSWERED", "")]


def test_a_stand_by_whose_search_outlasts_the_slow_model_asks_nothing(
    watchdog: Watchdog, warm: StandByPlan, spare: Spare
) -> None:
    """It was sent away before it had a question: no record, and its place as a probe is given back."""
    second = patient("never")
    searching, go_on = threading.Event(), threading.Event()

    def search() -> Prompt:
        searching.set()
        assert_set(go_on)
        return PROMPT

    second.prompt = search
    done = run(watchdog, patient(searching, "a"), second, stand_by=warm)
    go_on.set()
    assert done.summary == [("m0", "ANSWERED", "")]
    spare.assert_free()
    assert second.upstream.prompts == []
    assert second.circuit.verdicts == ["neutral"]


def test_a_deadline_is_kept_while_the_stand_by_searches(watchdog: Watchdog, warm: StandByPlan) -> None:
    """The slow model has failed, and what the turn waits for cannot be interrupted: it does not wait."""
    second = patient("never")
    go_on, searching = threading.Event(), threading.Event()

    def search() -> Prompt:
        searching.set()
        assert_set(go_on)
        return PROMPT

    second.prompt = search
    done = run(watchdog, patient(searching, UPSTREAM), second, stand_by=warm, timeout_s=LAST_RESORT_S + 0.2)
    go_on.set()
    assert isinstance(done.error, DeadlineExceeded)


def test_a_defect_in_the_background_is_the_turns(watchdog: Watchdog, warm: StandByPlan) -> None:
    """It ends the turn as it would on its own thread, and leaks no permit."""
    second = patient("never")
    searching = threading.Event()

    def search() -> Prompt:
        searching.set()
        raise ZeroDivisionError

    second.prompt = search
    with pytest.raises(ZeroDivisionError):
        run(watchdog, patient(searching, UPSTREAM), second, stand_by=warm)
    assert second.circuit.verdicts == ["neutral"]


def test_a_caller_who_leaves_ends_both(watchdog: Watchdog, race: StandByPlan, spare: Spare) -> None:
    """Both are freed at once, both are on record, no circuit learns anything."""
    slow, second = patient(None), patient(None)
    records: list[AttemptRecord] = []
    with TurnClock(watchdog, time.monotonic() + LONG_S) as clock:

        def leave() -> None:
            second.attempt.silent.wait(LONG_S)
            clock.cancel()

        leaver = threading.Thread(target=leave)
        leaver.start()
        with pytest.raises(Cancelled):
            list(ask([slow.link("m0"), second.link("m1")], clock, TIMEOUTS, records, stand_by=race))
        leaver.join()
    assert [(record.outcome.value, record.code) for record in records] == 2 * [("CANCELLED", "caller_left")]
    spare.assert_free()
    assert slow.circuit.verdicts == second.circuit.verdicts == ["neutral"]
    assert second.attempt.over.is_set()


@pytest.mark.parametrize("read", [1, 2])
def test_closing_the_stream_frees_whoever_stands_by(watchdog: Watchdog, warm: StandByPlan, read: int) -> None:
    """Before it is taken over, and while it is told."""
    second = patient("x", "y", None)
    records: list[AttemptRecord] = []
    links = [patient(second.attempt.silent, UPSTREAM).link("m0"), second.link("m1")]
    with (
        TurnClock(watchdog, time.monotonic() + LONG_S) as clock,
        closing(ask(links, clock, TIMEOUTS, records, stand_by=warm)) as events,
    ):
        for _ in range(read):
            next(events)
    assert [record.outcome.value for record in records] == ["FAILED", "CANCELLED"]
    assert second.attempt.over.wait(LONG_S)


def test_a_question_that_nobody_may_answer_ends_both(watchdog: Watchdog, warm: StandByPlan) -> None:
    """Whichever of the two says so."""
    second = patient(None)
    done = run(watchdog, patient(second.attempt.silent, CALLERS), second, stand_by=warm)
    assert isinstance(done.error, InvalidArgument)
    assert done.summary == [("m0", "FAILED", "scripted"), ("m1", "OUTRUN", "not_needed")]
    refusing, never = patient(CALLERS), patient("never")
    done = run(watchdog, patient(refusing.attempt.over, UPSTREAM), refusing, never, stand_by=warm)
    assert isinstance(done.error, InvalidArgument)
    assert never.circuit.permits == 0


tokens = st.text("ab한", min_size=1, max_size=3)
endings: st.SearchStrategy[tuple[Step, ...]] = st.sampled_from(
    [(), (UPSTREAM,), (BUSY,), (None,), (CALLERS,), (TOO_LONG,)]
)
pauses: st.SearchStrategy[tuple[Step, ...]] = st.sampled_from([(), (0.001,), (0.003,)])
scripts = st.builds(
    lambda pause, begun, ending: (*pause, *begun, *ending), pauses, st.lists(tokens, max_size=2), endings
)
models = st.builds(
    lambda script, again, is_open, continues: Model(
        *script, again=again, circuit_open=is_open, continues=continues, first_token_s=0.006, stall_s=0.003
    ),
    scripts,
    scripts,
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(models, max_size=4), st.integers(0, 12), st.sampled_from(OnInterruption), st.booleans())
def test_whoever_stood_by_the_text_is_one_models_or_is_void(
    watchdog: Watchdog, spare: Spare, chain: list[Model], read: int, on_interruption: OnInterruption, races: bool
) -> None:
    """For any scripts, orders and moments at which the caller stops: one answer, a verdict a permit, no thread kept."""
    plan = StandByPlan(spare, 0.002, races)
    records: list[AttemptRecord] = []
    events: list[ChainEvent] = []
    links = [model.link(f"m{number}") for number, model in enumerate(chain)]
    stopped = False
    with (
        TurnClock(watchdog, time.monotonic() + LONG_S) as clock,
        closing(ask(links, clock, TIMEOUTS, records, on_interruption, plan)) as stream,
    ):
        try:
            for each in stream:
                events.append(each)
                if len(events) > read:
                    stopped = True
                    break
        except (AnswerInterrupted, InvalidArgument):
            stopped = True
    spare.assert_free()
    caller = ObedientCaller(chain, on_interruption)
    for each in events:
        caller.take(each)
    assert stopped or not caller.text or caller.has_answer
    places = [record.ai_model for record in records]
    assert places == sorted(places)
    assert [record.outcome.value for record in records].count("ANSWERED") == caller.has_answer
    for model in chain:
        assert len(model.circuit.verdicts) == model.circuit.permits <= 2
        for attempt in model.upstream.attempts[: len(model.upstream.prompts)]:
            assert attempt.aborted.is_set()
