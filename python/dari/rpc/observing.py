"""The outermost interceptor: gives every call its id, and counts, times, traces and logs its end.

Whatever runs inside, on the handler's thread and on those that work for it, logs under the ids of the call
(`core.event_context`); the gate and the handlers add who calls, and what it became.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from dari.core.event_context import new_work
from dari.core.event_log import EventLog
from dari.core.telemetry import Telemetry
from dari.rpc.request_ids import KEY, request_id
from dari.rpc.rewrapping import Behaviour, RewrappingInterceptor

_TRACEPARENT = "traceparent"
_OUR_FAULTS = ("INTERNAL", "UNKNOWN", "DATA_LOSS")
_CANCELLED = "CANCELLED"


class CallInterceptor(RewrappingInterceptor):
    """Stands around every other interceptor, so that it sees the status that the caller gets."""

    def __init__(self, telemetry: Telemetry, log: EventLog) -> None:
        super().__init__()
        self._telemetry = telemetry
        self._log = log

    def around_unary(self, method: str, behaviour: Behaviour) -> Behaviour:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            with self._observed(method[1:], context):
                return behaviour(request, context)

        return call

    def around_streaming(self, method: str, behaviour: Behaviour) -> Behaviour:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with self._observed(method[1:], context):
                yield from behaviour(request, context)

        return call

    @contextmanager
    def _observed(self, method: str, context: grpc.ServicerContext) -> Iterator[None]:
        metadata = context.invocation_metadata()
        id = request_id(metadata)
        context.set_trailing_metadata(((KEY, id),))
        traceparent = next((str(value) for key, value in metadata if key == _TRACEPARENT), "")
        with new_work(request_id=id, method=method) as ids:
            call = self._telemetry.call(method, traceparent)
            failed = True
            try:
                yield
                failed = False
            finally:
                status = _status(context, failed=failed)
                reason = ids.get("reason", "")
                duration_s = call.ended(status, reason, ids)
                tell = self._log.error if status in _OUR_FAULTS else self._log.info
                # By name, though they come with every event: a stream that was left may be closed by another thread.
                tell("call_ended", **ids, status=status, duration_s=round(duration_s, 6))


def _status(context: Any, *, failed: bool) -> str:
    """The name of the gRPC status that the caller gets."""
    code: grpc.StatusCode | None = context.code()
    if code is not None:
        return code.name
    # No status was set: it went well, or the caller has left and nobody was told anything.
    return _CANCELLED if failed or not context.is_active() else "OK"
