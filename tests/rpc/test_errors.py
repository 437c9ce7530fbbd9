"""The edge at which every exception of a handler becomes a status."""

import io
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr
from queue import SimpleQueue
from typing import Any, cast

import grpc
import psycopg2
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from dari.core import errors
from dari.logs import make_log
from dari.rpc.errors import STATUS_OF, ErrorInterceptor, status_code, to_status, trailers_of
from dari.v1 import error_reason_pb2
from tests.support.running_dari import SOON_S, refusal

SECRET = "s3cret-in-the-text"


def _tree(kind: type[errors.DariError] = errors.DariError) -> Iterator[type[errors.DariError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _tree(child)


ERRORS = sorted(set(_tree()), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_has_a_status_and_a_reason_of_the_wire(kind: type[errors.DariError]) -> None:
    error = kind("Something is so.", {"what": 1})
    assert status_code(error) in set(grpc.StatusCode) - {grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN}
    assert f"ERROR_REASON_{kind.reason}" in error_reason_pb2.ErrorReason.keys()  # noqa: SIM118 - an enum's wrapper
    status = to_status(error)
    assert status.message == "Something is so."
    (info,) = _infos(status)
    assert (info.domain, info.reason, dict(info.metadata)) == ("dari", kind.reason, {"what": "1"})


def test_every_reason_of_the_wire_has_an_error() -> None:
    wire = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()}  # noqa: SIM118
    assert wire - {"UNSPECIFIED"} == {kind.reason for kind in ERRORS}


def test_every_error_stands_in_the_tree_at_the_top_of_its_file() -> None:
    drawn = errors.__doc__ or ""
    assert [kind.__name__ for kind in ERRORS if f" {kind.__name__} " not in drawn] == []


def test_a_status_is_given_by_the_nearest_class() -> None:
    assert all(
        status_code(kind("")) == STATUS_OF[parent]
        for kind in ERRORS
        for parent in (next(parent for parent in kind.__mro__ if parent in STATUS_OF),)
    )


class Panic(BaseException):
    """As PyO3's PanicException: no Exception, so that `except Exception` does not see it."""


def _chained() -> Exception:
    try:
        raise psycopg2.OperationalError(f"connection to host=db password={SECRET} failed")
    except psycopg2.Error as cause:
        error = errors.InternalError(SECRET, {"row": SECRET})
        error.__cause__ = cause
        return error


@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        KeyError(SECRET),
        Panic(SECRET),
        SystemExit(SECRET),
        KeyboardInterrupt(SECRET),
        StopIteration(SECRET),
        GeneratorExit(SECRET),
        _chained(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("kind", ["unary", "stream", "stream after a message"])
def test_a_defect_is_internal_with_an_id_and_none_of_its_text_leaves(kind: str, error: BaseException) -> None:
    if isinstance(error, GeneratorExit) and kind != "unary":
        pytest.skip("ends a generator, and is no defect there")

    def handler(request: bytes, context: grpc.ServicerContext) -> bytes:
        raise error

    def stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        if kind == "stream after a message":
            yield b"first"
        raise error

    log = io.StringIO()
    with redirect_stderr(log), _served(handler, stream) as call, pytest.raises(grpc.RpcError) as raised:
        call("unary" if kind == "unary" else "stream")
    refused = refusal(raised.value)
    assert (refused.status, refused.reason) == ("INTERNAL", "INTERNAL")
    assert list(refused.metadata) == ["error_id"]
    assert refused.metadata["error_id"] in log.getvalue()
    assert "test_errors.py" in log.getvalue(), "the log tells where"
    assert SECRET not in log.getvalue()
    assert SECRET not in str(raised.value)


def test_what_is_meant_for_the_caller_arrives_whole() -> None:
    violations = (errors.FieldViolation("a.b", "must be 1"), errors.FieldViolation("c", "must be 2"))

    def handler(request: bytes, context: grpc.ServicerContext) -> bytes:
        raise errors.InvalidArgument.of(*violations)

    with _served(handler, None) as call, pytest.raises(grpc.RpcError) as raised:
        call("unary")
    refused = refusal(raised.value)
    assert refused.status == "INVALID_ARGUMENT"
    assert refused.fields == ("a.b", "c")
    assert refused.message == "a.b: must be 1; c: must be 2"
    status = rpc_status.from_call(raised.value)
    assert status is not None
    (request,) = _details(status, error_details_pb2.BadRequest)
    assert [(found.field, found.description) for found in request.field_violations] == [
        (violation.field, violation.description) for violation in violations
    ]


@pytest.mark.parametrize("kind", [errors.Unavailable, errors.Exhausted])
def test_what_passes_tells_a_client_to_wait(kind: type[errors.DariError]) -> None:
    def handler(request: bytes, context: grpc.ServicerContext) -> bytes:
        raise kind("Later.")

    with _served(handler, None) as call, pytest.raises(grpc.RpcError) as raised:
        call("unary")
    trailers = cast(grpc.Call, raised.value).trailing_metadata()
    assert ("grpc-retry-pushback-ms", "1000") in [tuple(pair) for pair in trailers]


def test_a_caller_who_leaves_while_a_request_is_awaited_is_no_defect() -> None:
    """GRPC ends the requests by an exception of its own, in whatever handler reads them."""
    begun, ended = threading.Event(), threading.Event()

    def handler(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        begun.set()
        try:
            yield from requests
        finally:
            ended.set()

    log = io.StringIO()
    with redirect_stderr(log), _served(None, None, requests=handler) as call:
        stream: Any = call("requests")
        assert begun.wait(SOON_S)
        stream.cancel()
        assert ended.wait(SOON_S)
    assert log.getvalue() == ""


@pytest.mark.parametrize(("delay_s", "pushback"), [(0.25, "250"), (60.0, "60000"), (7_200.0, "-1")])
def test_the_delay_is_told_in_full_and_no_client_is_made_to_sit_out_a_long_one(delay_s: float, pushback: str) -> None:
    """A client with a retry policy would hold its caller until the deadline, and then tell of that."""
    error = errors.TokensSpent.of("caller_tokens_per_day", 1, delay_s)
    (info,) = _details(to_status(error), error_details_pb2.RetryInfo)
    assert info.retry_delay.ToMilliseconds() == delay_s * 1_000
    assert dict(trailers_of(error))["grpc-retry-pushback-ms"] == pushback


def _infos(status: Any) -> list[error_details_pb2.ErrorInfo]:
    return _details(status, error_details_pb2.ErrorInfo)


def _details(status: Any, kind: Any) -> list[Any]:
    found = []
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found


@contextmanager
def _served(
    handler: Callable[..., bytes] | None,
    stream: Callable[..., Iterator[bytes]] | None,
    *,
    requests: Callable[..., Iterator[bytes]] | None = None,
) -> Iterator[Callable[[str], object]]:
    """A server with such methods behind the interceptor; yields what calls them."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    if handler is not None:
        handlers["unary"] = grpc.unary_unary_rpc_method_handler(handler)
    if requests is not None:
        handlers["requests"] = grpc.stream_stream_rpc_method_handler(requests)
    if stream is not None:
        handlers["stream"] = grpc.unary_stream_rpc_method_handler(stream)
    root = logging.getLogger()
    handlers_before, root.handlers = root.handlers, []  # What gRPC itself logs must go where a real server's goes.
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[ErrorInterceptor(make_log("info", "json"))])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        unary: Any = channel.unary_unary("/test/unary")
        stream_of: Any = channel.unary_stream("/test/stream")
        requests_of: Any = channel.stream_stream("/test/requests")
        calls: dict[str, Callable[[], object]] = {
            "unary": lambda: unary(b""),
            "stream": lambda: list(stream_of(b"")),
            "requests": lambda: requests_of(iter(SimpleQueue[bytes]().get, None)),
        }
        yield lambda name: calls[name]()
    server.stop(None).wait()
    root.handlers = handlers_before
