"""C11: the local model's process dies in mid-answer; that costs one attempt, and the server never noticed more."""

import signal
from typing import NamedTuple

import psutil
import pytest

from dari.v1 import chat_pb2 as pb
from tests.faults.chat.conftest import CANARY, NEVER_OPENS, QUICK_S, StartDari
from tests.flowise_stand_in import StandIn, answer
from tests.support.chatting import Told, assert_truthful
from tests.support.fault_sizes import SEEDS
from tests.support.running_dari import RunningDari, attempts_of, kind_of
from tests.support.waiting import until

WHOLE = f"Whole {CANARY}"
LOADED_S = 60.0


class Death(NamedTuple):
    """What the process gets, and how its attempt ends."""

    signal: signal.Signals
    outcome: str
    code: str


DEATHS = {
    "killed": Death(signal.SIGKILL, "FAILED", "local_process_died"),
    "segmentation fault": Death(signal.SIGSEGV, "FAILED", "local_process_died"),
    "frozen": Death(signal.SIGSTOP, "TIMED_OUT", "stall_timeout"),
}


def model_process() -> psutil.Process:
    """The child that answers now."""
    (child,) = (each for each in psutil.Process().children() if "dari.adapters.local_model.child" in each.cmdline())
    return child


@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS)
def test_a_model_process_that_dies_in_mid_answer_costs_one_attempt_and_comes_back(
    start_local: StartDari, flowise: StandIn, death: Death
) -> None:
    """The next model answers; a call that has nothing to do with it is served meanwhile; then it answers again."""
    dari = start_local(stall_timeout_s=QUICK_S if death.signal is signal.SIGSTOP else LOADED_S, **NEVER_OPENS)
    dari.make_flowise("flow", flowise.url)
    dari.make_chat("bot", "local", "flow")
    flowise.always(answer("Whole ", CANARY))
    until(lambda: is_answered_by_local(dari), LOADED_S)
    for _ in range(max(1, SEEDS // 40)):
        told = ask_and_kill(dari, death.signal)
        assert_truthful(dari, told)
        assert told.text == WHOLE
        assert attempts_of(told.turn) == [("local", death.outcome, death.code), ("flow", "ANSWERED", "")]
        assert told.kinds.count("superseded") == 1
        until(lambda: is_answered_by_local(dari), LOADED_S)


def ask_and_kill(dari: RunningDari, number: signal.Signals) -> Told:
    """Ask, and send the signal at the first token."""
    victim = model_process()
    events: list[pb.ChatResponse] = []
    for event in dari.stream(f"Write a poem about {CANARY}."):
        if kind_of(event) == "token" and "token" not in map(kind_of, events):
            victim.send_signal(number)
            assert dari.chat.ListUpstreams(pb.ListUpstreamsRequest()).upstreams
        events.append(event)
    return Told(tuple(events), None)


def is_answered_by_local(dari: RunningDari) -> bool:
    return dari.ask("Hi?", timeout_s=LOADED_S).ai_model == "aiModels/local"


def test_a_model_process_that_dies_before_its_first_token_is_not_noticed(
    start_local: StartDari, flowise: StandIn
) -> None:
    """Killed while nobody asks: whoever asks next is answered, by it or by the next model."""
    dari = start_local(**NEVER_OPENS)
    dari.make_flowise("flow", flowise.url)
    dari.make_chat("bot", "local", "flow")
    until(lambda: is_answered_by_local(dari), LOADED_S)
    model_process().kill()
    turn = dari.ask("Hi?", timeout_s=LOADED_S)
    assert turn.state == pb.TURN_STATE_COMPLETED
    assert turn.attempts[-1].outcome == pb.ATTEMPT_OUTCOME_ANSWERED
    until(lambda: is_answered_by_local(dari), LOADED_S)
