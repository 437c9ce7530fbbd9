"""An interceptor that puts another function around the one in a gRPC handler, whatever kind of handler it is."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import grpc

Behaviour = Callable[..., Any]


class RewrappingInterceptor(grpc.ServerInterceptor):
    """Puts a function of a subclass around every handler of a server, so that none can be forgotten.

    It does so once for each method: gRPC asks at every call, and gets the same handler from within each time.
    """

    def __init__(self) -> None:
        # By path: the handler, and what was made of it. Replaced as a whole; whoever loses a race makes it once more.
        self._made: dict[str, tuple[Any, Any]] = {}

    def around_unary(self, method: str, behaviour: Behaviour) -> Behaviour:
        """The function that gives one answer; `method` is its path on the wire."""
        raise NotImplementedError

    def around_streaming(self, method: str, behaviour: Behaviour) -> Behaviour:
        """The function that gives a stream of answers."""
        raise NotImplementedError

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """None for a method that nobody serves, which is not kept: callers may name any number of them."""
        method, handler = handler_call_details.method, continuation(handler_call_details)
        if handler is None:
            return None
        known, made = self._made.get(method, (None, None))
        if known is not handler:
            made = _rewrapped(handler, partial(self.around_unary, method), partial(self.around_streaming, method))
            self._made[method] = handler, made
        return cast("grpc.RpcMethodHandler[Any, Any]", made)


def _rewrapped(
    handler: "grpc.RpcMethodHandler[Any, Any]",
    around_unary: Callable[[Behaviour], Behaviour],
    around_streaming: Callable[[Behaviour], Behaviour],
) -> "grpc.RpcMethodHandler[Any, Any]":
    """The same handler around another function; which of the two wraps it, its answer decides: one, or a stream."""
    behaviour = cast(
        Behaviour, handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    if handler.response_streaming:
        factory, around = _STREAMING[handler.request_streaming], around_streaming
    else:
        factory, around = _UNARY[handler.request_streaming], around_unary
    return factory(
        around(behaviour),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


_UNARY = {False: grpc.unary_unary_rpc_method_handler, True: grpc.stream_unary_rpc_method_handler}
_STREAMING = {False: grpc.unary_stream_rpc_method_handler, True: grpc.stream_stream_rpc_method_handler}
