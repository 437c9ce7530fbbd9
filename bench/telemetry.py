"""Measures what telemetry costs a call: the same handler alone, and inside the interceptor that observes every call.

    python -m bench.telemetry
    python -m bench.telemetry --calls 20000

In this process and without a network, since a network's own time would hide it: the gRPC context is a stand-in that
does as little. Each case in turn in every round: counted only, with its log line written to /dev/null, and with a span
that is sampled (queued for a collector that refuses), which a call pays only where traces are on.

The last line on stdout is one JSON object; the table before it is for people.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import grpc

from bench.ingest import machine
from dari.adapters.telemetry.metrics import Metrics
from dari.adapters.telemetry.observed import Observed
from dari.adapters.telemetry.tracing import OtlpTracer
from dari.core.event_log import EventLog
from dari.core.telemetry import NO_TELEMETRY, Step, Telemetry
from dari.logs import make_log
from dari.rpc.observing import CallInterceptor

_ROUNDS = 20
_METHOD = "/dari.v1.ChatService/Ask"
_METADATA = (("user-agent", "bench"), ("x-request-id", "7f0cf6a4-52dc-4b5d-9f9d-a1b7ae0c2d11"))


class Context:
    """What the interceptor asks of gRPC's context."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return _METADATA

    def set_trailing_metadata(self, metadata: object) -> None: ...

    def code(self) -> None:
        return None

    def is_active(self) -> bool:
        return True


def echo(request: bytes, context: object) -> bytes:
    """The handler."""
    return request


def observed_call(telemetry: Telemetry, log: EventLog) -> Callable[[], object]:
    """One unary call through the interceptor, as a server's thread makes it."""
    handler: Any = grpc.unary_unary_rpc_method_handler(echo)
    details: Any = type("Details", (), {"method": _METHOD})
    interceptor, context = CallInterceptor(telemetry, log), Context()

    def call() -> object:
        wrapped: Any = interceptor.intercept_service(lambda _: handler, details)
        return wrapped.unary_unary(b"", context)

    return call


def step(telemetry: Telemetry) -> Callable[[], object]:
    """One step, such as a look at the mapping."""

    def take() -> None:
        with telemetry.step(Step.MAPPING, chat_configuration="bot"):
            pass

    return take


@contextmanager
def cases() -> Iterator[dict[str, Callable[[], object]]]:
    """What is timed, by name."""
    with Path("/dev/null").open("w") as nowhere, redirect_stderr(nowhere):
        quiet, loud = make_log("error", "json"), make_log("info", "json")
        metrics = Metrics(quiet)
        counted = Observed(metrics, None)
        tracer = OtlpTracer(
            "http://127.0.0.1:1",
            {},
            sample_ratio=1.0,
            version="bench",
            instance="bench",
            on_span=lambda: None,
            on_exported=lambda count, was_taken: None,
        )
        traced = Observed(Metrics(quiet), tracer)
        try:
            yield {
                "the handler alone": lambda: echo(b"", None),
                "call, no telemetry": observed_call(NO_TELEMETRY, quiet),
                "call, counted": observed_call(counted, quiet),
                "call, counted and logged": observed_call(counted, loud),
                "call, counted, logged and traced": observed_call(traced, loud),
                "step, counted": step(counted),
                "step, counted and traced": step(traced),
            }
        finally:
            tracer.close()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Measure what telemetry costs a call.")
    parser.add_argument("--calls", type=int, default=100_000)
    options = parser.parse_args()
    each = max(1, options.calls // _ROUNDS)
    measured: dict[str, list[float]] = {}
    with cases() as timed:
        for _ in range(_ROUNDS):
            for name, call in timed.items():
                began_s = time.perf_counter()
                for _ in range(each):
                    call()
                measured.setdefault(name, []).append((time.perf_counter() - began_s) / each * 1e6)
    microseconds = {
        name: {"median": round(statistics.median(values), 2), "least": round(min(values), 2)}
        for name, values in measured.items()
    }
    for name, values in microseconds.items():
        print(f"{name:36} median {values['median']:7.2f} µs   least {values['least']:7.2f} µs")
    print(json.dumps({"machine": machine(), "calls": options.calls, "microseconds": microseconds}))


if __name__ == "__main__":
    main()
