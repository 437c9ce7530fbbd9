"""ChatService through a real channel: who answers when what breaks, and what the caller is told of it."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any, cast
from uuid import uuid4

import grpc
import psycopg2
import pytest

from dari.v1 import chat_pb2 as pb
from dari.v1 import mapping_pb2
from tests.fix_postgres import PostgresDsns
from tests.fix_server import StartServer
from tests.flowise_stand_in import (
    Piece,
    StandIn,
    answer,
    cut_after,
    headers_only,
    never_answer,
    openai_answer,
    response,
    stall_after,
)
from tests.rpc.conftest import StartDari
from tests.support.fault_proxy import FaultProxy
from tests.support.running_dari import (
    SOON_S,
    RunningDari,
    attempts_of,
    conversation_of,
    kind_of,
    kinds_of,
    notices_in,
    refusal,
    seconds,
    text_of,
)

AIRPORTS = 'faa,name,city\nLGA,"La Guardia, NY",New York\nICN,인천 국제공항,서울\nSFO,San Francisco,San Francisco\n'


@pytest.fixture
def bot(dari: RunningDari, flowise: StandIn, openai: StandIn) -> RunningDari:
    """`bot` asks `flow`, then `server`, over `airports`; both see it."""
    return made_bot(dari, flowise, openai)


def made_bot(dari: RunningDari, flowise: StandIn, openai: StandIn) -> RunningDari:
    openai.always(openai_answer("stand-in"))
    dari.make_flowise("flow", flowise.url, first_token_timeout_s=0.3, stall_timeout_s=0.3)
    dari.make_openai("server", openai.url)
    dari.make_knowledge_base("airports", AIRPORTS)
    dari.make_chat("bot", "flow", "server", over=("airports",))
    return dari


def test_a_healthy_chain_streams_its_first_models_answer(bot: RunningDari, flowise: StandIn) -> None:
    """Started, the tokens as they came, completed: who answered, over which rows, nothing degraded."""
    flowise.script(answer("LGA is La ", "Guardia"))
    events = list(bot.stream("Where is LGA?"))
    assert kinds_of(events) == ["started", "token", "token", "completed"]
    turn = events[-1].completed.turn
    assert events[0].started.turn == turn.name
    assert turn.answer == text_of(events) == "LGA is La Guardia"
    assert turn.state == pb.TURN_STATE_COMPLETED
    assert (turn.answered_by, turn.ai_model) == (pb.ANSWERER_FLOWISE, "aiModels/flow")
    assert attempts_of(turn) == [("flow", "ANSWERED", "")]
    assert turn.attempts[0].HasField("first_token_duration")
    assert not turn.degraded
    (citation,) = turn.citations
    assert (citation.number, citation.knowledge_base, citation.version) == (1, "knowledgeBases/airports", 1)
    assert 0 < citation.version_time.ToNanoseconds() <= turn.create_time.ToNanoseconds()
    assert list(citation.used_cells) == [0], "the code, and not the whole name"
    assert [(cell.column, cell.text) for cell in citation.cells][:2] == [("faa", "LGA"), ("name", "La Guardia, NY")]
    assert "[1] airports: faa=LGA; name=La Guardia, NY; city=New York" in flowise.questions[0].json["question"]


def test_a_missing_secret_is_misconfigured_and_never_named_to_the_caller(
    dari: RunningDari, flowise: StandIn, openai: StandIn
) -> None:
    """Keys are references; one that the settings lack costs one attempt."""
    openai.always(openai_answer("ok"))
    dari.make_flowise("flow", flowise.url, secret="nobody-has-it")
    dari.make_openai("server", openai.url)
    dari.make_chat("bot", "flow", "server")
    assert attempts_of(dari.ask("hi")) == [("flow", "MISCONFIGURED", "unknown_secret"), ("server", "ANSWERED", "")]
    assert flowise.requests == []


def test_a_secret_is_sent_to_its_server_and_shown_to_nobody(start_dari: StartDari, flowise: StandIn) -> None:
    """The mapping holds its name only."""
    dari = start_dari(secrets={"main": "k3y-value"})
    dari.make_flowise("flow", flowise.url, secret="main")
    dari.make_chat("bot", "flow")
    dari.ask("hi")
    assert flowise.questions[0].headers["authorization"] == "Bearer k3y-value"
    shown = dari.mapping.GetAiModel(mapping_pb2.GetAiModelRequest(name="aiModels/flow"))
    assert shown.ai_model.flowise.api_key_secret == "main"
    assert "k3y-value" not in str(shown)


def test_a_race_answers_by_whoever_writes_first(dari: RunningDari, flowise: StandIn, openai: StandIn) -> None:
    """C2: a Flowise that hangs costs the time until its stand-by is asked, and not its own timers'."""
    flowise.always(headers_only())
    openai.always(openai_answer("stand-in"))
    dari.make_flowise("flow", flowise.url, first_token_timeout_s=SOON_S)
    dari.make_openai("server", openai.url)
    dari.make_chat("bot", "flow", "server")
    dari.stand_by("bot", mapping_pb2.STAND_BY_RACE, after_s=0.05)
    turn = dari.ask("hi")
    assert (turn.answer, turn.ai_model, turn.degraded) == ("stand-in", "aiModels/server", True)
    outcomes = [(attempt.outcome, attempt.code) for attempt in turn.attempts]
    assert outcomes == [(pb.ATTEMPT_OUTCOME_OUTRUN, "outrun"), (pb.ATTEMPT_OUTCOME_ANSWERED, "")]
    assert flowise.wait_for_questions(1).hung_up.wait(SOON_S)


