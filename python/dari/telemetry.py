"""Builds metrics and traces as the settings say, and tells the metrics where to read what is.

A part of the composition root, apart from `dari.server` because none of it knows what is served.
"""

import platform
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version

import grpc

from dari.adapters.postgres.database import Database
from dari.adapters.postgres.stored_figures import StoredFigures, read_stored_figures
from dari.adapters.telemetry import families
from dari.adapters.telemetry.endpoint import MetricsEndpoint
from dari.adapters.telemetry.looking import RegularLook
from dari.adapters.telemetry.metrics import Metrics, Reader, Sample, by_label, number
from dari.adapters.telemetry.observed import Observed, Tracer
from dari.adapters.upstreams import UpstreamDirectory
from dari.core.alert_dispatch import AlertDispatcher
from dari.core.circuit import CircuitState
from dari.core.event_log import EventLog
from dari.core.telemetry import OnWait, Telemetry
from dari.core.thread_pools import Lane
from dari.core.unsaved_turns import UnsavedTurns
from dari.core.upload_session import Uploads
from dari.core.upstream_alerts import WatchedCircuit
from dari.core.upstream_states import LocalProcess, LocalProcessStatus
from dari.settings import Settings

_FromStored = Callable[[StoredFigures], Iterable[Sample]]
_FromProcess = Callable[[LocalProcess], Iterable[Sample]]


class ServerTelemetry:
    """Metrics of one server, and its traces where the settings name a collector."""

    def __init__(self, settings: Settings, log: EventLog, opened: ExitStack) -> None:
        """What runs is closed by `opened`."""
        self._settings = settings
        self._log = log
        self._opened = opened
        self.metrics = Metrics(log)
        observed = Observed(self.metrics, _tracer(settings, self.metrics, opened))
        self.telemetry: Telemetry = observed
        self.on_database_wait: OnWait = self.metrics.one(families.POOL_WAIT).observe
        read = self.metrics.read
        read(families.BUILD, lambda: [((_version(), platform.python_version(), grpc.__version__), 1)])
        read(families.RPC_IN_FLIGHT, by_label(observed.calls_in_flight))
        read(families.MAX_UPLOADS, number(lambda: settings.max_open_uploads))
        read(families.POOL_MAX, number(lambda: settings.database_max_connections))

    def serve(self) -> str:
        """Let the metrics be scraped; where, or "" where the settings want none. Raises OSError."""
        if not self._settings.metrics_address:
            return ""
        return self._opened.enter_context(
            MetricsEndpoint(self.metrics.registry, self._settings.metrics_address)
        ).address

    def read_lanes(self, lanes: Mapping[str, Lane]) -> None:
        """Tell how full each kind of calls is; they are refused before anything else here sees them."""
        read = self.metrics.read
        read(families.LANE_CALLS, by_label(lambda: {kind: lane.under_way for kind, lane in lanes.items()}))
        read(families.LANE_LIMIT, by_label(lambda: {kind: lane.limit for kind, lane in lanes.items()}))
        read(families.LANE_REFUSALS, by_label(lambda: {kind: lane.refused for kind, lane in lanes.items()}))

    def read_database(self, database: Database) -> None:
        """Tell of the pool, and of what stands in the tables."""
        read = self.metrics.read
        read(families.POOL_CONNECTIONS, by_label(database.connections))
        if not self._settings.metrics_address:
            return
        look = RegularLook(lambda: read_stored_figures(database), self._log)
        look.start()
        self._opened.callback(look.close)
        read(families.STORED_LOOK, number(look.age_s))
        read(families.OUTBOX_MESSAGES, _stored(look, lambda seen: [((), seen.outbox_messages)]))
        read(families.OUTBOX_OLDEST, _stored(look, lambda seen: [((), seen.outbox_oldest_s)]))
        read(families.SYNC_OVERDUE, _stored(look, lambda seen: [((), seen.overdue_s)]))
        read(families.SYNC_SOURCES, _stored(look, _sources))

    def read_upstreams(self, directory: UpstreamDirectory) -> None:
        """Tell of circuits, and of the local model's process."""
        read = self.metrics.read
        read(families.CIRCUITS, lambda: _circuits(directory.watched_circuits()))
        read(families.LOCAL_STATE, _process(directory, _states))
        read(families.LOCAL_RESTARTS, _process(directory, lambda process: [((), process.restarts)]))
        read(families.LOCAL_MEMORY, _process(directory, lambda process: [((), process.memory_bytes)]))
        read(families.LOCAL_QUEUE, _process(directory, lambda process: [((), process.queue_length)]))
        read(families.LOCAL_RUNNING, _process(directory, lambda process: [((), process.running)]))

    def read_work(self, uploads: Uploads, turns: UnsavedTurns, alerts: AlertDispatcher) -> None:
        """Tell of what is open and of what waits in memory."""
        read = self.metrics.read
        read(families.OPEN_UPLOADS, number(lambda: uploads.open_count))
        read(families.UNSAVED_TURNS, number(lambda: turns.count))
        read(families.ALERTS_WAITING, number(lambda: alerts.waiting_count))


def _tracer(settings: Settings, metrics: Metrics, opened: ExitStack) -> Tracer | None:
    if not settings.otlp_endpoint:
        return None
    from dari.adapters.telemetry.tracing import OtlpTracer  # Some 0.2 s, and 10 MiB.

    exported = metrics.many(families.SPANS_EXPORTED)
    taken, lost = exported.of("taken"), exported.of("lost")
    tracer = OtlpTracer(
        settings.otlp_endpoint,
        {name: value.get_secret_value() for name, value in settings.otlp_headers.items()},
        sample_ratio=settings.otlp_sample_ratio,
        version=_version(),
        instance=str(uuid.uuid4()),
        on_span=metrics.one(families.SPANS).inc,
        on_exported=lambda count, was_taken: (taken if was_taken else lost).inc(count),
    )
    opened.callback(tracer.close)
    return tracer


def _version() -> str:
    """As it was installed; a tree of sources that nobody installed has none."""
    try:
        return version("dari")
    except PackageNotFoundError:
        return "source"


def _stored(look: "RegularLook[StoredFigures]", samples: _FromStored) -> Reader:
    """Nothing before the first look."""
    return lambda: [] if look.latest is None else samples(look.latest)


def _sources(seen: StoredFigures) -> Iterable[Sample]:
    yield ("well",), seen.sources_well
    yield ("failing",), seen.sources_failing
    yield ("held",), seen.sources_held
    yield ("paused",), seen.sources_paused


def _circuits(circuits: Sequence[WatchedCircuit]) -> Iterable[Sample]:
    counts = Counter((_kind(circuit.subject), circuit.state) for circuit in circuits)
    for kind in ("server", "ai_model"):
        for state in CircuitState:
            yield (kind, state.value), counts[kind, state]


def _kind(subject: str) -> str:
    """A server's stands for itself as scheme, host and port."""
    return "server" if "://" in subject else "ai_model"


def _process(directory: UpstreamDirectory, samples: _FromProcess) -> Reader:
    """Nothing where this server runs no local model."""

    def read() -> Iterable[Sample]:
        process = directory.local_process()
        return [] if process is None else samples(process)

    return read


def _states(process: LocalProcess) -> Iterable[Sample]:
    for status in LocalProcessStatus:
        yield (status.value.lower(),), float(process.status is status)
