"""C1, C2, C3, C5, C6: an upstream that fails before its first token costs one attempt, which the caller never sees."""

import threading
from collections.abc import Callable
from itertools import count

import grpc
import pytest

from dari.v1 import chat_pb2 as pb
from tests.faults.chat.conftest import CANARY, PATIENT_S, QUESTION, QUICK_S, STAND_IN_ANSWER, StartDari
from tests.flowise_stand_in import (
    FLOW_ID,
    Play,
    StandIn,
    answer,
    black_hole,
    cut_after,
    event,
    event_stream,
    fail_after,
    headers_only,
    heartbeats_only,
    json_answer,
    never_answer,
    refuse_flow,
    replay,
    reset_after,
    response,
    web_page,
)
from tests.support.chatting import assert_truthful, listen
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.fault_sizes import SEEDS
from tests.support.running_dari import RunningDari, attempts_of, refusal
from tests.support.waiting import until

FAILED = "Error: predictionsServices.buildChatflow - "
BEFORE_THE_FIRST_TOKEN: list[tuple[str, Play, str, str]] = [
    # name, what Flowise does, outcome, code
    ("C2 never answers", never_answer(), "TIMED_OUT", "first_token_timeout"),
    ("C2 headers only", headers_only(), "TIMED_OUT", "first_token_timeout"),
    ("C2 heartbeats only", heartbeats_only(), "TIMED_OUT", "first_token_timeout"),
    ("C2 captured heartbeats", replay("09-upstream-hang-stream"), "TIMED_OUT", "first_token_timeout"),
    ("C3 an error event", fail_after(text=f"{FAILED}500 {CANARY}"), "FAILED", "model_failed"),
    ("C3 captured error event", replay("09-upstream-500-stream"), "FAILED", "model_failed"),
    ("C3 reset before a token", reset_after(), "FAILED", "connection_reset"),
    ("C3 cut before a token", cut_after(), "FAILED", "stream_cut"),
    ("C3 killed before a byte", replay("18b-kill9-midrequest-nonstream", then="close"), "FAILED", "connection_closed"),
    ("C5 no token", event_stream(event("metadata", {}), event("end", "[DONE]")), "FAILED", "empty_answer"),
    ("C5 blank tokens", answer(" ", "\n"), "FAILED", "empty_answer"),
    ("C5 empty text", json_answer(""), "FAILED", "empty_answer"),
    ("C5 a web page", web_page(), "MISCONFIGURED", "wrong_url"),
    ("C5 captured web page", replay("06e-get"), "MISCONFIGURED", "wrong_url"),
    ("C6 a rate limit", response(429, CANARY, content_type="text/html", Retry_After="27"), "BUSY", "rate_limited"),
    ("C6 captured rate limit", replay("13d-ratelimit-4-stream"), "BUSY", "rate_limited"),
    ("C6 captured rate limit of the model", replay("09-upstream-429-stream"), "BUSY", "model_rate_limited"),
    ("C6 a wrong key", refuse_flow(), "MISCONFIGURED", "flowise_unauthorized"),
    ("C6 captured 401 in a 500", replay("11a-protected-nokey"), "MISCONFIGURED", "flowise_unauthorized"),
    ("C6 captured unknown flow", replay("06a-unknown-id-nonstream"), "MISCONFIGURED", "unknown_flow"),
]


def test_what_fails_before_the_first_token_is_followed_by_the_next_model(
    start_dari: StartDari, make_bot: Callable[..., RunningDari], flowise: StandIn
) -> None:
    """The caller is told of an attempt that ended, then gets one whole answer; the upstream's own failures count."""
    bot = make_bot(start_dari(), first_token_timeout_s=QUICK_S)
    for name, play, outcome, code in BEFORE_THE_FIRST_TOKEN:
        flowise.script(play)
        told = listen(bot.stream(QUESTION))
        assert_truthful(bot, told, name)
        assert told.kinds.index("attempt_ended") < told.kinds.index("token"), name
        assert "superseded" not in told.kinds, name
        assert attempts_of(told.turn) == [("flow", outcome, code), ("server", "ANSWERED", "")], name
        assert (told.turn.answer, told.turn.answered_by) == (STAND_IN_ANSWER, pb.ANSWERER_OPENAI_COMPATIBLE), name
        assert list(told.turn.degraded_reasons) == [pb.DEGRADED_REASON_STAND_IN], name
        assert upstream(bot).consecutive_failures == (outcome in ("FAILED", "TIMED_OUT")), name
        bot.chat.ResetUpstream(pb.ResetUpstreamRequest(ai_model="aiModels/flow"))


