"""C10: with every model down a caller gets the rows themselves, marked; without data the truth, at once."""

from collections.abc import Callable

import grpc
import pytest

from dari.v1 import chat_pb2 as pb
from tests.faults.chat.conftest import CANARY, QUESTION, StartDari
from tests.flowise_stand_in import Play, StandIn, cut_after, fail_after, reset_after
from tests.support.chatting import Told, listen
from tests.support.running_dari import RunningDari, attempts_of, refusal

DOWN: dict[str, tuple[Play, bool]] = {
    # What Flowise does, if it lives at all; whether text was sent before.
    "before a token": (fail_after(), False),
    "by a reset": (reset_after(), False),
    "in mid-answer": (cut_after("Half ", CANARY), True),
}


@pytest.mark.parametrize(("play", "sends_text"), DOWN.values(), ids=DOWN)
def test_the_rows_answer_where_no_model_does(
    start_dari: StartDari,
    make_bot: Callable[..., RunningDari],
    flowise: StandIn,
    openai: StandIn,
    play: Play,
    sends_text: bool,
) -> None:
    """Marked as such, with the rows cited and shown; the text of a model that died before is void."""
    bot = make_bot(start_dari())
    openai.stop()
    flowise.always(play)
    told = listen(bot.stream(QUESTION))
    assert_rows_only(bot, told)
    assert ("superseded" in told.kinds) == sends_text
    assert [outcome for _, outcome, _ in attempts_of(told.turn)] == ["FAILED", "FAILED"]
    flowise.stop()
    assert_rows_only(bot, listen(bot.stream(QUESTION)))


def assert_rows_only(dari: RunningDari, told: Told) -> None:
    turn = told.turn
    assert (turn.answered_by, turn.ai_model) == (pb.ANSWERER_ROWS_ONLY, "")
    assert pb.DEGRADED_REASON_ROWS_ONLY in turn.degraded_reasons
    assert told.text == turn.answer == dari.turns(told.conversation)[-1].answer
    assert [cell.text for cell in turn.citations[0].cells] == ["LGA", f"La Guardia {CANARY}", "New York"]
    assert "La Guardia" in turn.answer


@pytest.mark.parametrize("over", [(), ("empty",)], ids=["no knowledge base", "an empty one"])
def test_without_data_the_caller_is_told_at_once_and_when_to_come_back(
    start_dari: StartDari, flowise: StandIn, over: tuple[str, ...]
) -> None:
    """UNAVAILABLE with push-back, in Chat and in Ask, long before the deadline; the turn is INCOMPLETE and says why."""
    dari = start_dari()
    flowise.stop()
    dari.make_flowise("flow", flowise.url)
    for base in over:
        dari.make_knowledge_base(base)
    dari.make_chat("bot", "flow", over=over)
    told = listen(dari.stream(QUESTION))
    assert told.error is not None
    refused = refusal(told.error)
    assert (refused.status, refused.reason) == ("UNAVAILABLE", "UNAVAILABLE")
    assert refused.metadata == {"neighbour": "ai_models", "attempts": "flow=connection_refused"}
    assert int(dict(refused.trailers)["grpc-retry-pushback-ms"]) > 0
    (turn,) = dari.turns(told.conversation)
    assert turn.state == pb.TURN_STATE_INCOMPLETE
    assert attempts_of(turn) == [("flow", "FAILED", "connection_refused")]
    with pytest.raises(grpc.RpcError) as caught:
        dari.ask(QUESTION)
    assert refusal(caught.value).status == "UNAVAILABLE"
