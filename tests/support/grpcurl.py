"""What of grpcurl the documents use, for machines without it: reflection, JSON in, JSON out, and its exit codes.

    grpcurl [-plaintext] [-H 'name: value'] [-d JSON|@] [-max-time S] ADDRESS list
    grpcurl … ADDRESS describe SYMBOL
    grpcurl … ADDRESS SERVICE/METHOD

Like the real one it knows the server's types by reflection alone, so that what it is not told there it cannot call.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToJson, Parse, ParseError
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

REFUSED = 64
"""Added to the number of a status."""


def main(arguments: list[str]) -> int:
    """Do one call; the exit code."""
    # grpcurl's options have one dash.
    parser = argparse.ArgumentParser(prog="grpcurl", prefix_chars="-")
    parser.add_argument("-plaintext", action="store_true", required=True, help="this stand-in knows nothing else")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d", default="")
    parser.add_argument("-max-time", type=float, dest="max_time")
    parser.add_argument("address")
    parser.add_argument("what")
    parser.add_argument("symbol", nargs="?")
    told = parser.parse_args(arguments)
    metadata = [(name.strip().lower(), value.strip()) for name, _, value in (each.partition(":") for each in told.H)]
    with grpc.insecure_channel(told.address) as plain:
        channel = grpc.intercept_channel(plain, _Bringing(metadata))
        try:
            if told.what == "list":
                print("\n".join(sorted(ProtoReflectionDescriptorDatabase(channel).get_services())))
            elif told.what == "describe":
                print(_described(channel, told.symbol))
            else:
                data = sys.stdin.read() if told.d == "@" else told.d
                for answer in _answers(channel, told.what, data, told.max_time):
                    print(MessageToJson(answer, ensure_ascii=False), flush=True)
        except grpc.RpcError as error:
            return _refused(error)
        except ParseError as error:
            print(f"Error invoking method {told.what!r}: error getting request data: {error}", file=sys.stderr)
            return 1
    return 0


class _Bringing(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Every call, reflection too, has the headers."""

    def __init__(self, metadata: list[tuple[str, str]]) -> None:
        self._metadata = metadata

    def _intercept(self, go_on: Any, details: Any, request: Any) -> Any:
        return go_on(details._replace(metadata=[*(details.metadata or ()), *self._metadata]), request)

    # One for all four kinds, which the types keep apart.
    intercept_unary_unary: Any = _intercept
    intercept_unary_stream: Any = _intercept
    intercept_stream_unary: Any = _intercept
    intercept_stream_stream: Any = _intercept


def _pool(channel: Any) -> DescriptorPool:
    return DescriptorPool(ProtoReflectionDescriptorDatabase(channel))


def _described(channel: Any, symbol: str) -> str:
    service = _pool(channel).FindServiceByName(symbol)
    lines = [
        f"  rpc {method.name} ( .{method.input_type.full_name} ) returns ( .{method.output_type.full_name} );"
        for method in service.methods
    ]
    return "\n".join([f"{symbol} is a service:", f"service {service.name} {{", *lines, "}"])


def _answers(channel: Any, path: str, data: str, timeout_s: float | None) -> Iterator[Message]:
    service, _, name = path.replace("/", ".").rpartition(".")
    method = _pool(channel).FindServiceByName(service).methods_by_name[name]
    kinds = {False: "unary", True: "stream"}
    make = getattr(channel, f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}")
    call = make(
        f"/{service}/{name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    requests = [Parse(text, GetMessageClass(method.input_type)()) for text in _objects(data)]
    if not method.client_streaming:
        requests = requests or [GetMessageClass(method.input_type)()]
    answer = call(iter(requests) if method.client_streaming else requests[0], timeout=timeout_s)
    yield from answer if method.server_streaming else [answer]


def _objects(data: str) -> Iterator[str]:
    """The JSON objects that stand one after the other."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(data.rstrip()):
        found, at = decoder.raw_decode(data, at + len(data[at:]) - len(data[at:].lstrip()))
        yield json.dumps(found)


def _refused(error: Any) -> int:
    code = "".join(word.capitalize() for word in error.code().name.split("_"))
    print(f"ERROR:\n  Code: {code}\n  Message: {error.details()}", file=sys.stderr)
    return REFUSED + int(error.code().value[0])


def install(folder: Path) -> None:
    """Put an executable `grpcurl` into a folder."""
    program = folder / "grpcurl"
    root = Path(__file__).parents[2]
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = [{str(root)!r}]\n"
        "from tests.support.grpcurl import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    program.chmod(0o755)


def shown(printed: str) -> str:
    """What was printed, with the fields' names as the proto file has them: grpcurl's versions differ in that."""
    return re.sub(r'"(\w+)":', lambda name: re.sub("[A-Z]", lambda big: f"_{big[0].lower()}", name[0]), printed)
