"""What the limits cost a call: the lane's part on gRPC's serving thread, and the caller's on the call's own.

    python -m bench.limits

Beside the same without them, in the same run. The last line is one JSON object.
"""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from bench.ingest import machine, spread
from dari.core.caller_limits import CallerLimits
from dari.core.callers import Caller, Role
from dari.core.thread_pools import EndingPool, Lane
from dari.rpc.lanes import Kind, LaneInterceptor

_CALLS, _ROUNDS = 20_000, 7
_CALLER = Caller("somebody", "default", Role.READER)


class _Details(grpc.HandlerCallDetails):
    method = "/dari.v1.MappingService/GetAiModel"
    invocation_metadata = ()


def main() -> None:
    """Measure each part, and print it."""
    facts = machine()
    unlimited = CallerLimits(at_once=None, per_s=None, burst=1)
    limited = CallerLimits(at_once=1_000, per_s=1e9, burst=1_000)
    results = {
        "lane": [with_lane - without for with_lane, without in zip(_us(_lane), _us(_no_lane), strict=True)],
        "refusal_decided": _us(_full_lane),
        "caller_without_limits": _us(lambda calls: _call_of(unlimited, calls)),
        "caller_with_limits": _us(lambda calls: _call_of(limited, calls)),
    }
    costs = {name: spread(rounds) for name, rounds in results.items()}
    for name, cost_us in costs.items():
        print(f"{name:24s} {cost_us['median']:6.2f} us ({cost_us['min']:.2f} to {cost_us['max']:.2f})")
    print(json.dumps({"machine": facts, "calls": _CALLS, "us_a_call": costs}))


def _us(work: Callable[[int], None]) -> list[float]:
    """Microseconds a call, of some rounds."""
    rounds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        work(_CALLS)
        rounds.append((time.perf_counter() - start) / _CALLS * 1e6)
    return rounds


def _handler(details: object) -> Any:
    """As the next interceptor gives it: around a function of this call alone."""
    del details
    return grpc.unary_unary_rpc_method_handler(lambda request, context: None)


def _lane(calls: int) -> None:
    lanes = {kind: Lane(2 * _CALLS, kind.value, threads=1) for kind in Kind}
    interceptor, details = LaneInterceptor(lanes), _Details()
    for _ in range(calls):
        handler: Any = interceptor.intercept_service(_handler, details)
        handler.unary_unary.experimental_thread_pool.submit(_nothing)
    for lane in lanes.values():
        lane.shutdown()


def _no_lane(calls: int) -> None:
    pool, details = EndingPool(1, "pool"), _Details()
    for _ in range(calls):
        _handler(details)
        pool.submit(_nothing)
    pool.shutdown()


def _full_lane(calls: int) -> None:
    lanes = {kind: Lane(1, kind.value) for kind in Kind}
    interceptor, details = LaneInterceptor(lanes), _Details()
    may_end = threading.Event()
    lanes[Kind.UNARY].submit(may_end.wait)
    for _ in range(calls):
        interceptor.intercept_service(_handler, details)
    may_end.set()


def _call_of(limits: CallerLimits, calls: int) -> None:
    for _ in range(calls):
        with limits.call_of(_CALLER):
            pass


def _nothing() -> None:
    pass


if __name__ == "__main__":
    main()