def test_a_warm_stand_by_answers_only_where_the_first_model_fails(
    dari: RunningDari, flowise: StandIn, openai: StandIn
) -> None:
    """It has begun by then; an answer of the first model is not degraded by it."""
    go_on = threading.Event()
    flowise.script(answer(go_on, "slow"), stall_after())
    openai.always(openai_answer("ready"))
    dari.make_flowise("flow", flowise.url, first_token_timeout_s=1.0)
    dari.make_openai("server", openai.url)
    dari.make_chat("bot", "flow", "server")
    dari.stand_by("bot", mapping_pb2.STAND_BY_WARM, after_s=0.05)
    with ThreadPoolExecutor(1) as executor:
        asked = executor.submit(dari.ask, "hi")
        openai.wait_for_questions(1)
        go_on.set()
        turn = asked.result(SOON_S)
    assert (turn.answer, turn.degraded) == ("slow", False)
    assert turn.attempts[1].code == "not_needed"
    assert dari.ask("hi").answer == "ready"


def test_a_flowise_that_hangs_is_left_by_the_first_events_timer(
    start_dari: StartDari, flowise: StandIn, openai: StandIn
) -> None:
    """C2: it takes the question and sends no header; that is the server's failure, whatever its flow."""
    dari = start_dari(first_event_timeout_s=0.1)
    flowise.script(answer("warm"))
    flowise.always(never_answer())
    openai.always(openai_answer("stand-in"))
    dari.make_flowise("flow", flowise.url, first_token_timeout_s=SOON_S)
    dari.make_openai("server", openai.url)
    dari.make_chat("bot", "flow", "server")
    assert dari.ask("hi").answer == "warm"
    turn = dari.ask("hi")
    assert turn.answer == "stand-in"
    assert [attempt.code for attempt in turn.attempts] == ["first_event_timeout", ""]


def test_an_unknown_choice_for_interruptions_is_refused(bot: RunningDari) -> None:
    """Not taken for another one."""
    with pytest.raises(grpc.RpcError) as caught:
        list(bot.stream("hi", on_interruption=cast(Any, 9)))
    assert refusal(caught.value).fields == ("on_interruption",)


def test_no_model_answers_in_korean_when_asked_in_korean(bot: RunningDari, flowise: StandIn, openai: StandIn) -> None:
    """C10: the rows themselves, in the language of the question, marked as such."""
    flowise.stop()
    openai.stop()
    korean = bot.ask("인천 공항은 어느 도시에 있나요?")
    assert korean.answered_by == pb.ANSWERER_ROWS_ONLY
    assert korean.ai_model == ""
    assert korean.answer.startswith("지금은 답변할 수 있는 AI 모델이 없어")
    assert "질문과 관련된 행을 ‘airports’(20" in korean.answer  # noqa: RUF001 - Korean quotes
    assert "[1] faa: ICN · name: 인천 국제공항 · city: 서울" in korean.answer
    assert list(korean.citations[0].used_cells) == [0, 1, 2]
    assert list(korean.degraded_reasons) == [pb.DEGRADED_REASON_ROWS_ONLY]
    assert [citation.cells[0].text for citation in korean.citations][:1] == ["ICN"]
    assert attempts_of(korean) == [
        ("flow", "FAILED", "connection_refused"),
        ("server", "FAILED", "connection_refused"),
    ]
    english = bot.ask("Where is La Guardia?")
    assert english.answer.startswith("No AI model can answer at the moment, so here is what the data says: I found")
    assert "La Guardia, NY" in english.answer
    nothing = bot.ask("zzz qqq")
    assert nothing.answer.startswith(
        "No AI model can answer at the moment, and no row of the linked data fits this question. You can ask about:\n"
    )
    assert "with faa, name and city" in nothing.answer
    assert not nothing.citations


