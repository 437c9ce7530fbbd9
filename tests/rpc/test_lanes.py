"""The first gate: how many calls of a kind may be under way, and what those hear who are beyond it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from dari.core.thread_pools import Lane
from dari.rpc.errors import ErrorInterceptor
from dari.rpc.lanes import Kind, LaneInterceptor, kind_of
from tests.support.event_log import RecordedEvents
from tests.support.every_rpc import methods, path_of
from tests.support.running_dari import SOON_S, refusal, status_of
from tests.support.waiting import until

SHORT, CHAT = "/dari.v1.ChatService/GetConversation", "/dari.v1.ChatService/Chat"
UPLOAD = "/dari.v1.IngestService/Ingest"


@dataclass
class Served:
    """A server whose handlers wait until they are told to go on."""

    lanes: dict[Kind, Lane]
    address: str
    channel: Any
    begun: SimpleQueue[str] = field(default_factory=SimpleQueue)
    ended: SimpleQueue[str] = field(default_factory=SimpleQueue)
    may_go_on: threading.Event = field(default_factory=threading.Event)

    def short(self, **options: Any) -> Any:
        return self.channel.unary_unary(SHORT).future(b"", timeout=SOON_S, **options)

    def chat(self) -> Any:
        return self.channel.unary_stream(CHAT)(b"", timeout=SOON_S)

    def upload(self) -> Any:
        return self.channel.stream_stream(UPLOAD)(iter(()), timeout=SOON_S)

    def is_empty(self) -> bool:
        return all(lane.under_way == 0 for lane in self.lanes.values())


@contextmanager
def served(limit: int, threads: int) -> Iterator[Served]:
    """So many short calls under way and as many threads for them; one chat and one upload."""
    lanes = {kind: Lane(1, f"max_{kind.value}s") for kind in Kind}
    lanes[Kind.UNARY] = Lane(limit, "max_unary_calls", threads=threads)

    def wait(name: str, context: grpc.ServicerContext) -> bytes:
        context.add_callback(lambda: here.ended.put(name))
        here.begun.put(name)
        assert here.may_go_on.wait(SOON_S)
        return b"done"

    def stream(name: str, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield wait(name, context)

    handlers: dict[str, Any] = {
        SHORT: grpc.unary_unary_rpc_method_handler(lambda request, context: wait("short", context)),
        CHAT: grpc.unary_stream_rpc_method_handler(lambda request, context: stream("chat", context)),
        UPLOAD: grpc.stream_stream_rpc_method_handler(lambda requests, context: stream("upload", context)),
    }
    server = grpc.server(
        ThreadPoolExecutor(1), interceptors=[LaneInterceptor(lanes), ErrorInterceptor(RecordedEvents())]
    )
    for path, handler in handlers.items():
        _, service, name = path.split("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        with grpc.insecure_channel(address) as channel:
            here = Served(lanes, address, channel)
            yield here
    finally:
        here.may_go_on.set()
        server.stop(None).wait()
        for lane in lanes.values():
            assert lane.has_ended_within(SOON_S)


def test_calls_beyond_the_limit_are_refused_while_the_others_wait_for_a_thread() -> None:
    """Two threads, four under way: two run, two wait; the fifth is refused. Then all four are answered."""
    with served(limit=4, threads=2) as here:
        calls = [here.short() for _ in range(4)]
        until(lambda: here.lanes[Kind.UNARY].under_way == 4)
        with pytest.raises(grpc.RpcError) as raised:
            here.short().result()
        assert status_of(raised.value) == "RESOURCE_EXHAUSTED"
        here.may_go_on.set()
        assert [call.result() for call in calls] == [b"done"] * 4
        until(here.is_empty)
        assert here.lanes[Kind.UNARY].refused == 1


def test_a_refusal_says_which_limit_and_when_to_come_again_in_two_ways_that_agree() -> None:
    """As ErrorInfo, as RetryInfo, and as the trailer that gRPC's own clients obey; and not the same to everyone."""
    with served(limit=1, threads=1) as here:
        first = here.short()
        until(lambda: here.lanes[Kind.UNARY].under_way == 1)
        delays = set()
        for _ in range(4):
            with pytest.raises(grpc.RpcError) as raised:
                here.short().result()
            refused = refusal(raised.value)
            assert (refused.reason, refused.metadata) == (
                "TOO_MANY_CALLS",
                {"limit": "max_unary_calls", "value": "1"},
            )
            told = dict(refused.trailers)["grpc-retry-pushback-ms"]
            assert round(retry_delay_s(raised.value) * 1_000) == int(told)
            assert 500 <= int(told) <= 1_500
            delays.add(told)
        assert len(delays) == 4
        here.may_go_on.set()
        assert first.result() == b"done"


