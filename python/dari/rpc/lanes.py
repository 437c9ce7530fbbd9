"""The first gate of every call: how many of its kind may be under way.

It decides on gRPC's serving thread, before a call is queued, and costs some microseconds there. A call that finds room
goes to the threads of its lane (`core.thread_pools.Lane`). One that finds none is refused on the serving thread itself:
its request is not read, no thread is woken, and its answer was made before. So a server that is flooded with calls of
one kind has its threads for those that it took, and all of them for the other kinds.

gRPC's own `maximum_concurrent_rpcs` counts all kinds together, and refuses without a word of what to do.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from itertools import cycle
from typing import Any, cast

import grpc

from dari.core.errors import TooManyCalls
from dari.core.thread_pools import Lane, SameThread
from dari.rpc.errors import status_code, trailers_of


class Kind(Enum):
    """Calls that are limited together."""

    UNARY = "unary"
    """Short ones."""
    CHAT = "chat"
    UPLOAD = "upload"
    EXPORT = "export"
    WATCH = "watch"


_KINDS = {
    "/dari.v1.ChatService/Chat": Kind.CHAT,
    "/dari.v1.ChatService/Ask": Kind.CHAT,
    "/dari.v1.ChatService/WatchUpstreams": Kind.WATCH,
    "/dari.v1.IngestService/Ingest": Kind.UPLOAD,
    "/dari.v1.IngestService/WatchUpload": Kind.WATCH,
    "/dari.v1.IngestService/ExportRows": Kind.EXPORT,
    "/dari.v1.IngestService/ExportRejectedRows": Kind.EXPORT,
    # One answer, but it reads whole versions as exports do.
    "/dari.v1.MappingService/CompareVersions": Kind.EXPORT,
    # A stream, which its caller may leave open.
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Kind.WATCH,
}
"""Those that are not UNARY. A stream without a line here would take the threads of the short calls: a test looks."""

_SHORTEST_DELAY_S, _LONGEST_DELAY_S = 0.5, 1.5
"""When those who were refused are to come again. gRPC's clients wait exactly as long as they are told: told the same,
they would all come back at the same moment."""
_DELAYS = 16
_SAME_THREAD = SameThread(1)


class LaneInterceptor(grpc.ServerInterceptor):
    """Must stand before all others: gRPC reads the threads of a call off the function that comes out at the end."""

    def __init__(self, lanes: Mapping[Kind, Lane]) -> None:
        self.lanes = lanes
        self._lanes = {method: lanes[kind] for method, kind in _KINDS.items()}
        self._unary = lanes[Kind.UNARY]
        self._refusals = {lane: cycle(_refusals(lane)) for lane in lanes.values()}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "grpc.RpcMethodHandler[Any, Any] | None"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Name the threads of the call, or refuse it."""
        lane = self._lanes.get(handler_call_details.method, self._unary)
        if not lane.has_room():
            lane.count_refusal()
            return next(self._refusals[lane])
        handler = continuation(handler_call_details)
        if handler is not None:
            _run_in(lane, handler)
        return handler


def kind_of(method: str) -> Kind:
    """Of the RPC at this path."""
    return _KINDS.get(method, Kind.UNARY)


def _run_in(lane: Lane, handler: "grpc.RpcMethodHandler[Any, Any]") -> None:
    """Let gRPC run the call on these threads. The function is the method's own, from the interceptors within."""
    behaviour = cast(Any, handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream)
    # Read by grpc._server; in grpcio since 1.20 under this name.
    behaviour.experimental_thread_pool = lane


def _refusals(lane: Lane) -> "list[grpc.RpcMethodHandler[Any, Any]]":
    step_s = (_LONGEST_DELAY_S - _SHORTEST_DELAY_S) / (_DELAYS - 1)
    return [_refusal(lane, _SHORTEST_DELAY_S + number * step_s) for number in range(_DELAYS)]


def _refusal(lane: Lane, retry_delay_s: float) -> "grpc.RpcMethodHandler[Any, Any]":
    error = TooManyCalls.of(lane.limit_name, lane.limit, lane.remedy, retry_delay_s)
    code, trailers = status_code(error), trailers_of(error)

    def refuse(requests: object, context: grpc.ServicerContext) -> Iterator[object]:
        del requests
        context.set_trailing_metadata(trailers)
        context.set_code(code)
        context.set_details(error.message)
        return iter(())

    refuse.experimental_thread_pool = _SAME_THREAD  # type: ignore[attr-defined]
    # As a stream, whatever the call is: gRPC waits for the request of any other before it calls the function.
    return grpc.stream_stream_rpc_method_handler(refuse)