def test_a_configuration_without_models_answers_with_rows(dari: RunningDari) -> None:
    """An empty chain is no error where there is data."""
    dari.make_knowledge_base("airports", AIRPORTS)
    dari.make_chat("bot", over=("airports",))
    turn = dari.ask("SFO?")
    assert (turn.answered_by, attempts_of(turn)) == (pb.ANSWERER_ROWS_ONLY, [])


QUICK = {"probe_interval_s": 0.05, "connect_timeout_s": 0.1, "circuit_ramp_s": 0.1}
LONG_OPEN = {"circuit_open_s": 600, "circuit_consecutive_failures": 1}


@pytest.mark.parametrize(("fault", "code"), [("killed", "stream_cut"), ("frozen", "stall_timeout")])
def test_a_flow_is_tried_again_as_soon_as_its_server_is_back(
    start_dari: StartDari, flowise: StandIn, openai: StandIn, fault: str, code: str
) -> None:
    """C4: the stream that was cut, or stalled, opened the flow's own circuit for ten minutes; a probe sees the rest."""
    with FaultProxy(("127.0.0.1", flowise.port)) as proxy:
        dari = start_dari(**QUICK, **LONG_OPEN)
        openai.always(openai_answer("stand-in"))
        dari.make_flowise("flow", f"http://{proxy.address}", stall_timeout_s=0.3)
        dari.make_openai("server", openai.url)
        dari.make_chat("bot", "flow", "server")
        flowise.script(stall_after("Half"))
        with watching(dari) as changes:
            assert next(changes) == []
            call = dari.stream("hi")
            assert kind_of(next(each for each in call if kind_of(each) != "started")) == "token"
            flowise.stop() if fault == "killed" else proxy.swallow()
            assert list(call)[-1].completed.turn.answer == "stand-in"
            opened = next(told for told in changes if state_of(told, "flow") == pb.CIRCUIT_STATE_OPEN)
            assert [each.last_failure_code for each in opened if each.ai_model == "aiModels/flow"] == [code]
            assert attempts_of(dari.ask("hi"))[0] == ("flow", "SKIPPED", "circuit_open")
            wait_for_a_probe_that_failed(proxy)
            flowise.start() if fault == "killed" else proxy.forward()
            assert next(told for told in changes if state_of(told, "flow") == pb.CIRCUIT_STATE_HALF_OPEN)
        assert dari.ask("hi").answered_by == pb.ANSWERER_FLOWISE


def wait_for_a_probe_that_failed(proxy: FaultProxy) -> None:
    """One begins only when the one before has ended: wait for the second from now on."""
    seen = proxy.attempts
    wait_until(lambda: proxy.attempts >= seen + 2)


@contextmanager
def watching(dari: RunningDari) -> Iterator[Iterator[list[pb.Upstream]]]:
    """What WatchUpstreams tells, message by message."""
    call = dari.chat.WatchUpstreams(pb.WatchUpstreamsRequest(), timeout=SOON_S)
    try:
        yield (list(message.upstreams) for message in call)
    finally:
        call.cancel()


def state_of(told: list[pb.Upstream], id: str) -> "pb.CircuitState.ValueType | None":
    return {each.ai_model: each.circuit_state for each in told}.get(f"aiModels/{id}")


def test_upstreams_are_watched_as_they_change(start_dari: StartDari, flowise: StandIn, openai: StandIn) -> None:
    """All first; then who was asked, who failed, who was taken out; turns that go well change nothing."""
    dari = made_bot(start_dari(circuit_consecutive_failures=1, probe_interval_s=86_400), flowise, openai)
    dari.ask("hi")
    with watching(dari) as changes:
        assert [state_of(told, "flow") for told in [next(changes)]] == [pb.CIRCUIT_STATE_CLOSED]
        for _ in range(3):
            dari.ask("hi")
        dari.chat.DrainUpstream(pb.DrainUpstreamRequest(ai_model="aiModels/flow"))
        assert [(each.ai_model, each.circuit_state) for each in next(changes)] == [
            ("aiModels/flow", pb.CIRCUIT_STATE_DRAINED)
        ]
        dari.ask("hi")
        assert [each.ai_model for each in next(changes)] == ["aiModels/server"]
        openai.stop()
        with suppress(grpc.RpcError):
            dari.ask("hi")
        (failed,) = next(changes)
        assert (failed.ai_model, failed.last_failure_code) == ("aiModels/server", "connection_refused")