def upstream(dari: RunningDari, model: str = "flow") -> pb.Upstream:
    """What the server knows of a model that it has asked."""
    (found,) = (
        each
        for each in dari.chat.ListUpstreams(pb.ListUpstreamsRequest()).upstreams
        if each.ai_model == f"aiModels/{model}"
    )
    return found


def test_json_where_a_stream_was_asked_for_is_an_answer(
    start_dari: StartDari, make_bot: Callable[..., RunningDari], flowise: StandIn
) -> None:
    """C5: a flow that cannot stream."""
    bot = make_bot(start_dari())
    flowise.script(replay("07l-stream-on-nostream-model"))
    assert bot.ask(QUESTION).answer == "Echo(2 msgs, 1 chars): x"


def test_an_unknown_flow_is_misconfigured_although_flowise_is_silent_for_ever(
    start_dari: StartDari, make_bot: Callable[..., RunningDari], flowise: StandIn
) -> None:
    """C6: the look-up tells what the stream never would."""
    bot = make_bot(start_dari(), first_token_timeout_s=PATIENT_S)
    flowise.unknown_flows.add(FLOW_ID)
    assert attempts_of(bot.ask(QUESTION))[0] == ("flow", "MISCONFIGURED", "unknown_flow")


def test_a_question_that_is_too_long_for_the_only_model_is_the_callers(start_dari: StartDari, flowise: StandIn) -> None:
    """C6: 413 ends the turn, naming the field."""
    dari = start_dari()
    dari.make_flowise("flow", flowise.url)
    dari.make_chat("bot", "flow")
    flowise.script(replay("12d-60MB-stream"))
    with pytest.raises(grpc.RpcError) as caught:
        dari.ask(QUESTION)
    told = refusal(caught.value)
    assert (told.status, told.fields) == ("INVALID_ARGUMENT", ("question",))


def test_a_port_that_neither_takes_nor_refuses_a_connection_costs_one_attempt(
    start_dari: StartDari, make_bot: Callable[..., RunningDari]
) -> None:
    """C2: its queue of connections is full, as that of a frozen server."""
    with black_hole() as url:
        bot = make_bot(start_dari(connect_timeout_s=0.2), url, first_token_timeout_s=PATIENT_S)
        turn = bot.ask(QUESTION)
    assert attempts_of(turn) == [("flow", "FAILED", "connect_timeout"), ("server", "ANSWERED", "")]


@pytest.mark.parametrize("swallowed", ["to_target", "to_caller"])
def test_a_network_that_swallows_all_bytes_costs_one_attempt(
    start_dari: StartDari, make_bot: Callable[..., RunningDari], before_flowise: FaultProxy, swallowed: str
) -> None:
    """C2: the question, or the answer, never arrives, on a connection that lives."""
    bot = make_bot(start_dari(), f"http://{before_flowise.address}", first_token_timeout_s=QUICK_S)
    assert bot.ask(QUESTION).ai_model == "aiModels/flow"
    getattr(before_flowise, swallowed).set(Fault(swallows=True))
    told = listen(bot.stream(QUESTION))
    assert_truthful(bot, told)
    assert [each[:2] for each in attempts_of(told.turn)] == [("flow", "TIMED_OUT"), ("server", "ANSWERED")]
    before_flowise.forward()
    assert bot.ask(QUESTION).ai_model == "aiModels/flow"


SLOW = {
    "latency": Fault(latency_s=0.02),
    "bandwidth": Fault(bytes_per_s=20_000),
    "slices": Fault(piece_bytes=1),
    "slow slices": Fault(piece_bytes=7, latency_s=0.001),
}


