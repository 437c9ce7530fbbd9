"""C9: a caller who leaves, at whatever moment, takes everything along: connection, thread, slot; and proves nothing."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import psycopg2
import pytest

from dari.v1 import chat_pb2 as pb
from tests.faults.chat.conftest import AIRPORTS, CANARY, PATIENT_S, QUESTION, StartDari
from tests.fix_postgres import PostgresDsns
from tests.flowise_stand_in import (
    Play,
    StandIn,
    answer,
    headers_only,
    heartbeats_only,
    never_answer,
    openai_answer,
    openai_stall_after,
    stall_after,
)
from tests.support.busy_threads import threads_in, wait_until_no_call_is_served
from tests.support.chatting import wait_until_incomplete
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.running_dari import SOON_S, RunningDari, attempts_of, kind_of
from tests.support.waiting import until

THREADS = 4
CALLERS = THREADS + 2
"""More than there are threads: one that is not given back is missed."""


@dataclass(frozen=True)
class Moment:
    """What the upstream does, and the event of the stream behind which its caller leaves."""

    make: Callable[[RunningDari, str], None]
    play: Play
    leaves_behind: str


def make_flowise(dari: RunningDari, url: str) -> None:
    dari.make_flowise("model", url, secret="key", first_token_timeout_s=PATIENT_S, stall_timeout_s=PATIENT_S)


def make_openai(dari: RunningDari, url: str) -> None:
    dari.make_openai("model", url, first_token_timeout_s=PATIENT_S, stall_timeout_s=PATIENT_S)


MOMENTS = {
    "Flowise before its headers": Moment(make_flowise, never_answer(), "started"),
    "Flowise before its first token": Moment(make_flowise, headers_only(), "started"),
    "Flowise between heartbeats": Moment(make_flowise, heartbeats_only(), "started"),
    "Flowise in mid-stream": Moment(make_flowise, stall_after("Half ", CANARY), "token"),
    "a server before its headers": Moment(make_openai, never_answer(), "started"),
    "a server before its first token": Moment(make_openai, openai_stall_after(), "started"),
    "a server in mid-stream": Moment(make_openai, openai_stall_after("Half ", CANARY), "token"),
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_a_caller_who_leaves_frees_connection_and_thread(
    start_dari: StartDari, flowise: StandIn, moment: Moment
) -> None:
    """The turn is INCOMPLETE, and the circuit, which one failure would open, learns nothing."""
    dari = start_dari(max_chats=THREADS, circuit_consecutive_failures=1)
    moment.make(dari, flowise.url)
    dari.make_chat("bot", "model")
    flowise.always(moment.play)
    for number in range(1, CALLERS + 1):
        call = dari.stream(QUESTION)
        conversation = next(each for each in call if kind_of(each) == "started").started.conversation
        asked = flowise.wait_for_questions(number)
        if moment.leaves_behind == "token":
            assert kind_of(next(call)) == "token"
        call.cancel()
        assert asked.hung_up.wait(SOON_S)
        turn = wait_until_incomplete(dari, conversation)
        assert attempts_of(turn) == [("model", "CANCELLED", "caller_left")]
        assert turn.answer == ""
    wait_until_no_call_is_served()
    (upstream,) = dari.chat.ListUpstreams(pb.ListUpstreamsRequest()).upstreams
    assert (upstream.consecutive_failures, upstream.circuit_state) == (0, pb.CIRCUIT_STATE_CLOSED)
    flowise.always(openai_answer("well") if moment.make is make_openai else answer("well"))
    assert dari.ask(QUESTION).answer == "well"


def test_a_caller_who_leaves_a_network_that_swallows_all_bytes_frees_the_thread(
    start_dari: StartDari, before_flowise: FaultProxy
) -> None:
    """Nothing will ever come on that connection, not even its end."""
    dari = start_dari(max_chats=THREADS)
    make_flowise(dari, f"http://{before_flowise.address}")
    dari.make_chat("bot", "model")
    before_flowise.to_target.set(Fault(swallows=True))
    for _ in range(CALLERS):
        call = dari.stream(QUESTION)
        assert kind_of(next(call)) == "started"
        call.cancel()
    wait_until_no_call_is_served()


@pytest.mark.parametrize("leaves_behind", ["started", "token"])
def test_a_caller_who_leaves_frees_the_local_model(start_local: StartDari, leaves_behind: str) -> None:
    """While it reads the prompt, and while it writes: with no room to wait, the next caller is answered by it."""
    dari = start_local(max_chats=THREADS, local_queue_size=0)
    dari.make_knowledge_base("airports", AIRPORTS)
    dari.make_chat("bot", "local", over=("airports",))
    dari.ask("Hello?")  # It is loaded now.
    for _ in range(2):
        call = dari.stream(f"Where is LGA? {CANARY} " * 5, timeout_s=PATIENT_S)
        conversation = next(each for each in call if kind_of(each) == "started").started.conversation
        if leaves_behind == "token":
            assert kind_of(next(call)) == "token"
        else:
            until(lambda: threads_in("local_model/questions.py") == 1)
        call.cancel()
        assert attempts_of(wait_until_incomplete(dari, conversation)) == [("local", "CANCELLED", "caller_left")]
        wait_until_no_call_is_served()
        until(lambda: dari.ask("Hi?").ai_model == "aiModels/local")


def test_a_caller_who_leaves_while_rows_are_searched_frees_the_thread(
    start_dari: StartDari, flowise: StandIn, database: PostgresDsns
) -> None:
    """The search waits in the database, for a lock that somebody holds; no model is asked on its behalf."""
    dari = start_dari(max_chats=THREADS, database_statement_timeout_s=PATIENT_S)
    make_flowise(dari, flowise.url)
    dari.make_knowledge_base("airports", AIRPORTS)
    dari.make_chat("bot", "model", over=("airports",))
    with rows_locked(database):
        for number in range(CALLERS):
            call = dari.stream(QUESTION)
            conversation = next(each for each in call if kind_of(each) == "started").started.conversation
            until(lambda: waiting_sessions(database) == 1)
            call.cancel()
            assert attempts_of(wait_until_incomplete(dari, conversation)) == [], number
            wait_until_no_call_is_served()
            until(lambda: waiting_sessions(database) == 0)
    assert flowise.questions == []
    assert dari.ask(QUESTION).ai_model == "aiModels/model"


@contextmanager
def rows_locked(database: PostgresDsns) -> Iterator[None]:
    """Nobody can read a row meanwhile; all else of the database answers."""
    with closing(psycopg2.connect(database.admin_dsn)) as session, session.cursor() as cursor:
        cursor.execute("SELECT segment FROM dari.uploads")
        for (segment,) in cursor.fetchall():
            cursor.execute(
                f"LOCK TABLE dari_rows.rows_{segment}, dari_rows.postings_{segment} IN ACCESS EXCLUSIVE MODE"
            )
        yield


def waiting_sessions(database: PostgresDsns) -> int:
    """How many of dari's sessions wait for a lock."""
    with closing(psycopg2.connect(database.admin_dsn)) as session, session.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        ((count,),) = cursor.fetchall()
        return int(count)


def test_many_callers_who_leave_at_random_moments_leave_nothing_behind(
    start_dari: StartDari, make_bot: Callable[..., RunningDari], flowise: StandIn
) -> None:
    """Each behind another part of an answer that has not ended."""
    dari = make_bot(start_dari(max_chats=THREADS, circuit_consecutive_failures=1))
    go_on = threading.Event()
    flowise.always(answer(*(f"word{number} " for number in range(200)), go_on, "end"))
    for number in range(40):
        call = dari.stream(QUESTION)
        text = ""
        while f"word{number} " not in text:
            text += next(call).token.text
        call.cancel()
    wait_until_no_call_is_served()
    go_on.set()
    until(lambda: all(request.hung_up.is_set() for request in flowise.questions))
    assert dari.ask(QUESTION).ai_model == "aiModels/flow"
    assert threading.active_count() < 100