def test_watchers_of_upstreams_share_their_places_with_those_of_uploads(start_dari: StartDari) -> None:
    """One that leaves makes room at once; the server's end lets the last one go."""
    dari = start_dari(max_watchers=1)
    with watching(dari) as changes:
        assert next(changes) == []
        with pytest.raises(grpc.RpcError) as caught, watching(dari) as more:
            next(more)
        assert refusal(caught.value).metadata == {"limit": "max_watchers", "value": "1"}
    wait_until(partial(is_let_in, dari))


def is_let_in(dari: RunningDari) -> bool:
    with suppress(grpc.RpcError), watching(dari) as changes:
        return next(changes) == []
    return False


def test_watchers_of_upstreams_are_let_go_when_the_server_stops(start_server: StartServer) -> None:
    served = start_server()
    with watching(served.dari) as changes:
        assert next(changes) == []
        stopping = threading.Thread(target=served.server.stop)
        stopping.start()
        with pytest.raises(grpc.RpcError) as caught:
            next(changes)
        assert refusal(caught.value).metadata == {"neighbour": "server"}
        stopping.join()


LANGUAGES = [
    # question, accept-language, whether the notice is Korean
    ("Where is LGA?", "", False),
    ("LGA 공항은 어디?", "", True),
    ("Where is LGA?", "ko-KR, en;q=0.5", True),
    ("LGA 공항은 어디?", "fr, en;q=0.5", False),
    ("LGA 공항은 어디?", "ko_KR;;, fr", True),
]


@pytest.mark.parametrize(("question", "accept_language", "is_korean"), LANGUAGES)
def test_notices_are_told_in_the_callers_language(
    bot: RunningDari, flowise: StandIn, question: str, accept_language: str, is_korean: bool
) -> None:
    """Before the stand-in's first token, in the completed turn, when asked whole, and when the turn is read again."""
    flowise.stop()
    events = list(bot.stream(question, accept_language=accept_language))
    kinds = [kind_of(each) for each in events]
    assert kinds.index("notice") < kinds.index("token")
    told = notices_in(events)
    assert told[0].kind == pb.NOTICE_KIND_STAND_IN
    assert any("가" <= letter <= "힣" for letter in told[0].text) == is_korean
    turn = events[-1].completed.turn
    assert list(turn.notices) == told
    assert list(bot.ask(question, accept_language=accept_language).notices) == told
    (stored,) = bot.turns(conversation_of(turn), accept_language)
    assert list(stored.notices) == told


def test_an_answer_that_stays_cut_is_told_to_its_reader(bot: RunningDari, flowise: StandIn) -> None:
    """C4, STOP: behind the half answer and before the error, and again when the turn is read."""
    flowise.script(cut_after("Half ", "an"))
    call = bot.stream("Where is LGA?", on_interruption=pb.ON_INTERRUPTION_STOP)
    events: list[pb.ChatResponse] = []
    with pytest.raises(grpc.RpcError):
        events.extend(call)
    assert [notice.kind for notice in notices_in(events[-1:])] == [pb.NOTICE_KIND_INCOMPLETE]
    (turn,) = bot.turns(events[0].started.conversation)
    assert list(turn.notices) == notices_in(events)


def test_a_turn_that_is_sent_again_has_its_notices(bot: RunningDari, flowise: StandIn) -> None:
    """In the language of whoever asks again."""
    flowise.stop()
    request_id = uuid4()
    turn = bot.ask("hi", request_id=request_id)
    again = list(bot.stream("hi", request_id=request_id, accept_language="ko"))
    assert kinds_of(again) == ["started", "token", "completed"]
    assert [notice.kind for notice in notices_in(again)] == [notice.kind for notice in turn.notices]
    assert list(again[-1].completed.turn.notices) == notices_in(again) != list(turn.notices)


