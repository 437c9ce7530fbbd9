"""Puts another function around the one in a gRPC handler, whatever kind of handler it is."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import grpc

Behaviour = Callable[..., Any]


def rewrapped(
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


class Rewrapper:
    """Does so once for each method: gRPC asks an interceptor at every call, which gets the same handler from within."""

    def __init__(
        self,
        around_unary: Callable[[str, Behaviour], Behaviour],
        around_streaming: Callable[[str, Behaviour], Behaviour],
    ) -> None:
        """The two are also told the method's path on the wire."""
        self._around_unary = around_unary
        self._around_streaming = around_streaming
        # By path: the handler, and what was made of it. Replaced as a whole; whoever loses a race makes it once more.
        self._made: dict[str, tuple[Any, Any]] = {}

    def rewrapped(
        self, method: str, handler: "grpc.RpcMethodHandler[Any, Any] | None"
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """None for a method that nobody serves, which is not kept: callers may name any number of them."""
        if handler is None:
            return None
        known, made = self._made.get(method, (None, None))
        if known is not handler:
            made = rewrapped(handler, partial(self._around_unary, method), partial(self._around_streaming, method))
            self._made[method] = handler, made
        return cast("grpc.RpcMethodHandler[Any, Any]", made)
