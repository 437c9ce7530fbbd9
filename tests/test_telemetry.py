"""What a server tells by its metrics: of calls, turns, attempts, uploads, sources, the database and itself."""

import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from dari.adapters.local_model.model_files import ModelFile
from dari.adapters.telemetry import families as f
from dari.server import AddressInUse
from dari.v1 import chat_pb2, mapping_pb2
from tests.fix_server import ServedDari, StartServer
from tests.flowise_stand_in import StandIn, answer, cut_after, openai_answer
from tests.support.metrics_page import page, samples, total, value
from tests.support.running_dari import seconds
from tests.support.waiting import until

SET_ASIDE = {
    # Made only where traces are on.
    f.SPANS.name,
    f.SPANS_EXPORTED.name,
}


@pytest.fixture
def served(start_server: StartServer, tmp_path: Path) -> ServedDari:
    return start_server(
        metrics_address="127.0.0.1:0",
        circuit_consecutive_failures=1,
        probe_interval_s=0.05,
        source_folders=[str(tmp_path)],
        sync_poll_interval_s=0.05,
    )


@pytest.fixture
def flowise() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


def now(served: ServedDari) -> str:
    return page(served.server.metrics_address)


def test_calls_are_counted_by_method_and_status(served: ServedDari) -> None:
    """With their durations; refusals by their reason; and a stream stays in flight, on a thread, until it ends."""
    with pytest.raises(grpc.RpcError):
        served.dari.mapping.GetAiModel(mapping_pb2.GetAiModelRequest(name="aiModels/none"))
    served.dari.make_knowledge_base("kb", "id\n1\n")
    text = now(served)
    assert value(text, f.RPC_DURATION, "_count", method="dari.v1.MappingService/GetAiModel", code="NOT_FOUND") == 1
    assert value(text, f.RPC_DURATION, "_sum", method="dari.v1.IngestService/Ingest", code="OK") > 0
    assert value(text, f.RPC_REFUSALS, reason="NOT_FOUND", code="NOT_FOUND") == 1
    opened = served.dari.chat.WatchUpstreams(chat_pb2.WatchUpstreamsRequest())
    next(opened)
    text = now(served)
    assert value(text, f.RPC_IN_FLIGHT, method="dari.v1.ChatService/WatchUpstreams") == 1
    assert value(text, f.LANE_CALLS, kind="watch") == 1
    assert value(text, f.LANE_LIMIT, kind="watch") == 16
    opened.cancel()
    until(lambda: value(now(served), f.LANE_CALLS, kind="watch") == 0)


def test_turns_and_attempts_are_counted_by_kind(served: ServedDari, flowise: StandIn) -> None:
    """Who answered, how soon, how degraded; what each model did; and the circuits that this left."""
    dari = served.dari
    with StandIn() as server:
        server.always(openai_answer("yes"))
        flowise.script(answer("yes"), cut_after())
        dari.make_flowise("flow", flowise.url)
        dari.make_openai("server", server.url)
        dari.make_chat("bot", "flow", "server")
        for _ in range(3):
            dari.ask("question")
    text = now(served)
    assert samples(text)[f.TURNS.name] == {
        (("answered_by", "FLOWISE"), ("degraded", "false")): 1,
        (("answered_by", "OPENAI_COMPATIBLE"), ("degraded", "true")): 2,
    }
    assert value(text, f.TURNS_DEGRADED, reason="STAND_IN") == 2
    assert value(text, f.TURN_FIRST_TOKEN, "_count", answered_by="OPENAI_COMPATIBLE") == 2
    assert value(text, f.ATTEMPTS, kind="FLOWISE", outcome="ANSWERED", cause="") == 1
    assert value(text, f.ATTEMPTS, kind="FLOWISE", outcome="FAILED", cause="stream_cut") == 1
    assert value(text, f.ATTEMPTS, kind="FLOWISE", outcome="SKIPPED", cause="circuit_open") == 1
    assert value(text, f.ATTEMPT_FIRST_TOKEN, "_count", kind="OPENAI_COMPATIBLE") == 2
    assert value(text, f.ATTEMPT_DURATION, "_count", kind="FLOWISE", outcome="SKIPPED") == 0
    circuits = samples(text)[f.CIRCUITS.name]
    assert sum(number for labels, number in circuits.items() if ("of", "ai_model") in labels) == 2
    until(lambda: value(now(served), f.PROBES, outcome="answers") >= 1)


