"""C7 and C8: the circuit as callers meet it. Control runs on the bare package: tests/adapters/test_circuit.py."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from dari.v1 import chat_pb2 as pb
from tests.faults.chat.conftest import PATIENT_S, QUESTION, QUICK_S, STAND_IN_ANSWER, StartDari
from tests.flowise_stand_in import StandIn, answer, fail_after
from tests.support.chatting import assert_truthful, listen
from tests.support.running_dari import SOON_S, RunningDari, attempts_of
from tests.support.waiting import until

CALLERS = 50
PROBES = 2


def flow_of(dari: RunningDari) -> pb.Upstream:
    (flow,) = (
        each
        for each in dari.chat.ListUpstreams(pb.ListUpstreamsRequest()).upstreams
        if each.ai_model == "aiModels/flow"
    )
    return flow


def test_four_failures_for_each_success_open_the_circuit(
    start_dari: StartDari, make_bot: Callable[..., RunningDari], flowise: StandIn
) -> None:
    """C7: F F F F ok, again and again: no five failures in a row, but more than half of at least ten outcomes."""
    rules = {"circuit_consecutive_failures": 5, "circuit_min_outcomes": 10, "circuit_open_s": PATIENT_S}
    bot = make_bot(start_dari(**rules, circuit_max_open_s=PATIENT_S))
    pattern = [*[fail_after("Half ")] * 4, answer("well")]
    flowise.script(*pattern, *pattern, pattern[0])
    texts = []
    for _ in range(2 * len(pattern) + 1):
        told = listen(bot.stream(QUESTION))
        assert_truthful(bot, told)
        texts.append(told.text)
    assert texts == [*[*[STAND_IN_ANSWER] * 4, "well"] * 2, STAND_IN_ANSWER]
    assert (flow_of(bot).circuit_state, flow_of(bot).consecutive_failures) == (pb.CIRCUIT_STATE_OPEN, 1)
    asked = len(flowise.questions)
    told = listen(bot.stream(QUESTION))
    assert attempts_of(told.turn) == [("flow", "SKIPPED", "circuit_open"), ("server", "ANSWERED", "")]
    assert len(flowise.questions) == asked


def test_of_fifty_callers_at_a_half_open_circuit_two_reach_flowise_and_all_are_answered(
    start_dari: StartDari, make_bot: Callable[..., RunningDari], flowise: StandIn
) -> None:
    """C8: the two are real turns; nobody waits for them, and their success lets everyone through again."""
    rules = {"circuit_consecutive_failures": 1, "circuit_open_s": QUICK_S, "circuit_ramp_s": 0.0}
    bot = make_bot(
        start_dari(**rules, max_chats=2 * CALLERS, probe_interval_s=PATIENT_S),
        first_token_timeout_s=PATIENT_S,
        stall_timeout_s=PATIENT_S,
    )
    flowise.script(fail_after("Half "))
    listen(bot.stream(QUESTION))
    until(lambda: flow_of(bot).circuit_state == pb.CIRCUIT_STATE_HALF_OPEN)
    asked, go_on = len(flowise.questions), threading.Event()
    flowise.always(answer("back ", go_on, "again"))
    with ThreadPoolExecutor(CALLERS) as callers:
        turns = [callers.submit(lambda: listen(bot.stream(QUESTION, timeout_s=PATIENT_S))) for _ in range(CALLERS)]
        until(lambda: sum(turn.done() for turn in turns) == CALLERS - PROBES)
        assert len(flowise.questions) - asked == PROBES
        assert flow_of(bot).circuit_state == pb.CIRCUIT_STATE_HALF_OPEN
        go_on.set()
        told = [turn.result(SOON_S) for turn in turns]
    for each in told:
        assert_truthful(bot, each)
    texts = Counter(each.text for each in told)
    assert texts == {"back again": PROBES, STAND_IN_ANSWER: CALLERS - PROBES}
    assert flow_of(bot).circuit_state == pb.CIRCUIT_STATE_CLOSED
    assert bot.ask(QUESTION).answer == "back again"
