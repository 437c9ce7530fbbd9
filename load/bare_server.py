"""A bare gRPC server under dari's own names that does nothing: what grpcio can on this machine, at best.

    python -m load.bare_server        prints its port, serves until it is killed

A read gives a small message. A chat gives as many tokens as the stand-in for Flowise sends, at the same pace. An upload
is taken message by message and thrown away. Clients cannot tell it from dari, so that both are measured by the same.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from dari.v1 import chat_pb2, ingest_pb2, mapping_pb2
from load.system import GAP_MS, TOKENS

_THREADS = 256
"""As many as dari has by default."""
_MOST_MESSAGE_BYTES = 2 * 1024 * 1024


def read(request: mapping_pb2.GetKnowledgeBaseRequest, _: grpc.ServicerContext) -> mapping_pb2.GetKnowledgeBaseResponse:
    """GetKnowledgeBase."""
    base = mapping_pb2.KnowledgeBase(
        name=request.name, display_name="airports", columns=["faa", "name", "city"], row_count=4, etag="1"
    )
    return mapping_pb2.GetKnowledgeBaseResponse(knowledge_base=base)


def chat(_request: chat_pb2.ChatRequest, _: grpc.ServicerContext) -> Iterator[chat_pb2.ChatResponse]:
    """Chat: tokens at a set pace."""
    yield chat_pb2.ChatResponse(started=chat_pb2.TurnStarted())
    due_s = time.monotonic()
    for number in range(TOKENS):
        yield chat_pb2.ChatResponse(token=chat_pb2.Token(text=f" token {number}"))
        due_s += GAP_MS / 1_000
        time.sleep(max(0.0, due_s - time.monotonic()))
    yield chat_pb2.ChatResponse(completed=chat_pb2.TurnCompleted())


def ingest(
    messages: Iterator[ingest_pb2.IngestRequest], _: grpc.ServicerContext
) -> Iterator[ingest_pb2.IngestResponse]:
    """Ingest: takes bytes and forgets them."""
    received = 0
    for message in messages:
        match message.WhichOneof("message"):
            case "open":
                opened = ingest_pb2.UploadOpened(upload=f"uploads/{message.open.upload_id}")
                yield ingest_pb2.IngestResponse(opened=opened)
            case "chunk":
                received += len(message.chunk.data)
            case _:
                receipt = ingest_pb2.Receipt(size_bytes=received)
                yield ingest_pb2.IngestResponse(completed=ingest_pb2.UploadCompleted(receipt=receipt))
                return


def main() -> None:
    """Serve."""
    options = [("grpc.max_receive_message_length", _MOST_MESSAGE_BYTES), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(_THREADS), options=options)
    reads: Any = grpc.unary_unary_rpc_method_handler(
        read,
        mapping_pb2.GetKnowledgeBaseRequest.FromString,
        mapping_pb2.GetKnowledgeBaseResponse.SerializeToString,
    )
    chats: Any = grpc.unary_stream_rpc_method_handler(
        chat, chat_pb2.ChatRequest.FromString, chat_pb2.ChatResponse.SerializeToString
    )
    ingests: Any = grpc.stream_stream_rpc_method_handler(
        ingest, ingest_pb2.IngestRequest.FromString, ingest_pb2.IngestResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("dari.v1.MappingService", {"GetKnowledgeBase": reads}),
            grpc.method_handlers_generic_handler("dari.v1.ChatService", {"Chat": chats}),
            grpc.method_handlers_generic_handler("dari.v1.IngestService", {"Ingest": ingests}),
        )
    )
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
