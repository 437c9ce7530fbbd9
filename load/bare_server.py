"""A bare gRPC server under dari's own names that does nothing: what grpcio can on this machine, at best.

    python -m load.bare_server        prints its port, serves until it is killed

A read gives a small message. A chat gives as many tokens as the stand-in for Flowise sends, at the same pace. An upload
is taken message by message and thrown away. Clients cannot tell it from dari, so that both are measured by the same.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from dari.v1 import chat_pb2, chat_pb2_grpc, ingest_pb2, ingest_pb2_grpc, mapping_pb2, mapping_pb2_grpc
from load.system import GAP_MS, TOKENS

_THREADS = 256
"""As many as dari has by default."""
_MOST_MESSAGE_BYTES = 2 * 1024 * 1024


class BareMapping(mapping_pb2_grpc.MappingServiceServicer):
    """Reads."""

    def GetKnowledgeBase(
        self, request: mapping_pb2.GetKnowledgeBaseRequest, context: grpc.ServicerContext
    ) -> mapping_pb2.GetKnowledgeBaseResponse:
        base = mapping_pb2.KnowledgeBase(
            name=request.name, display_name="airports", columns=["faa", "name", "city"], row_count=4, etag="1"
        )
        return mapping_pb2.GetKnowledgeBaseResponse(knowledge_base=base)


class BareChat(chat_pb2_grpc.ChatServiceServicer):
    """Tokens at a set pace."""

    def Chat(
        self, request: chat_pb2.ChatRequest, context: grpc.ServicerContext
    ) -> Iterator[chat_pb2.ChatResponse]:
        yield chat_pb2.ChatResponse(started=chat_pb2.TurnStarted())
        due_s = time.monotonic()
        for number in range(TOKENS):
            yield chat_pb2.ChatResponse(token=chat_pb2.Token(text=f" token {number}"))
            due_s += GAP_MS / 1_000
            time.sleep(max(0.0, due_s - time.monotonic()))
        yield chat_pb2.ChatResponse(completed=chat_pb2.TurnCompleted())


class BareIngest(ingest_pb2_grpc.IngestServiceServicer):
    """Takes bytes and forgets them."""

    def Ingest(
        self, request_iterator: Iterator[ingest_pb2.IngestRequest], context: grpc.ServicerContext
    ) -> Iterator[ingest_pb2.IngestResponse]:
        received = 0
        for message in request_iterator:
            match message.WhichOneof("message"):
                case "open":
                    opened = ingest_pb2.UploadOpened(upload=f"uploads/{message.open.upload_id}")
                    yield ingest_pb2.IngestResponse(opened=opened)
                case "chunk":
                    received += len(message.chunk.data)
                case "finish":
                    receipt = ingest_pb2.Receipt(size_bytes=received)
                    yield ingest_pb2.IngestResponse(completed=ingest_pb2.UploadCompleted(receipt=receipt))
                    return


def main() -> None:
    """Serve."""
    options = [("grpc.max_receive_message_length", _MOST_MESSAGE_BYTES), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(_THREADS), options=options)
    mapping_pb2_grpc.add_MappingServiceServicer_to_server(BareMapping(), server)
    chat_pb2_grpc.add_ChatServiceServicer_to_server(BareChat(), server)
    ingest_pb2_grpc.add_IngestServiceServicer_to_server(BareIngest(), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