def test_a_turn_that_nobody_answers_is_counted_by_its_reason(served: ServedDari, flowise: StandIn) -> None:
    """With the attempts that it made."""
    flowise.always(cut_after())
    served.dari.make_flowise("flow", flowise.url)
    served.dari.make_chat("bot", "flow")
    with pytest.raises(grpc.RpcError):
        served.dari.ask("question")
    until(lambda: value(now(served), f.TURNS_UNANSWERED, reason="UNAVAILABLE") == 1)
    assert value(now(served), f.ATTEMPTS, kind="FLOWISE", outcome="FAILED", cause="stream_cut") >= 1


def test_uploads_and_syncs_are_counted(served: ServedDari, tmp_path: Path) -> None:
    """Bytes, rows, rejected rows; the steps with their times; a source that cannot be read, and how all sources are."""
    csv = "id,name\n1,a\n2,b,c,d\n"
    served.dari.make_knowledge_base("kb", csv)
    text = now(served)
    assert value(text, f.INGEST_BYTES) == len(csv)
    assert total(text, f.INGEST_ROWS) == 2
    assert value(text, f.PARSE_DURATION, "_count") >= 1
    for step in ("batch", "copy", "publish"):
        assert value(text, f.STEP_DURATION, "_count", step=step, outcome="ok") >= 1, step
    assert (value(text, f.OPEN_UPLOADS), value(text, f.MAX_UPLOADS)) == (0, 16)
    until(lambda: value(now(served), f.HOUSEKEEPING_TIME) > 0)
    source = mapping_pb2.KnowledgeBaseSource(uri=f"file://{tmp_path}/none.csv", interval=seconds(3600))
    served.dari.mapping.CreateKnowledgeBase(
        mapping_pb2.CreateKnowledgeBaseRequest(
            knowledge_base_id="synced", knowledge_base=mapping_pb2.KnowledgeBase(source=source)
        )
    )
    until(lambda: value(now(served), f.SYNCS, state="FAILED") == 1)
    assert value(now(served), f.STEP_DURATION, "_count", step="sync", outcome="ok") == 1


def test_every_family_of_the_table_is_on_the_page(served: ServedDari) -> None:
    """From the start, or as soon as there is something to count."""
    until(lambda: f.OUTBOX_MESSAGES.name in samples(now(served)))
    text = now(served)
    for family in f.FAMILIES:
        if family.name not in SET_ASIDE:
            assert f"# TYPE {family.name} " in text, family.name


def test_an_address_that_is_taken_is_named(start_server: StartServer) -> None:
    """As those of calls and of health are."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AddressInUse, match=address):
            start_server(metrics_address=address)


def test_the_process_of_the_local_model_is_told(
    start_server: StartServer, tmp_path: Path, default_model: ModelFile
) -> None:
    """Its state as one of all, its memory, and what waits."""
    (tmp_path / "models").symlink_to(default_model.path.parent)
    served = start_server(metrics_address="127.0.0.1:0", local_model=default_model.id)
    until(lambda: value(now(served), f.LOCAL_STATE, state="ready") == 1)
    text = now(served)
    assert total(text, f.LOCAL_STATE) == 1
    assert value(text, f.LOCAL_MEMORY) > 1024 * 1024
    assert value(text, f.LOCAL_RESTARTS) == value(text, f.LOCAL_QUEUE) == value(text, f.LOCAL_RUNNING) == 0
