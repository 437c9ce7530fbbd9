"""The Telemetry of a server: counts and times everything, and traces it where a tracer is given."""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol

from dari.adapters.telemetry import families
from dari.adapters.telemetry.metrics import Metrics
from dari.core.conversations import AttemptOutcome, AttemptRecord
from dari.core.errors import InternalError
from dari.core.mapping import AiModelKind
from dari.core.telemetry import Attribute, EndedTurn, Span, Step


class TracedSpan(Span, Protocol):
    """A span that somebody ends."""

    def end(self, failure: str) -> None:
        """Once. `failure` is one word of a closed list; empty where all went well."""
        ...


class Tracer(Protocol):
    """Begins spans, each under the one that the thread is in."""

    def begin_call(self, method: str, traceparent: str) -> TracedSpan:
        """Under the caller's span, whatever the thread was in."""
        ...

    def begin_step(self, step: Step, attributes: Mapping[str, Attribute]) -> TracedSpan: ...


class _Untraced:
    traceparent = ""

    def tell(self, **attributes: Attribute) -> None: ...
    def end(self, failure: str) -> None: ...


_UNTRACED = _Untraced()
_OK, _FAILED = "ok", "failed"


class Observed:
    """A Telemetry."""

    def __init__(self, metrics: Metrics, tracer: Tracer | None) -> None:
        self._tracer = tracer
        self._lock = threading.Lock()  # guards _calls
        self._calls: Counter[str] = Counter()
        """By method; one that has none stays, so that what scrapes sees it go to 0."""
        self._rpc_duration = metrics.many(families.RPC_DURATION)
        self._rpc_refusals = metrics.many(families.RPC_REFUSALS)
        self._steps = metrics.many(families.STEP_DURATION)
        self._turns = metrics.many(families.TURNS)
        self._turns_degraded = metrics.many(families.TURNS_DEGRADED)
        self._turns_unanswered = metrics.many(families.TURNS_UNANSWERED)
        self._turn_first_token = metrics.many(families.TURN_FIRST_TOKEN)
        self._attempts = metrics.many(families.ATTEMPTS)
        self._attempt_duration = metrics.many(families.ATTEMPT_DURATION)
        self._attempt_first_token = metrics.many(families.ATTEMPT_FIRST_TOKEN)
        self._ingest_bytes = metrics.one(families.INGEST_BYTES)
        self._ingest_rows = metrics.many(families.INGEST_ROWS)
        self._parse_duration = metrics.one(families.PARSE_DURATION)
        self._syncs = metrics.many(families.SYNCS)
        self._housekeeping = metrics.many(families.HOUSEKEEPING)
        self._housekeeping_time = metrics.one(families.HOUSEKEEPING_TIME)
        self._probes = metrics.many(families.PROBES)
        self._alerts_sent = metrics.many(families.ALERTS_SENT)
        self._make_known()

    def _make_known(self) -> None:
        """What an alert waits for is 0 before it happens first: a rise from nothing is none for Prometheus."""
        for outcome in ("stored", "rejected"):
            self._ingest_rows.of(outcome)
        for kind in AiModelKind:
            self._attempt_duration.of(kind.value, AttemptOutcome.MISCONFIGURED.value)
        self._rpc_refusals.of(InternalError.reason, "INTERNAL")

    def call(self, method: str, traceparent: str) -> "_ObservedCall":
        """See Telemetry."""
        span = _UNTRACED if self._tracer is None else self._tracer.begin_call(method, traceparent)
        with self._lock:
            self._calls[method] += 1
        return _ObservedCall(self, method, span)

    def calls_in_flight(self) -> Counter[str]:
        """By method."""
        with self._lock:
            return self._calls.copy()

    def call_ended(self, method: str, code: str, reason: str, duration_s: float) -> None:
        """A call that `call` began is over."""
        with self._lock:
            self._calls[method] -= 1
        self._rpc_duration.of(method, code).observe(duration_s)
        if reason:
            self._rpc_refusals.of(reason, code).inc()

    def step(self, step: Step, **attributes: Attribute) -> "_ObservedStep":
        """See Telemetry."""
        return _ObservedStep(
            self, step, _UNTRACED if self._tracer is None else self._tracer.begin_step(step, attributes)
        )

    def step_ended(self, step: Step, outcome: str, duration_s: float) -> None:
        """A step that `step` began is over."""
        self._steps.of(step.label, outcome).observe(duration_s)

    def turn_ended(self, turn: EndedTurn) -> None:
        """See Telemetry."""
        for record in turn.attempts:
            self._count_attempt(record)
        if turn.reason:
            self._turns_unanswered.of(turn.reason).inc()
            return
        self._turns.of(turn.answered_by, "true" if turn.degraded else "false").inc()
        for reason in turn.degraded:
            self._turns_degraded.of(reason.value).inc()
        if turn.first_token_s is not None:
            self._turn_first_token.of(turn.answered_by).observe(turn.first_token_s)

    def batch_stored(self, size_bytes: int, rows: int, rejected: int) -> None:
        """See Telemetry."""
        self._ingest_bytes.inc(size_bytes)
        self._ingest_rows.of("stored").inc(rows)
        self._ingest_rows.of("rejected").inc(rejected)

    def parsed(self, duration_s: float) -> None:
        """See Telemetry."""
        self._parse_duration.observe(duration_s)

    def sync_ended(self, state: str) -> None:
        """See Telemetry."""
        self._syncs.of(state).inc()

    def housekeeping_done(self, counts: Mapping[str, int]) -> None:
        """See Telemetry."""
        for what, count in counts.items():
            self._housekeeping.of(what).inc(count)
        self._housekeeping_time.set_to_current_time()

    def probed(self, *, answers: bool) -> None:
        """See Telemetry."""
        self._probes.of("answers" if answers else "silent").inc()

    def alert_sent(self, kind: str, *, has_arrived: bool) -> None:
        """See Telemetry."""
        self._alerts_sent.of(kind, "arrived" if has_arrived else _FAILED).inc()

    def _count_attempt(self, record: AttemptRecord) -> None:
        kind, outcome = record.answerer.value, record.outcome.value
        self._attempts.of(kind, outcome, record.code).inc()
        if record.outcome is not AttemptOutcome.SKIPPED:
            self._attempt_duration.of(kind, outcome).observe(record.duration_s)
        if record.first_token_s is not None:
            self._attempt_first_token.of(kind).observe(record.first_token_s)


