"""What callers meet at the real Envoy: gRPC, gRPC-Web and JSON, and what it keeps from them and from dari."""

import json
import re
import shutil
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message

from dari.v1 import chat_pb2, ingest_pb2
from tests.faults.operation.loads import make_bot, question
from tests.fix_postgres import PostgresDsns, copied_database
from tests.flowise_stand_in import StandIn, answer, never_answer, stall_after
from tests.support.cluster import Cluster
from tests.support.running_dari import SOON_S, RunningDari, kinds_of, refusal
from tests.support.waiting import until

CANARY = "canary-7c3d"
MANUAL = Path(__file__).parents[3] / "docs" / "cluster.md"


@dataclass(frozen=True)
class Gateway:
    """A cluster with the chatbot `bot`."""

    cluster: Cluster
    dari: RunningDari
    http: httpx.Client
    flowise: StandIn

    def post(self, rpc: str, message: dict[str, object], **options: Any) -> httpx.Response:
        """An RPC as JSON."""
        return self.http.post(f"/dari.v1.{rpc}", json=message, **options)


@pytest.fixture(scope="module")
def started(
    postgres_server: PostgresDsns, migrated_template: PostgresDsns, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    with (
        copied_database(postgres_server, migrated_template) as dsns,
        StandIn() as flowise,
        Cluster(dsns, tmp_path_factory.mktemp("gateway"), log_level="debug") as cluster,
        RunningDari(cluster.address) as dari,
        httpx.Client(base_url=f"http://{cluster.address}", trust_env=False, timeout=SOON_S) as http,
    ):
        make_bot(dari, flowise, stall_timeout_s=SOON_S, first_token_timeout_s=SOON_S)
        yield Gateway(cluster, dari, http, flowise)


@pytest.fixture
def gateway(started: Gateway) -> Gateway:
    started.flowise.always(answer("Hello", " there"))
    return started


# JSON.


def test_a_call_in_json_is_answered_in_json(gateway: Gateway) -> None:
    answered = gateway.post("ChatService/Ask", {"chatConfiguration": "chatConfigurations/bot", "question": "LGA?"})
    assert answered.status_code == httpx.codes.OK
    turn = answered.json()["turn"]
    assert (turn["answer"], turn["answeredBy"]) == ("Hello there", "ANSWERER_FLOWISE")


def test_an_error_in_json_has_its_reason(gateway: Gateway) -> None:
    """With the status of HTTP that fits; what is wrong in a field is told by the field's name."""
    unknown = gateway.post("ChatService/Ask", {"chatConfiguration": "chatConfigurations/none", "question": "?"})
    assert unknown.status_code == httpx.codes.NOT_FOUND
    (info,) = unknown.json()["details"]
    assert (info["reason"], info["domain"]) == ("NOT_FOUND", "dari")
    wrong = gateway.post("ChatService/Ask", {"chatConfiguration": "chatConfigurations/bot"})
    assert wrong.status_code == httpx.codes.BAD_REQUEST
    assert "question" in json.dumps(wrong.json()["details"])


@pytest.mark.parametrize(
    ("rpc", "body", "status"),
    [
        ("ChatService/Nothing", "{}", httpx.codes.NOT_FOUND),
        ("ChatService/Ask", "{", httpx.codes.BAD_REQUEST),
        ("ChatService/Ask?question=LGA&token=x", "{}", httpx.codes.BAD_REQUEST),
        ("IngestService/Ingest", "{}", httpx.codes.UNSUPPORTED_MEDIA_TYPE),
    ],
)
def test_json_that_cannot_be_a_call_is_refused(gateway: Gateway, rpc: str, body: str, status: int) -> None:
    headers = {"content-type": "application/json"}
    refused = gateway.http.post(f"/dari.v1.{rpc}", content=body, headers=headers)
    assert refused.status_code == status
    assert refused.text


def test_a_stream_of_json_has_an_event_a_line_as_it_comes(gateway: Gateway) -> None:
    """The first token is read while the model still writes."""
    goes_on = threading.Event()
    gateway.flowise.always(answer("Hello", goes_on, " there"))
    events = []
    with gateway.http.stream("POST", "/dari.v1.ChatService/Chat", json=asking("LGA?")) as told:
        for line in told.iter_lines():
            if line:
                events.append(json.loads(line))
            if "token" in events[-1]:
                goes_on.set()
    kinds = [next(iter(event)) for event in events if "notice" not in event]
    assert kinds == ["started", "token", "token", "completed"]
    assert events[-1]["completed"]["turn"]["answer"] == "Hello there"


def test_a_stream_of_json_that_was_cut_never_says_completed(gateway: Gateway) -> None:
    """HTTP/1.1 has no place for a status behind the last line: `completed` is what tells a whole answer."""
    gateway.flowise.always(answer("Hello", threading.Event()))
    victim = None
    lines: list[str] = []
    try:
        with gateway.http.stream("POST", "/dari.v1.ChatService/Chat", json=asking("cut?")) as told:
            for line in told.iter_lines():
                lines += [line] if line else []
                if '"token"' in line:
                    (victim,) = (replica for replica in gateway.cluster.replicas if replica.address == serving(gateway))
                    victim.kill()
    except httpx.RemoteProtocolError as error:
        assert "incomplete" in str(error)  # noqa: PT017 - it may come or not
    finally:
        if victim is not None:
            victim.start()
            gateway.cluster.wait_until_whole()
    assert victim is not None
    assert [next(iter(json.loads(line))) for line in lines if line.startswith("{")] == ["started", "token"]


def asking(text: str) -> dict[str, object]:
    return {"chatConfiguration": "chatConfigurations/bot", "question": text}


def serving(gateway: Gateway) -> str:
    """The replica that a chat is under way on."""
    told = gateway.cluster.envoy.active_calls("dari_chat")
    (address,) = (address for address, calls in told.items() if calls)
    return address


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_lines_of_the_manual_work(gateway: Gateway) -> None:
    """Those of docs/cluster.md that `<!-- test: cluster -->` stands above, here without a token."""
    (lines,) = re.findall(r"<!-- test: cluster -->\n```sh\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    here = lines.replace("127.0.0.1:50051", gateway.cluster.address)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", here], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for told in ('"answer":"Hello there"', '{"started"', '{"completed"', "ICN", '"reason":"NOT_FOUND"'):
        assert told in done.stdout


# gRPC-Web.


def framed(message: Message) -> bytes:
    data = message.SerializeToString()
    return struct.pack(">BI", 0, len(data)) + data


def unframed(body: bytes) -> tuple[list[bytes], dict[str, str]]:
    """Messages, and what stands behind them."""
    messages, trailers = [], {}
    while body:
        flag, size = struct.unpack(">BI", body[:5])
        piece, body = body[5 : 5 + size], body[5 + size :]
        if flag & 0x80:
            trailers = dict(line.split(":", 1) for line in piece.decode().split("\r\n") if line)
        else:
            messages.append(piece)
    return messages, trailers


def post_web(gateway: Gateway, rpc: str, message: Message) -> httpx.Response:
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    return gateway.http.post(f"/dari.v1.{rpc}", content=framed(message), headers=headers)


def test_grpc_web_reads_a_stream_to_its_status(gateway: Gateway) -> None:
    request = chat_pb2.ChatRequest(chat_configuration="chatConfigurations/bot", question="LGA?")
    answered = post_web(gateway, "ChatService/Chat", request)
    messages, trailers = unframed(answered.content)
    events = [chat_pb2.ChatResponse.FromString(message) for message in messages]
    assert kinds_of(events) == ["started", "token", "completed"]
    assert trailers["grpc-status"].strip() == "0"


def test_grpc_web_is_told_what_is_wrong(gateway: Gateway) -> None:
    request = chat_pb2.AskRequest(chat_configuration="chatConfigurations/none", question="LGA?")
    answered = post_web(gateway, "ChatService/Ask", request)
    _, trailers = unframed(answered.content)
    status = trailers.get("grpc-status", answered.headers.get("grpc-status", ""))
    assert status.strip() == str(grpc.StatusCode.NOT_FOUND.value[0])


# gRPC.


def test_the_deadline_of_a_caller_reaches_dari(gateway: Gateway) -> None:
    """Which answers from the rows before it, since no model does; Envoy's own timers would not have let it."""
    gateway.flowise.always(never_answer())
    *_, last = gateway.dari.stream("Where is LGA?", timeout_s=3.0)
    assert last.completed.turn.answered_by == chat_pb2.ANSWERER_ROWS_ONLY


def test_a_caller_who_leaves_is_gone_for_flowise_too(gateway: Gateway) -> None:
    gateway.flowise.always(stall_after("Hello"))
    events = gateway.dari.stream("leaving?")
    assert [next(events).WhichOneof("event") for _ in range(2)] == ["started", "token"]
    events.cancel()
    until(gateway.flowise.questions[-1].hung_up.is_set)


def test_errors_of_dari_come_through_with_all_their_details(gateway: Gateway) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        gateway.dari.ask("?", chat="none")
    assert refusal(caught.value).reason == "NOT_FOUND"


def test_no_header_of_a_caller_makes_envoy_send_a_call_again(gateway: Gateway) -> None:
    """They would be Envoy's own: retry an upload, wait for ever, choose the replica."""
    headers = (
        ("x-envoy-retry-on", "5xx,reset,retriable-status-codes"),
        ("x-envoy-retry-grpc-on", "not-found,cancelled,unavailable,internal"),
        ("x-envoy-retriable-status-codes", "404"),
        ("x-envoy-max-retries", "5"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
    )
    before = gateway.cluster.envoy.counter("cluster.dari_chat.upstream_rq_total")
    request = chat_pb2.AskRequest(chat_configuration="chatConfigurations/none", question="?")
    with pytest.raises(grpc.RpcError) as caught:
        gateway.dari.chat.Ask(request, metadata=headers)
    assert refusal(caught.value).reason == "NOT_FOUND"
    assert gateway.cluster.envoy.counter("cluster.dari_chat.upstream_rq_total") == before + 1


def test_answers_tell_nothing_of_the_gateway(gateway: Gateway) -> None:
    answered = gateway.post("ChatService/Ask", asking("LGA?"))
    assert set(answered.headers) <= {
        "content-type", "content-length", "date", "grpc-status", "grpc-message", "grpc-accept-encoding",
    }  # fmt: skip


def test_the_admin_cannot_be_reached_by_callers(gateway: Gateway) -> None:
    """Nor past the listener of the statistics, which gives out those and nothing else."""
    for path in ("/stats/prometheus", "/quitquitquit", "/config_dump", "/ready"):
        assert gateway.http.get(path).status_code == httpx.codes.NOT_FOUND
    with httpx.Client(base_url=gateway.cluster.envoy.stats_url, trust_env=False) as stats:
        assert "envoy_cluster_upstream_rq_total" in stats.get("/stats/prometheus").text
        assert stats.get("/ready").status_code == httpx.codes.OK
        assert stats.post("/quitquitquit").status_code == httpx.codes.NOT_FOUND
        assert stats.get("/config_dump").status_code == httpx.codes.NOT_FOUND


def test_the_access_log_tells_of_calls_and_holds_no_word_of_them(gateway: Gateway) -> None:
    gateway.post("ChatService/Ask", asking(CANARY), headers={"authorization": f"Bearer {CANARY}", "user-agent": CANARY})
    gateway.http.post(f"/dari.v1.ChatService/Ask?question={CANARY}", json={})
    gateway.dari.ask(CANARY)
    log = gateway.cluster.envoy.log_file
    # Envoy writes its log every ten seconds, or as there is more of it.
    until(lambda: "ChatService/Ask" in log.read_text(), 2 * SOON_S)
    calls = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert {"rpc", "route", "grpc_status", "duration_ms", "replica", "request_id"} <= calls[0].keys()
    for file in gateway.cluster.logs():
        assert CANARY not in file.read_text()


def test_each_replica_gets_its_share(gateway: Gateway) -> None:
    before = gateway.cluster.envoy.calls("dari_chat")
    for number in range(40):
        gateway.dari.ask(question(number))
    after = gateway.cluster.envoy.calls("dari_chat")
    assert all(after[address] - before[address] >= 5 for address in before)


def test_reflection_lists_the_services(gateway: Gateway) -> None:
    """As grpcurl asks for it."""
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    stub = reflection_pb2_grpc.ServerReflectionStub(gateway.dari.channel)
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    (told,) = stub.ServerReflectionInfo(iter([ask]))
    assert "dari.v1.IngestService" in {service.name for service in told.list_services_response.service}


def test_an_upload_goes_through(gateway: Gateway) -> None:
    gateway.dari.make_knowledge_base("more", "a,b\n1,2\n")
    found = gateway.dari.ingest.Search(ingest_pb2.SearchRequest(knowledge_bases=["knowledgeBases/more"], query="2"))
    assert re.fullmatch("2", found.hits[0].cells[1].text)
