"""What a collector gets: one trace a call, from the caller's span to each attempt and each COPY, and on to Flowise."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dari.v1 import chat_pb2, mapping_pb2
from tests.fix_server import ServedDari, StartServer
from tests.flowise_stand_in import StandIn, answer, cut_after, never_answer, openai_answer
from tests.support.collector import Collector, SpanSeen
from tests.support.running_dari import RunningDari, seconds

TRACE, CALLERS_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{CALLERS_SPAN}-01"
_SAMPLED_BIT = 1
UNSAMPLED = f"00-{TRACE}-{CALLERS_SPAN}-00"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def traced(start_server: StartServer, collector: Collector) -> ServedDari:
    return start_server(otlp_endpoint=collector.url, otlp_headers={"X-Key": "of the collector"})


@pytest.fixture
def flowise() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


def ask(dari: RunningDari, traceparent: str = SAMPLED) -> chat_pb2.Turn:
    request = chat_pb2.AskRequest(chat_configuration="chatConfigurations/bot", question="name a")
    metadata = (("traceparent", traceparent), ("x-request-id", "the-turn"))
    return dari.chat.Ask(request, metadata=metadata).turn


def call_of(spans: list[SpanSeen], method: str, trace: str = TRACE) -> SpanSeen | None:
    return next((span for span in spans if span.trace_id == trace and span.name == method), None)


def children(spans: list[SpanSeen], parent: SpanSeen) -> list[SpanSeen]:
    return [span for span in spans if span.parent_id == parent.span_id]


def test_a_turn_is_one_trace_from_the_caller_to_each_model(
    traced: ServedDari, collector: Collector, flowise: StandIn
) -> None:
    """Two models are asked, and each has the span of its own attempt as the parent of whatever it does."""
    dari = traced.dari
    with StandIn() as server:
        flowise.script(cut_after())
        server.always(openai_answer("yes"))
        dari.make_flowise("flow", flowise.url)
        dari.make_openai("server", server.url)
        dari.make_knowledge_base("kb", "id,name\n1,a\n")
        dari.make_chat("bot", "flow", "server", over=("kb",))
        turn = ask(dari)
        spans = collector.wait_for(lambda seen: call_of(seen, "dari.v1.ChatService/Ask") is not None)
        call = call_of(spans, "dari.v1.ChatService/Ask")
        assert call is not None
        told = [request.headers["traceparent"] for request in (*flowise.requests, *server.requests)]
    assert (call.kind, call.parent_id, call.is_error) == ("SERVER", CALLERS_SPAN, False)
    assert call.attributes == {
        "rpc.system": "grpc",
        "rpc.service": "dari.v1.ChatService",
        "rpc.method": "Ask",
        "dari.status": "OK",
        "dari.request_id": "the-turn",
        "dari.caller": "anyone",
        "dari.tenant": "default",
        "dari.turn": turn.name,
    }
    steps = children(spans, call)
    assert [step.name for step in steps] == [
        "mapping", "begin_turn", "retrieval", "chat flow", "chat server", "complete_turn",
    ]  # fmt: skip
    first, second = steps[3:5]
    assert (first.kind, first.is_error, first.attributes["error.type"]) == ("CLIENT", True, "stream_cut")
    assert not second.is_error
    assert second.attributes == second.attributes | {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai_compatible",
        "gen_ai.request.model": "server",
        "dari.outcome": "ANSWERED",
    }
    assert float(second.attributes["dari.first_token_s"]) > 0
    # The look-up of the flow, too.
    assert set(told) == {f"00-{TRACE}-{attempt.span_id}-01" for attempt in (first, second)}
    assert collector.metadata()[0]["x-key"] == "of the collector"


def test_a_model_that_stands_by_is_in_the_trace_of_its_turn(
    traced: ServedDari, collector: Collector, flowise: StandIn
) -> None:
    """Though it is asked on another thread; and the one that was too slow ends as what it is."""
    dari = traced.dari
    with StandIn() as server:
        flowise.always(never_answer())
        server.always(openai_answer("yes"))
        dari.make_flowise("flow", flowise.url)
        dari.make_openai("server", server.url)
        dari.make_chat("bot", "flow", "server")
        dari.stand_by("bot", mapping_pb2.STAND_BY_RACE, 0.05)
        ask(dari)
        spans = collector.wait_for(lambda seen: call_of(seen, "dari.v1.ChatService/Ask") is not None)
    call = call_of(spans, "dari.v1.ChatService/Ask")
    assert call is not None
    outcomes = {step.name: step.attributes.get("dari.outcome") for step in children(spans, call)}
    assert (outcomes["chat flow"], outcomes["chat server"]) == ("OUTRUN", "ANSWERED")


def test_an_upload_is_one_trace_down_to_each_copy(traced: ServedDari, collector: Collector) -> None:
    """Under the call; on the threads that store the batches too."""
    traced.dari.make_knowledge_base("kb", "id,name\n" + "".join(f"{row},{'x' * 90}\n" for row in range(3_000)))
    spans = collector.wait_for(lambda seen: any(span.name == "dari.v1.IngestService/Ingest" for span in seen))
    (call,) = (span for span in spans if span.name == "dari.v1.IngestService/Ingest")
    steps = children(spans, call)
    batches = [step for step in steps if step.name == "batch"]
    assert len(batches) > 2
    assert [step.name for step in steps if step not in batches] == ["publish"]
    assert sum(int(batch.attributes["dari.rows"]) for batch in batches) == 3_000
    # The last one may only tell that the file is at its end.
    copies = [child for batch in batches for child in children(spans, batch)]
    assert {copy.name for copy in copies} == {"copy"}
    assert sum(int(copy.attributes["dari.rows"]) for copy in copies) == 3_000


def test_a_sync_is_a_trace_of_its_own(start_server: StartServer, collector: Collector, tmp_path: Path) -> None:
    """No call began it; what it stores is under it."""
    (tmp_path / "rows.csv").write_text("id\n1\n")
    served = start_server(
        otlp_endpoint=collector.url, source_folders=[str(tmp_path)], sync_poll_interval_s=0.05, tenant="acme"
    )
    source = mapping_pb2.KnowledgeBaseSource(uri=f"file://{tmp_path}/rows.csv", interval=seconds(3_600))
    served.dari.mapping.CreateKnowledgeBase(
        mapping_pb2.CreateKnowledgeBaseRequest(
            knowledge_base_id="synced", knowledge_base=mapping_pb2.KnowledgeBase(source=source)
        )
    )
    spans = collector.wait_for(lambda seen: any(span.name == "sync" for span in seen))
    (sync,) = (span for span in spans if span.name == "sync")
    assert (sync.parent_id, sync.attributes["dari.state"], sync.attributes["dari.tenant"]) == ("", "COMPLETED", "acme")
    assert {step.name for step in children(spans, sync)} == {"batch", "publish"}
    assert all(step.trace_id == sync.trace_id for step in children(spans, sync))


def test_a_caller_decides_whether_its_call_is_traced(
    start_server: StartServer, collector: Collector, flowise: StandIn
) -> None:
    """By the sampled flag; the share of the settings is for those who do not say. Flowise is told either way."""
    dari = start_server(otlp_endpoint=collector.url, otlp_sample_ratio=0.0).dari
    flowise.always(answer("yes"))
    dari.make_flowise("flow", flowise.url)
    dari.make_chat("bot", "flow")
    for traceparent in (UNSAMPLED, "no traceparent", SAMPLED):
        ask(dari, traceparent)
    spans = collector.wait_for(lambda seen: call_of(seen, "dari.v1.ChatService/Ask") is not None)
    assert [span.name for span in spans].count("dari.v1.ChatService/Ask") == 1
    flags = [int(request.headers["traceparent"].rpartition("-")[2], 16) for request in flowise.questions]
    assert [flag & _SAMPLED_BIT for flag in flags] == [0, 0, 1]


def test_without_a_collector_nothing_is_traced(start_server: StartServer, flowise: StandIn) -> None:
    """Not even said to Flowise."""
    dari = start_server().dari
    dari.make_flowise("flow", flowise.url)
    dari.make_chat("bot", "flow")
    ask(dari)
    assert "traceparent" not in flowise.questions[0].headers