def test_an_operator_takes_a_model_out_and_back_in(start_dari: StartDari, flowise: StandIn, openai: StandIn) -> None:
    """Drained, it is passed by although it lives; reset, the next question is its own."""
    dari = made_bot(start_dari(), flowise, openai)
    assert dari.ask("hi").answered_by == pb.ANSWERER_FLOWISE
    drained = dari.chat.DrainUpstream(pb.DrainUpstreamRequest(ai_model="aiModels/flow")).upstream
    assert drained.circuit_state == pb.CIRCUIT_STATE_DRAINED
    assert attempts_of(dari.ask("hi"))[0] == ("flow", "SKIPPED", "circuit_open")
    reset = dari.chat.ResetUpstream(pb.ResetUpstreamRequest(ai_model="aiModels/flow")).upstream
    assert (reset.circuit_state, reset.failure_rate) == (pb.CIRCUIT_STATE_CLOSED, 0.0)
    assert dari.ask("hi").answered_by == pb.ANSWERER_FLOWISE


def test_a_reset_asks_a_model_that_is_left_alone_at_once(
    start_dari: StartDari, flowise: StandIn, openai: StandIn
) -> None:
    """Whoever has mended it need not wait for the circuit."""
    patient = {"circuit_open_s": 600, "circuit_consecutive_failures": 1, "probe_interval_s": 86_400}
    dari = made_bot(start_dari(**patient), flowise, openai)
    flowise.stop()
    dari.ask("hi")
    flowise.start()
    assert attempts_of(dari.ask("hi"))[0] == ("flow", "SKIPPED", "circuit_open")
    dari.chat.ResetUpstream(pb.ResetUpstreamRequest(ai_model="aiModels/flow"))
    assert dari.ask("hi").answered_by == pb.ANSWERER_FLOWISE


@pytest.mark.parametrize("name", ["aiModels/nobody", "flow", ""])
def test_only_models_that_were_asked_can_be_taken_out(dari: RunningDari, name: str) -> None:
    """Another replica's, or none at all."""
    calls: list[Callable[[], object]] = [
        lambda: dari.chat.DrainUpstream(pb.DrainUpstreamRequest(ai_model=name)),
        lambda: dari.chat.ResetUpstream(pb.ResetUpstreamRequest(ai_model=name)),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert refusal(caught.value).status == ("NOT_FOUND" if name.startswith("aiModels/") else "INVALID_ARGUMENT")


def test_a_caller_who_reads_slowly_trips_no_timer(dari: RunningDari, flowise: StandIn) -> None:
    """The model's total is what the model took; a caller who does not read holds the stream back."""
    dari.make_flowise("flow", flowise.url, stall_timeout_s=0.3, total_timeout_s=0.8, first_token_timeout_s=0.8)
    dari.make_chat("bot", "flow")
    big = "x" * 40_000 + " "
    flowise.script(answer(*[big] * 6))
    call = dari.stream("hi")
    assert kind_of(next(call)) == "started"
    assert kind_of(next(call)) == "token"
    time.sleep(1.5)  # longer than every timer of the model
    rest = list(call)
    assert [kind_of(each) for each in rest] == ["token"] * 5 + ["completed"]


def test_a_turn_is_answered_once_for_its_request_id(bot: RunningDari, flowise: StandIn) -> None:
    """The stored turn comes again, in the same form, and no model is asked."""
    flowise.script(answer("first ", "answer"))
    request_id = uuid4()
    first = bot.ask("Where is LGA?", request_id=request_id)
    again = list(bot.stream("Where is LGA?", request_id=request_id))
    assert kinds_of(again) == ["started", "token", "completed"]
    assert again[-1].completed.turn == first
    assert text_of(again) == "first answer"
    in_conversation = bot.ask("Where is LGA?", request_id=request_id, conversation=conversation_of(first))
    assert in_conversation == first
    assert len(flowise.questions) == 1
    with pytest.raises(grpc.RpcError) as caught:
        bot.ask("Where is SFO?", request_id=request_id)
    told = refusal(caught.value)
    assert (told.status, told.fields) == ("INVALID_ARGUMENT", ("request_id",))


def test_of_two_turns_with_one_request_id_at_once_one_is_answered(bot: RunningDari, flowise: StandIn) -> None:
    """The other is told to wait, and gets the same turn afterwards."""
    go_on = threading.Event()
    flowise.always(answer("one", go_on))
    bot.mapping.UpdateAiModel(
        mapping_pb2.UpdateAiModelRequest(
            ai_model=mapping_pb2.AiModel(name="aiModels/flow", stall_timeout=seconds(SOON_S))
        )
    )
    request_id = uuid4()

    def ask() -> pb.Turn | str:
        try:
            return bot.ask("hi", request_id=request_id)
        except grpc.RpcError as error:
            go_on.set()
            return refusal(error).reason

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: ask(), range(8)))
    turns = [result for result in results if isinstance(result, pb.Turn)]
    assert turns
    assert all(turn == turns[0] for turn in turns)
    assert {result for result in results if isinstance(result, str)} <= {"TURN_IN_PROGRESS"}
    assert len(flowise.questions) == 1
    assert bot.ask("hi", request_id=request_id) == turns[0]


