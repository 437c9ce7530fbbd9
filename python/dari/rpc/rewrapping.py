"""Puts another function around the one in a gRPC handler, whatever kind of handler it is."""

from collections.abc import Callable
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
