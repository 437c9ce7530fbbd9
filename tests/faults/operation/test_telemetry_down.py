"""O5: with the collector of traces gone, hung or slow, or with nobody who scrapes, no call is slower and none fails.

Another server over the same database, which traces nothing, is called in the same rounds: both see the same machine.
How notifications get over such a time is in tests/core/test_alert_dispatch.py and tests/rpc/test_alerts.py.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from dari.adapters.telemetry.families import SPANS, SPANS_EXPORTED
from dari.adapters.telemetry.metrics import Metrics
from dari.adapters.telemetry.observed import Observed
from dari.adapters.telemetry.tracing import MAX_QUEUED_SPANS, SEND_TIMEOUT_S, OtlpTracer
from dari.core.telemetry import Step
from dari.v1 import mapping_pb2
from tests.fix_server import StartServer
from tests.flowise_stand_in import StandIn, answer
from tests.support.collector import Collector
from tests.support.event_log import RecordedEvents
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.metrics_page import page, total, value
from tests.support.running_dari import SOON_S, RunningDari
from tests.support.waiting import until

CALLS = 40
SDK_PATIENCE_S = 30.0
"""How long the SDK would wait at the end by itself."""

FAULTS: dict[str, Callable[[FaultProxy], None]] = {
    "refuses": lambda proxy: proxy.redirect(("127.0.0.1", 1)),
    "is a black hole": FaultProxy.swallow,
    "is slow": lambda proxy: proxy.to_target.set(Fault(bytes_per_s=2_000.0, latency_s=0.2)),
}


@contextmanager
def broken_collector(fault: Callable[[FaultProxy], None]) -> Iterator[tuple[Collector, FaultProxy]]:
    with Collector() as collector, FaultProxy(("127.0.0.1", collector.port)) as proxy:
        fault(proxy)
        yield collector, proxy
        proxy.forward()


def call(dari: RunningDari) -> float:
    """Seconds of a call of each kind, a turn among them."""
    began_s = time.perf_counter()
    dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())
    assert dari.ask("question").answer == "yes"
    return time.perf_counter() - began_s


@pytest.mark.parametrize("fault", FAULTS)
def test_a_collector_that_is_not_well_costs_no_call_anything(start_server: StartServer, fault: str) -> None:
    """No call fails, waits for it, or takes twice as long as without; no thread is left, and the end comes soon."""
    with broken_collector(FAULTS[fault]) as (_, proxy), StandIn() as flowise:
        flowise.always(answer("yes"))
        traced = start_server(otlp_endpoint=f"http://{proxy.address}", metrics_address="127.0.0.1:0")
        bare = start_server()
        bare.dari.make_flowise("flow", flowise.url)
        bare.dari.make_chat("bot", "flow")
        for dari in (traced.dari, bare.dari):
            call(dari)
        threads = threading.active_count()
        seen = [(call(traced.dari), call(bare.dari)) for _ in range(CALLS)]
        # The fastest tells what a call costs on a machine that does other things too; the slowest, whether one waited.
        with_traces_s, without_s = map(min, zip(*seen, strict=True))
        assert with_traces_s < 2 * without_s, seen
        assert max(seen)[0] < SEND_TIMEOUT_S, seen
        # As before, but for threads that serve calls, which come as they are needed.
        assert threading.active_count() <= threads + 8
        assert total(page(traced.server.metrics_address), SPANS) >= 6 * CALLS
        began_s = time.monotonic()
        assert traced.server.stop()
        assert time.monotonic() - began_s < SDK_PATIENCE_S / 2


def test_spans_come_again_when_the_collector_does(start_server: StartServer) -> None:
    """Those from before were lost, and are counted; nothing has to be started again."""
    with broken_collector(FAULTS["refuses"]) as (collector, proxy):
        served = start_server(otlp_endpoint=f"http://{proxy.address}", metrics_address="127.0.0.1:0")
        served.dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())
        until(lambda: value(page(served.server.metrics_address), SPANS_EXPORTED, outcome="lost") >= 1)
        assert collector.spans() == []
        proxy.redirect(("127.0.0.1", collector.port))

        def arrives() -> bool:
            served.dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())
            time.sleep(0.05)
            return bool(collector.spans())

        until(arrives)


def test_what_waits_for_a_collector_is_bounded() -> None:
    """Whoever ends spans finds the queue full, and waits for nobody."""
    ended = [0]

    def count() -> None:
        ended[0] += 1

    with broken_collector(FAULTS["is a black hole"]) as (_, proxy):
        tracer = OtlpTracer(
            f"http://{proxy.address}",
            {},
            sample_ratio=1.0,
            version="test",
            instance="test",
            on_span=count,
            on_exported=lambda spans, was_taken: None,
        )
        for _ in range(3 * MAX_QUEUED_SPANS):
            tracer.begin_step(Step.MAPPING, {}).end("")
        (processor,) = tracer._provider._active_span_processor._span_processors
        waiting = len(processor._batch_processor._queue)  # type: ignore[attr-defined]
        assert 0 < waiting <= MAX_QUEUED_SPANS
        assert ended == [3 * MAX_QUEUED_SPANS]
        tracer.close()


def test_metrics_that_nobody_scrapes_do_not_grow() -> None:
    """What is kept are numbers, as many as there are values of labels."""
    metrics = Metrics(RecordedEvents())
    observed = Observed(metrics, None)

    def work() -> None:
        for _ in range(1_000):
            observed.call("dari.v1.ChatService/Ask", "").ended("OK", "", {})
            observed.batch_stored(1, 1, 0)
            with observed.step(Step.COPY, rows=1):
                pass

    def size() -> int:
        return sum(len(family.samples) for family in metrics.registry.collect())

    work()
    before = size()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON_S)
    assert size() == before
