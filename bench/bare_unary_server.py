"""A bare gRPC server that gives each method one answer and does nothing else: what this machine can, at best.

    python -m bench.bare_unary_server < ANSWERS        prints its port, serves until it is killed

ANSWERS is one JSON object on standard input: by `package.Service/Method`, the bytes of the answer in base64. Requests
are read and answers are written as messages, on as many threads as dari has, as a generated servicer does it.
"""

import base64
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2

from dari.settings import Settings
from dari.v1 import chat_pb2, ingest_pb2, mapping_pb2

KNOWN = (chat_pb2, ingest_pb2, mapping_pb2, health_pb2)
"""Whose services the pool of descriptors knows by being imported."""


def handler(method: str, answer: bytes) -> grpc.GenericRpcHandler:
    """Answers one method."""
    service, _, name = method.partition("/")
    descriptor = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    request, response = map(message_factory.GetMessageClass, (descriptor.input_type, descriptor.output_type))
    message = response.FromString(answer)
    one: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
        lambda _request, _context: message,
        request_deserializer=request.FromString,
        response_serializer=response.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(service, {name: one})


def main() -> None:
    """Serve."""
    answers = json.load(sys.stdin)
    threads = Settings.model_fields["unary_threads"].default
    server = grpc.server(ThreadPoolExecutor(threads))
    server.add_generic_rpc_handlers(
        tuple(handler(method, base64.b64decode(answer)) for method, answer in answers.items())
    )
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