@pytest.mark.parametrize("kind", [Kind.CHAT, Kind.UPLOAD])
def test_streams_are_refused_as_short_calls_are(kind: Kind) -> None:
    """Before the request is read; the other kinds have their own room."""
    with served(limit=1, threads=1) as here:
        call = here.chat if kind is Kind.CHAT else here.upload
        first = call()
        assert here.begun.get(timeout=SOON_S) == kind.value
        with pytest.raises(grpc.RpcError) as raised:
            next(call())
        assert refusal(raised.value).metadata["limit"] == f"max_{kind.value}s"
        short = here.short()
        assert here.begun.get(timeout=SOON_S) == "short"
        here.may_go_on.set()
        assert list(first) == [b"done"]
        assert short.result() == b"done"


def test_a_call_that_is_cancelled_before_it_began_gives_its_place_back() -> None:
    """Its handler never runs, so that no handler could; and one that is cancelled while it runs does too."""
    with served(limit=8, threads=1) as here:
        running = here.short()
        assert here.begun.get(timeout=SOON_S) == "short"
        waiting = [here.short() for _ in range(7)]
        until(lambda: here.lanes[Kind.UNARY].under_way == 8)
        for call in (*waiting, running):
            call.cancel()
        assert here.ended.get(timeout=SOON_S) == "short"
        here.may_go_on.set()
        until(here.is_empty)
        assert here.begun.qsize() < len(waiting)
        assert here.short().result() == b"done"


def test_a_gone_channel_gives_all_places_back() -> None:
    """The caller's process ended."""
    with served(limit=8, threads=2) as here:
        calls = [*(here.short() for _ in range(8)), here.chat(), here.upload()]
        until(lambda: sum(lane.under_way for lane in here.lanes.values()) == len(calls))
        here.channel.close()
        here.may_go_on.set()
        until(here.is_empty)


def test_a_client_with_a_retry_policy_comes_again_when_it_was_told_to() -> None:
    """GRPC's own client, which obeys the trailer: the call that was refused succeeds without its caller's doing."""
    policy = (
        '{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.01s",'
        ' "maxBackoff": "0.01s", "backoffMultiplier": 1, "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]}}]}'
    )
    with served(limit=1, threads=1) as here:
        first = here.short()
        assert here.begun.get(timeout=SOON_S) == "short"
        with grpc.insecure_channel(here.address, options=[("grpc.service_config", policy)]) as channel:
            retrying: Any = channel
            call = retrying.unary_unary(SHORT).future(b"", timeout=SOON_S)
            until(lambda: here.lanes[Kind.UNARY].refused >= 1)
            here.may_go_on.set()
            assert first.result() == b"done"
            assert call.result() == b"done"


def test_an_unknown_method_is_no_call_of_any_kind() -> None:
    with served(limit=1, threads=1) as here:
        with pytest.raises(grpc.RpcError) as raised:
            here.channel.unary_unary("/dari.v1.ChatService/NoSuch")(b"", timeout=SOON_S)
        assert status_of(raised.value) == "UNIMPLEMENTED"
        assert here.is_empty()


def test_every_stream_has_a_lane_of_its_own_kind() -> None:
    """A stream among the short calls would hold one of their few threads for as long as it likes."""
    for method in methods():
        is_stream = method.client_streaming or method.server_streaming
        assert not (is_stream and kind_of(path_of(method)) is Kind.UNARY), method.full_name


def retry_delay_s(error: grpc.RpcError) -> float:
    status = rpc_status.from_call(cast(grpc.Call, error))
    assert status is not None
    (info,) = (detail for detail in status.details if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR))
    told = error_details_pb2.RetryInfo()
    info.Unpack(told)
    return float(told.retry_delay.ToNanoseconds() / 1e9)
