"""C12: a stuck upstream costs its caller the deadline at most, and dari no thread and no connection."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from dari.v1 import chat_pb2 as pb
from tests.faults.chat.conftest import CANARY, PATIENT_S, QUESTION, STAND_IN_ANSWER, StartDari
from tests.flowise_stand_in import (
    FLOW_ID,
    Play,
    StandIn,
    answer,
    black_hole,
    headers_only,
    heartbeats_only,
    never_answer,
    never_end,
    stall_after,
)
from tests.support.busy_threads import wait_until_no_call_is_served
from tests.support.chatting import Told, assert_truthful, listen, wait_until_incomplete
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.running_dari import SOON_S, RunningDari, attempts_of, status_of

DEADLINE_S = 2.0
CALLERS = 6
PATIENCE = {"first_token_timeout_s": PATIENT_S, "stall_timeout_s": PATIENT_S, "total_timeout_s": PATIENT_S}
"""No timer of the model rings before the caller's deadline."""

SILENT: dict[str, Play] = {
    "no byte": never_answer(),
    "headers only": headers_only(),
    "heartbeats only": heartbeats_only(),
}


@pytest.mark.parametrize("play", SILENT.values(), ids=SILENT)
def test_a_faster_model_answers_before_the_deadline(
    start_dari: StartDari, make_bot: Callable[..., RunningDari], flowise: StandIn, play: Play
) -> None:
    """And the impatience of a caller says nothing about the model: one failure would open its circuit."""
    bot = make_bot(start_dari(circuit_consecutive_failures=1), **PATIENCE)
    flowise.always(play)
    for number in (1, 2):
        told = listen(bot.stream(QUESTION, timeout_s=DEADLINE_S))
        assert_truthful(bot, told)
        assert told.text == STAND_IN_ANSWER
        assert attempts_of(told.turn) == [("flow", "TIMED_OUT", "deadline"), ("server", "ANSWERED", "")]
        assert len(flowise.questions) == number
    assert all(question.hung_up.wait(SOON_S) for question in flowise.questions)


STUCK: dict[str, Play] = {**SILENT, "in mid-answer": stall_after("Half ", CANARY), "an endless answer": never_end()}


@pytest.mark.parametrize("play", STUCK.values(), ids=STUCK)
def test_where_nobody_answers_in_time_the_deadline_is_told_and_no_thread_stays(
    start_dari: StartDari, flowise: StandIn, play: Play
) -> None:
    """Several callers at once; then the upstream is well, and all of them are answered by the same threads."""
    dari = start_dari(max_chats=CALLERS)
    dari.make_flowise("flow", flowise.url, FLOW_ID, secret="key", **PATIENCE)
    dari.make_chat("bot", "flow")
    flowise.always(play)
    for told in ask_at_once(dari):
        assert told.error is not None
        assert status_of(told.error) == "DEADLINE_EXCEEDED"
        (attempt,) = wait_until_incomplete(dari, told.conversation).attempts
        assert attempt.outcome in (pb.ATTEMPT_OUTCOME_TIMED_OUT, pb.ATTEMPT_OUTCOME_CANCELLED)
    wait_until_no_call_is_served()
    assert all(question.hung_up.wait(SOON_S) for question in flowise.questions)
    dari.chat.ResetUpstream(pb.ResetUpstreamRequest(ai_model="aiModels/flow"))
    flowise.always(answer("well"))
    assert [told.text for told in ask_at_once(dari)] == ["well"] * CALLERS


def ask_at_once(dari: RunningDari) -> list[Told]:
    with ThreadPoolExecutor(CALLERS) as callers:
        return list(callers.map(lambda _: listen(dari.stream(QUESTION, timeout_s=DEADLINE_S)), range(CALLERS)))


@pytest.mark.parametrize("where", ["the question", "the answer", "the connection"])
def test_a_network_that_swallows_all_bytes_keeps_no_thread(
    start_dari: StartDari, before_flowise: FaultProxy, where: str
) -> None:
    """Neither data nor an end will ever come, or the connection itself never does."""
    dari = start_dari(max_chats=CALLERS, connect_timeout_s=PATIENT_S)
    with ExitStack() as opened:
        url = opened.enter_context(black_hole()) if where == "the connection" else f"http://{before_flowise.address}"
        dari.make_flowise("flow", url, FLOW_ID, secret="key", **PATIENCE)
        dari.make_chat("bot", "flow")
        direction = before_flowise.to_target if where == "the question" else before_flowise.to_caller
        direction.set(Fault(swallows=True))
        for told in ask_at_once(dari):
            assert told.error is not None
            assert status_of(told.error) == "DEADLINE_EXCEEDED"
        wait_until_no_call_is_served()
