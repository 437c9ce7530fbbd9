"""Every metric that dari exports, as data: what makes them, the manual and the check of dashboards read this table.

Labels have few values: methods, codes, states and reasons of closed lists. No id of a tenant, a model, an upload or a
caller is a label: there is no end of those, and they stand in logs and traces.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

_CALL_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_TEXT_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_STEP_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 600.0)
_WAIT_S = (0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. A counter's name ends in `_total`, every other's in its unit, or in what is counted."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper ends of a histogram's."""


BUILD = Family("dari_build_info", "gauge", "Always 1; what runs.", ("version", "python", "grpc"))

RPC_DURATION = Family(
    "dari_rpc_duration_seconds",
    "histogram",
    "How long calls took, from the handler's start to its end; a stream until its last message.",
    ("method", "code"),
    _CALL_S,
)
RPC_IN_FLIGHT = Family("dari_rpc_in_flight", "gauge", "Calls that are being served.", ("method",))
LANE_CALLS = Family("dari_lane_calls", "gauge", "Calls of a kind that run or wait for a thread.", ("kind",))
LANE_LIMIT = Family("dari_lane_calls_limit", "gauge", "How many calls of a kind may be under way.", ("kind",))
LANE_REFUSALS = Family(
    "dari_lane_refusals_total", "counter", "Calls refused because as many of their kind were under way.", ("kind",)
)
RPC_REFUSALS = Family(
    "dari_rpc_refusals_total",
    "counter",
    "Calls that ended by an error, by its reason (dari.v1.ErrorReason) and status.",
    ("reason", "code"),
)

TURNS = Family("dari_turns_total", "counter", "Turns that were answered, by who answered.", ("answered_by", "degraded"))
TURNS_DEGRADED = Family(
    "dari_turns_degraded_total", "counter", "Degraded answers; one may have several reasons.", ("reason",)
)
TURNS_UNANSWERED = Family(
    "dari_turns_unanswered_total", "counter", "Turns that were begun and ended without an answer.", ("reason",)
)
TURN_FIRST_TOKEN = Family(
    "dari_turn_first_token_seconds",
    "histogram",
    "From the question to the first text, whoever wrote it after how many failures: what a user waits.",
    ("answered_by",),
    _TEXT_S,
)
UNSAVED_TURNS = Family("dari_unsaved_turns", "gauge", "Answered turns that wait in memory for the database.")

ATTEMPTS = Family(
    "dari_attempts_total",
    "counter",
    "AI models asked, or passed by, by kind of model, outcome, and the cause as one word (empty where it answered).",
    ("kind", "outcome", "cause"),
)
ATTEMPT_DURATION = Family(
    "dari_attempt_duration_seconds",
    "histogram",
    "How long an AI model was asked; without those passed by.",
    ("kind", "outcome"),
    _CALL_S,
)
ATTEMPT_FIRST_TOKEN = Family(
    "dari_attempt_first_token_seconds",
    "histogram",
    "From asking an AI model to its first text.",
    ("kind",),
    _TEXT_S,
)
CIRCUITS = Family(
    "dari_circuits",
    "gauge",
    "Circuits of servers and of AI models that were asked, by state; `dari status` names them.",
    ("of", "state"),
)
PROBES = Family("dari_probes_total", "counter", "Servers asked whether they are back.", ("outcome",))

LOCAL_STATE = Family("dari_local_model_state", "gauge", "1 for the state of the local model's process.", ("state",))
LOCAL_RESTARTS = Family("dari_local_model_restarts_total", "counter", "Times that its process was started again.")
LOCAL_MEMORY = Family("dari_local_model_memory_bytes", "gauge", "Memory of its process, without the mapped file.")
LOCAL_QUEUE = Family("dari_local_model_waiting", "gauge", "Questions that wait for it.")
LOCAL_RUNNING = Family("dari_local_model_running", "gauge", "Questions that it answers.")

STEP_DURATION = Family(
    "dari_step_duration_seconds",
    "histogram",
    "How long each step took; see Steps.",
    ("step", "outcome"),
    _STEP_S,
)
PARSE_DURATION = Family(
    "dari_parse_duration_seconds", "histogram", "Time of the parser in one batch of an upload.", (), _STEP_S
)
INGEST_BYTES = Family("dari_ingest_bytes_total", "counter", "Bytes of files that are stored as rows.")
INGEST_ROWS = Family("dari_ingest_rows_total", "counter", "Rows stored, and rows rejected.", ("outcome",))
OPEN_UPLOADS = Family("dari_open_uploads", "gauge", "Uploads that stream, those of syncs too.")
MAX_UPLOADS = Family("dari_max_open_uploads", "gauge", "Uploads that may stream at once (max_open_uploads).")

POOL_CONNECTIONS = Family("dari_database_connections", "gauge", "Connections of the pool to PostgreSQL.", ("state",))
POOL_MAX = Family("dari_database_max_connections", "gauge", "Most that it may have (database_max_connections).")
POOL_WAIT = Family(
    "dari_database_wait_seconds", "histogram", "Waits for a connection, where none was free at once.", (), _WAIT_S
)

SYNCS = Family("dari_syncs_total", "counter", "Syncs that this server ended, by what came of them.", ("state",))
SYNC_OVERDUE = Family(
    "dari_sync_overdue_seconds", "gauge", "How long the source that waits longest is due; 0 where none is."
)
SYNC_SOURCES = Family("dari_sync_sources", "gauge", "Sources of knowledge bases, by how they are.", ("state",))
OUTBOX_MESSAGES = Family("dari_outbox_messages", "gauge", "Messages to operators that have not arrived.")
OUTBOX_OLDEST = Family("dari_outbox_oldest_age_seconds", "gauge", "Age of the oldest of these; 0 without one.")
STORED_LOOK = Family(
    "dari_stored_figures_age_seconds",
    "gauge",
    "How old what is read from the database is: outbox, sources, overdue. It grows while the database is gone.",
)
ALERTS_SENT = Family("dari_alerts_sent_total", "counter", "Messages handed to operators' targets.", ("kind", "outcome"))
ALERTS_WAITING = Family("dari_alerts_waiting", "gauge", "Alerts in memory that are not in the outbox yet.")
HOUSEKEEPING = Family("dari_housekeeping_total", "counter", "What housekeeping has ended or removed.", ("what",))
HOUSEKEEPING_TIME = Family(
    "dari_housekeeping_last_success_timestamp_seconds", "gauge", "When its last whole round ended, as Unix time."
)

SPANS = Family("dari_trace_spans_total", "counter", "Spans that ended while traces are on.")
SPANS_EXPORTED = Family(
    "dari_trace_spans_exported_total", "counter", "Of these, how many the collector took, or not.", ("outcome",)
)

FAMILIES = tuple(value for value in tuple(globals().values()) if isinstance(value, Family))
"""All of them, in their order above. Beside them are `process_…`, of prometheus-client."""
