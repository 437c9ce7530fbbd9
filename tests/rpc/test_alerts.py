"""Alerts through a whole server: what breaks reaches operators, and nobody who calls waits for that."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import grpc
import psycopg2
import pytest

from dari.settings import SettingsError
from dari.v1 import chat_pb2 as pb
from tests.fix_server import ServedDari, StartServer
from tests.flowise_stand_in import StandIn, answer, cut_after, openai_answer, refuse_flow
from tests.support.operators import Operators
from tests.support.running_dari import RunningDari
from tests.support.waiting import until

StartTelling = Callable[..., ServedDari]


@pytest.fixture
def operators() -> Iterator[Operators]:
    with Operators() as operators:
        yield operators


@pytest.fixture
def start_telling(start_server: StartServer, operators: Operators) -> StartTelling:
    """Start servers that tell the operators, and open a circuit at the first failure."""

    def start(**settings: object) -> ServedDari:
        return start_server(
            **{
                "notify_urls": {"ops": operators.url},
                "circuit_consecutive_failures": 1,
                "circuit_open_s": 0.2,
                "probe_interval_s": 0.1,
                **settings,
            }
        )

    return start


def made_bot(dari: RunningDari, flowise: StandIn, openai: StandIn) -> RunningDari:
    openai.always(openai_answer("stand-in"))
    dari.make_flowise("flow", flowise.url)
    dari.make_openai("server", openai.url)
    dari.make_chat("bot", "flow", "server")
    return dari


def test_a_dead_flowise_is_told_and_so_is_its_return(
    start_telling: StartTelling, operators: Operators, flowise: StandIn, openai: StandIn
) -> None:
    """As the server that it is: not once more for each of its flows."""
    bot = made_bot(start_telling().dari, flowise, openai)
    flowise.always(answer("La Guardia"))
    bot.ask("hi")
    flowise.stop()
    assert bot.ask("hi").answer == "stand-in"
    assert operators.wait_for(1) == [f"{flowise.url} fails"]
    assert "Cause: connection refused." in operators.bodies()[0]
    flowise.start()
    until(lambda: bot.ask("hi").answered_by == pb.ANSWERER_FLOWISE)
    assert operators.wait_for(2)[1:] == [f"{flowise.url} answers again"]


def test_a_flow_that_fails_on_a_server_that_answers_is_told_as_the_model_that_it_is(
    start_telling: StartTelling, operators: Operators, flowise: StandIn, openai: StandIn
) -> None:
    bot = made_bot(start_telling().dari, flowise, openai)
    flowise.always(cut_after())
    assert bot.ask("hi").answer == "stand-in"
    assert operators.wait_for(1) == ["aiModels/flow fails"]
    assert "Cause: stream cut." in operators.bodies()[0]


def test_a_wrong_key_is_told_once_however_many_turns_meet_it(
    start_telling: StartTelling, operators: Operators, flowise: StandIn, openai: StandIn
) -> None:
    served = start_telling()
    bot = made_bot(served.dari, flowise, openai)
    flowise.always(refuse_flow())
    for _ in range(5):
        assert bot.ask("hi").answer == "stand-in"
    operators.wait_for(1)
    until(lambda: _happened(served) == 5)
    assert operators.titles() == ["aiModels/flow cannot be asked as it is configured"]
    assert "Cause: flowise unauthorized." in operators.bodies()[0]


def _happened(served: ServedDari) -> int:
    """How often, by those that were told and those that are held back."""
    told = "SELECT coalesce(sum(1 + held_back), 0) FROM dari.alerts WHERE state = 'TOLD'"
    held = "SELECT coalesce(sum(held_back), 0) FROM dari.alert_matters"
    with closing(psycopg2.connect(served.dsns.admin_dsn)) as session, session.cursor() as cur:
        cur.execute(f"SELECT ({told}) + ({held})")
        ((times,),) = cur.fetchall()
        return int(times)


def test_a_chat_that_no_model_answers_is_told(
    start_telling: StartTelling, operators: Operators, flowise: StandIn
) -> None:
    dari = start_telling(circuit_consecutive_failures=100).dari
    flowise.stop()
    dari.make_flowise("flow", flowise.url)
    dari.make_knowledge_base("airports", "faa,name\nLGA,La Guardia\n")
    dari.make_chat("bot", "flow", over=("airports",))
    assert dari.ask("Where is LGA?").answered_by == pb.ANSWERER_ROWS_ONLY
    assert operators.wait_for(1) == ["no AI model answers for chatConfigurations/bot"]


def test_an_upload_that_fails_is_told_with_its_name_and_without_its_content(
    start_telling: StartTelling, operators: Operators
) -> None:
    served = start_telling()
    served.dari.make_knowledge_base("kb")
    refused = served.uploader.refused(b"canary,\0,name\n1,2,3\n", "daily-7")
    assert refused.reason == "MALFORMED_FILE"
    assert operators.wait_for(1) == ["an upload into knowledgeBases/kb failed"]
    (body,) = operators.bodies()
    assert "uploads/daily-7" in body
    assert "canary" not in body


def test_a_turn_completes_while_a_target_keeps_its_sender_waiting(
    start_telling: StartTelling, operators: Operators, flowise: StandIn, openai: StandIn
) -> None:
    """O5: nobody waits for those who are told, and they are told when they answer, once."""
    operators.hold()
    bot = made_bot(start_telling().dari, flowise, openai)
    flowise.always(refuse_flow())
    bot.ask("hi")
    assert operators.is_asked.wait(30.0)
    for _ in range(20):
        turn = bot.ask("hi")
        assert (turn.answer, turn.state) == ("stand-in", pb.TURN_STATE_COMPLETED)
    assert list(bot.stream("hi"))[-1].HasField("completed")
    with suppress(grpc.RpcError):
        bot.ask("hi", chat="none")
    operators.release()
    assert operators.wait_for(1) == ["aiModels/flow cannot be asked as it is configured"]


def test_a_server_stops_while_a_target_keeps_its_sender_waiting(
    start_telling: StartTelling, operators: Operators, flowise: StandIn, openai: StandIn
) -> None:
    operators.hold()
    served = start_telling()
    bot = made_bot(served.dari, flowise, openai)
    flowise.always(refuse_flow())
    bot.ask("hi")
    assert operators.is_asked.wait(30.0)
    assert served.server.stop()


def test_what_a_stopped_server_could_not_tell_is_told_by_the_next(
    start_telling: StartTelling, operators: Operators, flowise: StandIn, openai: StandIn
) -> None:
    """O5: the target was down, and is up again when there is another server."""
    first = start_telling()
    bot = made_bot(first.dari, flowise, openai)
    flowise.always(refuse_flow())
    operators.go_down()
    bot.ask("hi")
    operators.wait_for_refused(1)
    first.server.stop()
    assert operators.titles() == []
    operators.come_back()
    _make_due(first)
    start_telling()
    assert operators.wait_for(1) == ["aiModels/flow cannot be asked as it is configured"]


def _make_due(served: ServedDari) -> None:
    """Let the pause behind the failure be over."""
    with closing(psycopg2.connect(served.dsns.admin_dsn)) as session, session, session.cursor() as cur:
        cur.execute("UPDATE dari.alert_deliveries SET due_time = now()")


def test_a_url_that_fits_no_service_stops_the_start_and_is_not_shown(start_telling: StartTelling) -> None:
    with pytest.raises(SettingsError) as raised:
        start_telling(notify_urls={"ops": "canary://x", "pager": "json://127.0.0.1:1/"})
    assert raised.value.problems == ["notify_urls.ops: fits no service of apprise"]


def test_no_thread_is_left_behind_by_a_server_that_told(
    start_telling: StartTelling, operators: Operators, flowise: StandIn, openai: StandIn
) -> None:
    before = set(threading.enumerate())
    served = start_telling()
    bot = made_bot(served.dari, flowise, openai)
    flowise.always(refuse_flow())
    bot.ask("hi")
    operators.wait_for(1)
    assert served.server.stop()
    names = ("alerts", "upstream-alerts", "notify-ops")
    until(lambda: not any(thread.name in names for thread in set(threading.enumerate()) - before))
