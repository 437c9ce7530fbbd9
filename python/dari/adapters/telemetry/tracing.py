"""Traces by the OpenTelemetry SDK, sent to a collector over OTLP/gRPC. Imported only where a collector is set.

Spans wait in a bounded queue and are sent by a thread of the SDK's. A collector that refuses, hangs or is slow costs
the spans that find the queue full, and nobody's time: `dari_trace_spans_total` less what was exported tells how many.

Names follow OpenTelemetry's conventions where there are some (RPC; GenAI for a step that asks an AI model); the rest
stands under `dari.`. Contents that those conventions know (prompts, answers) are left out.
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

import logging
import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from dari.core.telemetry import Attribute, Step

MAX_QUEUED_SPANS = 4_096
"""Some 2 KiB each."""
_BATCH_SPANS = 512
_SEND_INTERVAL_S = 1.0
SEND_TIMEOUT_S = 5.0
"""For one batch, with what is tried again."""
_LAST_SEND_S = 1.0
"""For what waits when dari stops."""
_SILENT = logging.CRITICAL + 1

_PROPAGATOR = TraceContextTextMapPropagator()
_current: ContextVar[trace.Span | None] = ContextVar("dari_span", default=None)
"""The span that the thread is in; `carried` takes it to another."""

_CONVENTIONAL = {
    "ai_model": "gen_ai.request.model",
    "provider": "gen_ai.provider.name",
    "max_answer_tokens": "gen_ai.request.max_tokens",
    "conversation": "gen_ai.conversation.id",
}
_ASKING = {"gen_ai.operation.name": "chat"}


class OtlpTracer:
    """A Tracer. `close` at the end. Thread-safe."""

    def __init__(
        self,
        endpoint: str,
        headers: Mapping[str, str],
        *,
        sample_ratio: float,
        version: str,
        instance: str,
        on_span: Callable[[], None],
        on_exported: Callable[[int, bool], None],
    ) -> None:
        """`endpoint` is http://HOST:PORT, or https:// for TLS.

        `on_span` is called for each span that ends, `on_exported` with how many spans were taken, or not.
        """
        self._on_span = on_span
        exporter = OTLPSpanExporter(
            endpoint=endpoint,
            insecure=endpoint.startswith("http://"),
            headers=tuple((name.lower(), value) for name, value in headers.items()),
            timeout=SEND_TIMEOUT_S,
        )
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=Resource(
                {
                    "service.name": "dari",
                    "service.version": version,
                    "service.instance.id": instance,
                    "host.name": platform.node(),
                }
            ),
            shutdown_on_exit=False,
        )
        self._exporter = _CountedExporter(exporter, on_exported)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=MAX_QUEUED_SPANS,
                schedule_delay_millis=_SEND_INTERVAL_S * 1000,
                max_export_batch_size=_BATCH_SPANS,
                export_timeout_millis=SEND_TIMEOUT_S * 1000,
            )
        )
        self._tracer = self._provider.get_tracer("dari", version)
        # It would tell of a collector that is down at every try, with foreign texts; `on_exported` counts instead.
        self._library_log = logging.getLogger("opentelemetry")
        self._former_level = self._library_log.level
        self._library_log.setLevel(_SILENT)

    def begin_call(self, method: str, traceparent: str) -> "_OtlpSpan":
        """See Tracer."""
        parent = _PROPAGATOR.extract({"traceparent": traceparent}, Context()) if traceparent else Context()
        service, _, name = method.rpartition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
        span = self._tracer.start_span(method, parent, SpanKind.SERVER, attributes)
        return _OtlpSpan(span, None, self._on_span)

    def begin_step(self, step: Step, attributes: Mapping[str, Attribute]) -> "_OtlpSpan":
        """See Tracer."""
        before = _current.get()
        parent = Context() if before is None else trace.set_span_in_context(before, Context())
        named = _named(attributes)
        if step is Step.ATTEMPT:
            name, kind = f"chat {attributes.get('ai_model', '')}", SpanKind.CLIENT
            named.update(_ASKING)
        else:
            name, kind = step.label, SpanKind.INTERNAL
        return _OtlpSpan(self._tracer.start_span(name, parent, kind, named), before, self._on_span)

    def close(self) -> None:
        """Send what waits, where the collector takes it at once."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces-closing", daemon=True)
        closing.start()
        closing.join(_LAST_SEND_S)
        self._exporter.shutdown()  # Cuts what is being sent, and lets the rest fail.
        closing.join(_LAST_SEND_S)
        self._library_log.setLevel(self._former_level)


class _OtlpSpan:
    """A TracedSpan, and the one that the thread is in until it ends."""

    def __init__(self, span: trace.Span, before: trace.Span | None, on_end: Callable[[], None]) -> None:
        self._span = span
        self._before = before
        self._on_end = on_end
        _current.set(span)

    @property
    def traceparent(self) -> str:
        """See Span."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(self._span, Context()))
        return carrier.get("traceparent", "")

    def tell(self, **attributes: Attribute) -> None:
        """See Span."""
        self._span.set_attributes(_named(attributes))

    def end(self, failure: str) -> None:
        """See TracedSpan."""
        if _current.get() is self._span:  # Else it ends on another thread than it began on.
            _current.set(self._before)
        if failure:
            self._span.set_attribute("error.type", failure)
            self._span.set_status(Status(StatusCode.ERROR))
        if self._span.is_recording():
            self._on_end()
        self._span.end()


class _CountedExporter(SpanExporter):
    """Another exporter, and what became of its spans."""

    def __init__(self, exporter: OTLPSpanExporter, on_exported: Callable[[int, bool], None]) -> None:
        self._exporter = exporter
        self._on_exported = on_exported

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        self._on_exported(len(spans), result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        """From any thread; the second time it does nothing."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _named(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    return {_CONVENTIONAL.get(name, f"dari.{name}"): value for name, value in attributes.items()}