def test_an_incomplete_turn_is_begun_again_under_its_request_id(bot: RunningDari, flowise: StandIn) -> None:
    """The same turn, with a whole answer and the attempts of the second try only."""
    flowise.script(never_answer())
    bot.mapping.UpdateAiModel(
        mapping_pb2.UpdateAiModelRequest(
            ai_model=mapping_pb2.AiModel(name="aiModels/flow", first_token_timeout=seconds(60.0))
        )
    )
    request_id = uuid4()
    call = bot.stream("hi", request_id=request_id)
    started = next(call).started
    flowise.wait_for_questions(1)
    call.cancel()
    wait_until(partial(is_incomplete, bot, started.conversation))
    flowise.script(answer("whole"))
    turn = bot.ask("hi", request_id=request_id)
    assert (turn.name, turn.answer) == (started.turn, "whole")
    assert attempts_of(turn) == [("flow", "ANSWERED", "")]


def test_flowise_gets_the_conversation_from_dari_and_each_turn_once(
    bot: RunningDari, flowise: StandIn, openai: StandIn
) -> None:
    """Turns that another model answered are told too; nothing is left to Flowise's memory, so nothing comes twice."""
    flowise.script(answer("A1"))
    conversation = conversation_of(bot.ask("Q1"))
    flowise.script(cut_after("never heard"))
    openai.script(openai_answer("A2"))
    bot.ask("Q2", conversation=conversation)
    flowise.script(answer("A3"))
    bot.ask("Q3", conversation=conversation)
    flowise.script(answer("A4"))
    bot.ask("Q4", conversation=conversation)
    bodies = [question.json for question in flowise.questions]
    told = [[(message["role"], message["content"]) for message in body.get("history", [])] for body in bodies]
    first, second, third = ([("userMessage", f"Q{number}"), ("apiMessage", f"A{number}")] for number in (1, 2, 3))
    assert told == [[], first, [*first, *second], [*first, *second, *third]]
    assert len({body["chatId"] for body in bodies}) == 4
    assert not any("overrideConfig" in body for body in bodies)
    system, *messages = openai.questions[0].json["messages"]
    assert system["role"] == "system"
    assert [message["content"] for message in messages] == ["Q1", "A1", "Q2"]


def test_a_local_model_that_is_not_there_is_passed(dari: RunningDari, flowise: StandIn) -> None:
    """The server runs without one; the chain says so and goes on."""
    dari.make_local("local")
    dari.make_flowise("flow", flowise.url)
    dari.make_chat("bot", "local", "flow")
    turn = dari.ask("hi")
    assert attempts_of(turn) == [("local", "MISCONFIGURED", "no_local_model"), ("flow", "ANSWERED", "")]
    assert turn.attempts[0].answerer == pb.ANSWERER_LOCAL
    assert [each.ai_model for each in upstreams(dari)] == ["aiModels/flow", "aiModels/local"]


def test_upstreams_are_told_once_they_were_asked(bot: RunningDari) -> None:
    """The first model answers; the one behind it was not asked."""
    assert upstreams(bot) == []
    bot.ask("hi")
    assert [(each.ai_model, each.circuit_state) for each in upstreams(bot)] == [
        ("aiModels/flow", pb.CIRCUIT_STATE_CLOSED)
    ]


def test_a_question_that_is_too_long_for_one_model_is_put_to_the_next(
    bot: RunningDari, flowise: StandIn, openai: StandIn
) -> None:
    """C6: another one may hold more. Where none does, the caller is told, though there are rows to answer from."""
    too_long = response(413, '{"message":"request entity too large"}')
    flowise.always(too_long)
    turn = bot.ask("hi")
    assert (turn.answer, turn.ai_model) == ("stand-in", "aiModels/server")
    assert [attempt.code for attempt in turn.attempts] == ["question_too_long", ""]
    openai.always(too_long)
    with pytest.raises(grpc.RpcError) as caught:
        bot.ask("hi")
    told = refusal(caught.value)
    assert (told.status, told.fields) == ("INVALID_ARGUMENT", ("question",))


