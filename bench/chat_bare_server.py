"""A bare gRPC server that streams tokens at a set pace and does nothing else: what this machine can, at best.

    python -m bench.chat_bare_server STREAMS TOKENS MILLISECONDS        prints its port, serves until it is killed

It has ChatService's `Chat` on a thread a stream, as dari has, and sends the messages that dari would send.
"""

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from bench.chat_flowise import STAMP
from dari.v1 import chat_pb2


class PacedChat:
    """Gives each caller the same number of stamped tokens."""

    def __init__(self, tokens: int, gap_s: float) -> None:
        self._tokens = tokens
        self._gap_s = gap_s

    def stream(self, request: bytes, context: grpc.ServicerContext) -> Iterator[chat_pb2.ChatResponse]:
        """The messages of one turn."""
        yield chat_pb2.ChatResponse(started=chat_pb2.TurnStarted())
        due_s = time.monotonic()
        for _ in range(self._tokens):
            yield chat_pb2.ChatResponse(token=chat_pb2.Token(text=f" stream{STAMP}{time.monotonic():.6f}"))
            due_s += self._gap_s
            time.sleep(max(0.0, due_s - time.monotonic()))
        yield chat_pb2.ChatResponse(completed=chat_pb2.TurnCompleted())


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description="Stream tokens at a set pace.")
    for name in ("streams", "tokens", "milliseconds"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    server = grpc.server(ThreadPoolExecutor(options.streams + 4))
    chat = PacedChat(options.tokens, options.milliseconds / 1_000)
    method: grpc.RpcMethodHandler[bytes, chat_pb2.ChatResponse] = grpc.unary_stream_rpc_method_handler(
        chat.stream, response_serializer=chat_pb2.ChatResponse.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("dari.v1.ChatService", {"Chat": method}),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