class _ObservedCall:
    """A Call."""

    __slots__ = ("_began_s", "_method", "_observed", "_span")

    def __init__(self, observed: Observed, method: str, span: TracedSpan) -> None:
        self._observed = observed
        self._method = method
        self._span = span
        self._began_s = time.monotonic()

    def ended(self, code: str, reason: str, ids: Mapping[str, str]) -> float:
        """See Call."""
        duration_s = time.monotonic() - self._began_s
        self._observed.call_ended(self._method, code, reason, duration_s)
        if self._span is not _UNTRACED:
            self._span.tell(status=code, **{name: id for name, id in ids.items() if name != "method"})
            self._span.end("" if code == "OK" else reason or code)
        return duration_s


class _ObservedStep:
    """The context manager of a step."""

    __slots__ = ("_began_s", "_observed", "_span", "_step")

    def __init__(self, observed: Observed, step: Step, span: TracedSpan) -> None:
        self._observed = observed
        self._step = step
        self._span = span
        self._began_s = time.monotonic()

    def __enter__(self) -> Span:
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A generator that is closed in the middle has not failed: its reader left.
        has_failed = kind is not None and kind is not GeneratorExit
        self._observed.step_ended(self._step, _FAILED if has_failed else _OK, time.monotonic() - self._began_s)
        if self._span is not _UNTRACED:
            self._span.end(_cause(error) if has_failed else "")


def _cause(error: BaseException | None) -> str:
    """What failed, as one word: the code or reason of our own errors, or else the type. Never a text."""
    return str(getattr(error, "code", None) or getattr(error, "reason", None) or type(error).__name__)