WRONG_REQUESTS: list[tuple[str, pb.AskRequest, str, str]] = [
    ("no question", pb.AskRequest(chat_configuration="chatConfigurations/bot"), "INVALID_ARGUMENT", "question"),
    (
        "blanks",
        pb.AskRequest(chat_configuration="chatConfigurations/bot", question=" \n\u3000"),
        "INVALID_ARGUMENT",
        "question",
    ),
    (
        "NUL",
        pb.AskRequest(chat_configuration="chatConfigurations/bot", question="a\0b"),
        "INVALID_ARGUMENT",
        "question",
    ),
    (
        "too long",
        pb.AskRequest(chat_configuration="chatConfigurations/bot", question="가" * 10_923),
        "INVALID_ARGUMENT",
        "question",
    ),
    ("no configuration", pb.AskRequest(question="hi"), "INVALID_ARGUMENT", "chat_configuration"),
    ("a bare id", pb.AskRequest(chat_configuration="bot", question="hi"), "INVALID_ARGUMENT", "chat_configuration"),
    (
        "a conversation that is no UUID",
        pb.AskRequest(chat_configuration="chatConfigurations/bot", question="hi", conversation="conversations/1"),
        "INVALID_ARGUMENT",
        "conversation",
    ),
    (
        "a request_id that is no UUID",
        pb.AskRequest(chat_configuration="chatConfigurations/bot", question="hi", request_id="once"),
        "INVALID_ARGUMENT",
        "request_id",
    ),
    ("no such bot", pb.AskRequest(chat_configuration="chatConfigurations/no", question="hi"), "NOT_FOUND", ""),
    (
        "no such conversation",
        pb.AskRequest(
            chat_configuration="chatConfigurations/bot", question="hi", conversation=f"conversations/{uuid4()}"
        ),
        "NOT_FOUND",
        "",
    ),
]


def test_wrong_requests_are_told_by_field(dari: RunningDari) -> None:
    """Nothing that a caller can write is INTERNAL."""
    dari.make_chat("bot")
    for name, request, status, field in WRONG_REQUESTS:
        with pytest.raises(grpc.RpcError) as caught:
            dari.chat.Ask(request)
        told = refusal(caught.value)
        assert (told.status, told.fields) == (status, (field,) if field else ()), name
    assert not dari.chat.ListConversations(pb.ListConversationsRequest()).conversations


def test_a_conversation_belongs_to_its_configuration(bot: RunningDari) -> None:
    """Another chatbot may have other data."""
    bot.make_chat("other", "flow")
    conversation = conversation_of(bot.ask("hi"))
    with pytest.raises(grpc.RpcError) as caught:
        bot.ask("hi", chat="other", conversation=conversation)
    assert refusal(caught.value).fields == ("conversation",)


