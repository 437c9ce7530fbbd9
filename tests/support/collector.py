"""A real OTLP collector, as far as traces go: the service of opentelemetry-proto, which keeps what it is sent."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support.running_dari import SOON_S


@dataclass(frozen=True)
class SpanSeen:
    """A span as it came."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str | int | float | bool]
    is_error: bool


class Collector:
    """Use in a `with` statement. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # its lock guards the three below
        self._spans: list[SpanSeen] = []
        self._requests: list[str] = []
        self._metadata: list[dict[str, str]] = []
        self._server = grpc.server(ThreadPoolExecutor(4, "collector"))
        add: Any = pb_grpc.add_TraceServiceServicer_to_server  # Has no types.
        add(_Service(self._take), self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.stop(None).wait()

    def spans(self) -> list[SpanSeen]:
        with self._changed:
            return list(self._spans)

    def text(self) -> str:
        """All that came, as text, to be searched for what must not be in it."""
        with self._changed:
            return "\n".join(self._requests)

    def metadata(self) -> list[dict[str, str]]:
        """Of each request."""
        with self._changed:
            return list(self._metadata)

    def wait_for(self, condition: Callable[[list[SpanSeen]], bool]) -> list[SpanSeen]:
        """All spans, once they fulfil the condition."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self._spans), SOON_S), [span.name for span in self._spans]
            return list(self._spans)

    def _take(self, request: pb.ExportTraceServiceRequest, metadata: dict[str, str]) -> None:
        with self._changed:
            self._requests.append(str(request))
            self._metadata.append(metadata)
            self._spans += (
                _seen(span)
                for resource in request.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            )
            self._changed.notify_all()


class _Service(pb_grpc.TraceServiceServicer):
    def __init__(self, take: Callable[[pb.ExportTraceServiceRequest, dict[str, str]], None]) -> None:
        self._take = take

    def Export(
        self, request: pb.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> pb.ExportTraceServiceResponse:
        self._take(request, {key: str(value) for key, value in context.invocation_metadata()})
        return pb.ExportTraceServiceResponse()


def _seen(span: trace_pb2.Span) -> SpanSeen:
    return SpanSeen(
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes={each.key: _value(each.value) for each in span.attributes},
        is_error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
    )


def _value(value: Any) -> str | int | float | bool:
    kind: str = value.WhichOneof("value")
    told: str | int | float | bool = getattr(value, kind)
    return told
