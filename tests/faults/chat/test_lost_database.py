"""C13: chats go on while PostgreSQL is gone, from what is known, and say so; what was not stored is stored later."""

import threading
from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

import grpc
import pytest

from dari.v1 import chat_pb2 as pb
from tests.faults.chat.conftest import CANARY, QUESTION, QUICK_S, StartDari
from tests.flowise_stand_in import StandIn, answer
from tests.support.chatting import listen
from tests.support.fault_proxy import PostgresProxy
from tests.support.fault_sizes import SEEDS
from tests.support.running_dari import RunningDari, conversation_of, kind_of, refusal, text_of
from tests.support.waiting import until

MakeBot = Callable[..., RunningDari]
WITHOUT_DATABASE = [
    pb.DEGRADED_REASON_NO_DATA,
    pb.DEGRADED_REASON_LAST_KNOWN_MAPPING,
    pb.DEGRADED_REASON_NOT_STORED,
]


def stored_turns(dari: RunningDari, turn: pb.Turn) -> list[pb.Turn]:
    """The turns of its conversation; none while the database does not have it or is not there."""
    with suppress(grpc.RpcError):
        return dari.turns(conversation_of(turn))
    return []


def test_chats_go_on_while_the_database_is_gone_and_no_turn_is_lost(
    start_dari: StartDari, make_bot: MakeBot, before_postgres: PostgresProxy, flowise: StandIn
) -> None:
    """Over the mapping known last, without data, and told; a retry gets its answer again; back, all is as ever."""
    dari = make_bot(start_dari(before_postgres.dsn))
    for number in range(max(2, SEEDS // 20)):
        before = dari.ask(QUESTION)
        assert list(before.degraded_reasons) == []
        before_postgres.vanish()
        request_id, question = uuid4(), f"{QUESTION} {number}"
        during = dari.ask(question, request_id=request_id)
        assert (during.answered_by, list(during.degraded_reasons)) == (pb.ANSWERER_FLOWISE, WITHOUT_DATABASE)
        assert "La Guardia" not in flowise.questions[-1].json["question"]
        asked = len(flowise.questions)
        assert dari.ask(question, request_id=request_id).answer == during.answer
        assert len(flowise.questions) == asked
        assert dari.ask("And SFO?", conversation=conversation_of(before)).answered_by == pb.ANSWERER_FLOWISE
        before_postgres.come_back()
        until(lambda: list(dari.ask("hi").degraded_reasons) == [])
        until(lambda turns=(during, before): [len(stored_turns(dari, turn)) for turn in turns] == [1, 2])  # type: ignore[misc]
        (stored,) = stored_turns(dari, during)
        assert (stored.question, stored.answer, stored.state) == (question, during.answer, pb.TURN_STATE_COMPLETED)
        assert [turn.question for turn in stored_turns(dari, before)] == [QUESTION, "And SFO?"]


def test_a_database_that_vanishes_in_mid_answer_costs_no_answer(
    start_dari: StartDari, make_bot: MakeBot, before_postgres: PostgresProxy, flowise: StandIn
) -> None:
    """The text that is under way goes on to its end, is told as not stored, and is stored later."""
    dari = make_bot(start_dari(before_postgres.dsn))
    go_on = threading.Event()
    flowise.script(answer("Half ", go_on, CANARY))
    events = []
    for event in dari.stream(QUESTION):
        events.append(event)
        if kind_of(event) == "token" and not go_on.is_set():
            before_postgres.vanish()
            go_on.set()
    turn = events[-1].completed.turn
    assert text_of(events) == turn.answer == f"Half {CANARY}"
    assert list(turn.degraded_reasons) == [pb.DEGRADED_REASON_NOT_STORED]
    before_postgres.come_back()
    until(lambda: [each.answer for each in stored_turns(dari, turn)] == [turn.answer])


def test_a_chat_that_was_never_known_is_unavailable_without_the_database(
    start_dari: StartDari, before_postgres: PostgresProxy
) -> None:
    """Nobody can tell what it may use."""
    dari = start_dari(before_postgres.dsn)
    before_postgres.vanish()
    with pytest.raises(grpc.RpcError) as caught:
        dari.ask(QUESTION)
    assert refusal(caught.value).status == "UNAVAILABLE"


def test_a_database_that_swallows_all_bytes_darkens_no_chat(
    start_dari: StartDari, make_bot: MakeBot, before_postgres: PostgresProxy, flowise: StandIn
) -> None:
    """Frozen, or behind a network that drops everything: nothing fails, nothing answers, and callers are answered."""
    dari = make_bot(start_dari(before_postgres.dsn))
    assert dari.ask(QUESTION).answered_by == pb.ANSWERER_FLOWISE
    before_postgres.swallow()
    told = [listen(dari.stream(QUESTION, timeout_s=20 * QUICK_S)) for _ in range(3)]
    before_postgres.forward()
    for each in told:
        assert each.turn.answered_by == pb.ANSWERER_FLOWISE
        assert pb.DEGRADED_REASON_NOT_STORED in each.turn.degraded_reasons
    until(lambda: list(dari.ask("hi").degraded_reasons) == [])
    for each in told:
        until(lambda turn=each.turn: [one.answer for one in stored_turns(dari, turn)] == [turn.answer])  # type: ignore[misc]