@pytest.mark.parametrize("fault", SLOW.values(), ids=SLOW)
def test_a_slow_or_sliced_network_changes_no_answer(
    start_dari: StartDari,
    make_bot: Callable[..., RunningDari],
    flowise: StandIn,
    before_flowise: FaultProxy,
    fault: Fault,
) -> None:
    """The control run of the faults above: what is late is not lost."""
    bot = make_bot(start_dari(), f"http://{before_flowise.address}")
    before_flowise.to_caller.set(fault)
    flowise.always(replay("04-stream-slow-unicode"))
    told = listen(bot.stream(QUESTION))
    assert told.text == told.turn.answer == 'Héllo\n "wörld" 🎉\n\n 日本\u2028xdata: y end'
    assert attempts_of(told.turn) == [("flow", "ANSWERED", "")]


def test_a_flowise_that_refuses_is_left_alone_and_comes_back_by_itself(
    start_dari: StartDari, make_bot: Callable[..., RunningDari], flowise: StandIn
) -> None:
    """C1: no error is seen; the circuit opens by its rule; later turns do not touch it; alive again it answers."""
    rules = {"circuit_consecutive_failures": 2, "circuit_open_s": PATIENT_S, "circuit_max_open_s": PATIENT_S}
    bot = make_bot(start_dari(**rules, probe_interval_s=0.2, circuit_ramp_s=0.0))
    for _ in range(max(2, SEEDS // 6)):
        flowise.stop()
        for _ in range(2):
            told = listen(bot.stream(QUESTION))
            assert_truthful(bot, told)
            assert attempts_of(told.turn)[0] == ("flow", "FAILED", "connection_refused")
        state = upstream(bot)
        assert (state.circuit_state, state.last_failure_code) == (pb.CIRCUIT_STATE_OPEN, "connection_refused")
        asked = len(flowise.questions)
        left_alone = bot.ask(QUESTION)
        assert attempts_of(left_alone)[0] == ("flow", "SKIPPED", "circuit_open")
        assert list(left_alone.degraded_reasons) == [pb.DEGRADED_REASON_STAND_IN]
        assert len(flowise.questions) == asked
        flowise.start()
        until(lambda: bot.ask(QUESTION).ai_model == "aiModels/flow")
        until(lambda: upstream(bot).circuit_state == pb.CIRCUIT_STATE_CLOSED)


def test_a_flowise_that_answers_no_probe_is_tried_again_by_a_turn(
    start_dari: StartDari, make_bot: Callable[..., RunningDari], flowise: StandIn
) -> None:
    """C1: the circuit half-opens by its own time too."""
    bot = make_bot(start_dari(circuit_consecutive_failures=1, circuit_open_s=QUICK_S, probe_interval_s=PATIENT_S))
    flowise.stop()
    assert attempts_of(bot.ask(QUESTION))[0] == ("flow", "FAILED", "connection_refused")
    flowise.start()
    until(lambda: bot.ask(QUESTION).ai_model == "aiModels/flow")


def test_nobody_fails_while_flowise_dies_and_lives_again_and_again(
    start_dari: StartDari, make_bot: Callable[..., RunningDari], flowise: StandIn
) -> None:
    """C1 under load: four callers ask without a pause, and each has a whole answer each time."""
    bot = make_bot(start_dari(circuit_open_s=0.1, probe_interval_s=0.05, circuit_ramp_s=0.1))
    flowise.always(answer("answered ", "by ", "Flowise ", CANARY))
    stopped, failures, answers = threading.Event(), list[BaseException](), count()

    def ask_on() -> None:
        try:
            while not stopped.is_set():
                assert_truthful(bot, listen(bot.stream(QUESTION)))
                next(answers)
        except BaseException as failure:
            failures.append(failure)

    callers = [threading.Thread(target=ask_on) for _ in range(4)]
    for caller in callers:
        caller.start()
    for _ in range(SEEDS // 4):
        flowise.stop()
        until(lambda: attempts_of(bot.ask(QUESTION))[0][1] in ("FAILED", "SKIPPED"))
        flowise.start()
        until(lambda: bot.ask(QUESTION).ai_model == "aiModels/flow")
    stopped.set()
    for caller in callers:
        caller.join()
    assert failures == []
    assert next(answers) >= len(callers)