def test_conversations_and_turns_come_in_pages(bot: RunningDari) -> None:
    """Newest conversation first, oldest turn first, each once; then a conversation goes with its turns."""
    conversations = [conversation_of(bot.ask("Q1")) for _ in range(3)]
    for question in ("Q2", "Q3"):
        bot.ask(question, conversation=conversations[1])
    assert [each.name for each in all_conversations(bot, page_size=2)] == conversations[::-1]
    assert list(all_conversations(bot, page_size=2, chat_configuration="chatConfigurations/none")) == []
    found = bot.chat.GetConversation(pb.GetConversationRequest(name=conversations[1])).conversation
    assert (found.turn_count, found.chat_configuration) == (3, "chatConfigurations/bot")
    questions, token = [], ""
    while True:
        page = bot.chat.ListTurns(pb.ListTurnsRequest(conversation=conversations[1], page_size=2, page_token=token))
        questions += [turn.question for turn in page.turns]
        token = page.next_page_token
        if not token:
            break
    assert questions == ["Q1", "Q2", "Q3"]
    bot.chat.DeleteConversation(pb.DeleteConversationRequest(name=conversations[1]))
    for call in (
        lambda: bot.turns(conversations[1]),
        lambda: bot.chat.GetConversation(pb.GetConversationRequest(name=conversations[1])),
        lambda: bot.chat.DeleteConversation(pb.DeleteConversationRequest(name=conversations[1])),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert refusal(caught.value).status == "NOT_FOUND"


def test_a_conversation_that_is_deleted_while_it_is_answered_never_ends_well(
    bot: RunningDari, flowise: StandIn
) -> None:
    """There is no turn left to tell."""
    go_on = threading.Event()
    flowise.script(answer("a", go_on, "b"))
    call = bot.stream("hi")
    started = next(call).started
    assert kind_of(next(call)) == "token"
    bot.chat.DeleteConversation(pb.DeleteConversationRequest(name=started.conversation))
    go_on.set()
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert refusal(caught.value).status == "NOT_FOUND"


def test_a_configuration_that_is_deleted_leaves_its_conversations(bot: RunningDari) -> None:
    """They can be read, and say that it is gone."""
    turn = bot.ask("hi")
    bot.mapping.DeleteChatConfiguration(
        mapping_pb2.DeleteChatConfigurationRequest(name="chatConfigurations/bot", force=True)
    )
    conversation = bot.chat.GetConversation(pb.GetConversationRequest(name=conversation_of(turn))).conversation
    assert conversation.chat_configuration == ""
    assert bot.turns(conversation.name) == [turn]


def test_a_long_answer_over_long_cells_reaches_a_caller_with_default_limits(
    dari: RunningDari, flowise: StandIn
) -> None:
    """A row of a megabyte is cited by its beginning, told to the model by less, and shown in lines."""
    cell = "가나다 " * 60_000
    dari.make_knowledge_base("big", "name,text\n" + "".join(f"여행 {n},{cell}\n" for n in range(6)))
    dari.make_flowise("flow", flowise.url)
    dari.make_chat("bot", "flow", over=("big",))
    pieces: list[Piece] = ["긴 답 " * 5_000] * 5
    flowise.script(answer(*pieces))
    turn = dari.ask("여행?")
    assert turn.answer == "".join(map(str, pieces))
    assert 0 < len(turn.citations) <= 8
    assert turn.ByteSize() < 2 * 1024 * 1024
    assert all(len(each.cells[1].text) < 20_000 and each.cells[1].text.endswith("…") for each in turn.citations)
    assert len(flowise.questions[0].json["question"]) < 5_000
    flowise.stop()
    assert len(dari.ask("여행?").answer) < 10_000


def test_an_answer_without_an_end_is_cut_off(bot: RunningDari, flowise: StandIn) -> None:
    """A model that does not stop is a model that failed."""
    flowise.script(answer(*["lorem ipsum " * 5_000] * 10))
    turn = bot.ask("hi")
    assert attempts_of(turn)[0] == ("flow", "FAILED", "answer_too_long")
    assert turn.answer == "stand-in"


def test_data_that_cannot_be_read_is_told_and_the_model_answers_without(
    bot: RunningDari, flowise: StandIn, openai: StandIn, database: PostgresDsns
) -> None:
    """The rows are gone from under the version; the mapping is not."""
    with closing(psycopg2.connect(database.admin_dsn)) as session, session, session.cursor() as cur:
        cur.execute("SELECT segment FROM dari.uploads")
        for (segment,) in cur.fetchall():
            cur.execute(f"DROP TABLE dari_rows.rows_{segment}, dari_rows.postings_{segment} CASCADE")
    flowise.script(answer("from memory"))
    turn = bot.ask("Where is LGA?")
    assert turn.answer == "from memory"
    assert list(turn.degraded_reasons) == [pb.DEGRADED_REASON_NO_DATA]
    assert "<rows>" not in flowise.questions[0].json["question"]
    assert "<data>" not in flowise.questions[0].json["question"]
    flowise.stop()
    openai.stop()
    with pytest.raises(grpc.RpcError) as caught:
        bot.ask("Where is LGA?")
    assert refusal(caught.value).status == "UNAVAILABLE"


def upstreams(dari: RunningDari) -> list[pb.Upstream]:
    return list(dari.chat.ListUpstreams(pb.ListUpstreamsRequest()).upstreams)


def all_conversations(dari: RunningDari, page_size: int, chat_configuration: str = "") -> Iterator[pb.Conversation]:
    token = ""
    while True:
        page = dari.chat.ListConversations(
            pb.ListConversationsRequest(page_size=page_size, page_token=token, chat_configuration=chat_configuration)
        )
        yield from page.conversations
        token = page.next_page_token
        if not token:
            return


def is_incomplete(dari: RunningDari, conversation: str) -> bool:
    return dari.turns(conversation)[0].state == pb.TURN_STATE_INCOMPLETE


def wait_until(fulfilled: Callable[[], bool]) -> None:
    """Ask until it is so: the server writes this down behind the caller's back."""
    until = time.monotonic() + SOON_S
    while not fulfilled():
        assert time.monotonic() < until
        time.sleep(0.01)
