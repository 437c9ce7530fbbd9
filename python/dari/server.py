"""The composition root: builds every object, serves, drains, stops."""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import timedelta
from functools import partial
from queue import Empty, SimpleQueue
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from dari.access import open_audit, open_authenticator, open_tls
from dari.adapters.circuit import CircuitRules, WindowedCircuit
from dari.adapters.local_model import model_files
from dari.adapters.local_model.engines import EngineOptions
from dari.adapters.local_model.process import Limits, LocalModel
from dari.adapters.native import NativeEvidence, NativeLexer, NativePostings, ParserFactory, make_csv_writer
from dari.adapters.postgres.conversation_store import PostgresConversationStore
from dari.adapters.postgres.database import Database, Role
from dari.adapters.postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError
from dari.adapters.postgres.housekeeping_store import PostgresHousekeepingStore
from dari.adapters.postgres.keeper import PostgresKeeper
from dari.adapters.postgres.mapping_store import (
    AiModelStore,
    ChatConfigurationStore,
    KnowledgeBaseStore,
    PostgresLinkStore,
)
from dari.adapters.postgres.migrate import DatabaseAway, MigrationError, create_database, migrate, require_migrated
from dari.adapters.postgres.outbox_store import PostgresOutbox
from dari.adapters.postgres.row_reader import PostgresRowReader
from dari.adapters.postgres.sync_store import PostgresSyncStore
from dari.adapters.postgres.token_ledger import PostgresTokenLedger
from dari.adapters.postgres.upload_store import PostgresUploadStore
from dari.adapters.postgres.version_comparer import PostgresVersionComparer
from dari.adapters.postgres.version_reader import PostgresVersionReader
from dari.adapters.sources.addresses import AllowedAddresses
from dari.adapters.sources.bounds import FetchLimits
from dari.adapters.sources.reader import SourceFiles, SourcePlaces
from dari.adapters.sources.web import WebFetcher
from dari.adapters.tenant_secrets import TenantSecrets
from dari.adapters.upstreams import UpstreamDirectory
from dari.adapters.watched_files import UnusableFile
from dari.client.decompression import unpacked
from dari.core.alert_dispatch import AlertDispatcher, Target
from dari.core.alerts import AlertSink
from dari.core.caller_limits import CallerLimits
from dari.core.chat import Chat
from dari.core.errors import FailedPrecondition
from dari.core.event_log import EventLog, places_of
from dari.core.exports import Exports
from dari.core.housekeeping import Housekeeping, Retention
from dari.core.known_profiles import KnownProfiles
from dari.core.last_known import LastKnownChats
from dari.core.probing import Prober
from dari.core.profiles import Profiles
from dari.core.prompt import LocalContext
from dari.core.readiness import DatabaseWatch
from dari.core.search import Search
from dari.core.stand_by import SpareThreads
from dari.core.sync import Syncs
from dari.core.telemetry import Telemetry
from dari.core.thread_pools import EndingPool, Lane
from dari.core.timed_attempt import ServerTimeouts
from dari.core.token_budgets import TokenBudgets
from dari.core.unsaved_turns import UnsavedTurns
from dari.core.upload_session import UploadLimits, Uploads
from dari.core.uploads import MAX_CHUNK_BYTES
from dari.core.upstream_alerts import UpstreamAlerts
from dari.core.watchdog import Watchdog
from dari.core.watching import Watching
from dari.logs import captured, make_log
from dari.rpc.authentication import CallerInterceptor
from dari.rpc.chat import ChatService
from dari.rpc.errors import ErrorInterceptor
from dari.rpc.exports import ExportCalls
from dari.rpc.ingest import IngestService
from dari.rpc.lanes import Kind, LaneInterceptor
from dari.rpc.mapping import MappingService
from dari.rpc.observing import CallInterceptor
from dari.rpc.syncs import SyncCalls
from dari.settings import Settings, SettingsError
from dari.telemetry import ServerTelemetry
from dari.v1 import chat_pb2, chat_pb2_grpc, ingest_pb2, ingest_pb2_grpc, mapping_pb2, mapping_pb2_grpc

_MESSAGE_ROOM_BYTES = 64 * 1024
"""What a message may have beside the bytes of a chunk."""
_ADMIN_THREADS = 4
_CONNECTIONS_FOR_OTHERS = 4
"""Connections to the database that no second stream of an upload takes: for search, chat and the mapping."""
_DATABASE_START_INTERVAL_S = 0.5
"""Between two looks at a database that is not there yet."""
_STREAMS_PER_UPLOAD = 2
"""One that is taken over by another stream holds its thread until it has seen that."""
_UNWIND_TIMEOUT_S = 2.0
"""How long a cancelled handler may take to see that it is, and what closes to close."""
_CLOSE_TIMEOUT_S = 10.0
"""How long all that is open may take to close behind the drain; each thing that hangs takes `_UNWIND_TIMEOUT_S`."""
_LAST_TIMEOUT_S = 0.5
"""How long a handler may take that waited for what is now closed."""
_DATABASE_CIRCUIT = CircuitRules(consecutive_failures=2, min_outcomes=1_000, open_s=0.5, max_open_s=2.0, ramp_s=0.0)
"""For chats. Each look at a database that is gone may cost its whole timeout; one that is back is used at once."""
_SERVICES = (
    chat_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name,
    ingest_pb2.DESCRIPTOR.services_by_name["IngestService"].full_name,
    mapping_pb2.DESCRIPTOR.services_by_name["MappingService"].full_name,
)

_DO_WITHOUT_DATABASE = ("", _SERVICES[0])
"""Chat answers by the mapping known last; and as long as it does, the whole is worth its place behind a balancer."""
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class AddressInUse(Exception):
    """An address of the settings cannot be bound."""


class StoppedAtStart(Exception):
    """`stop` was called before `start` had come to its end."""


START_ERRORS: tuple[type[Exception], ...] = (
    SettingsError,
    AddressInUse,
    UnusableFile,
    EmbeddedPostgresError,  # DataFolderInUse is one.
    MigrationError,  # DatabaseUnreachable and NotMigrated are.
    FailedPrecondition,  # The manifest of the model files is broken.
    StoppedAtStart,
)
"""What `Server.start` raises where it cannot serve. The text of each is for people, and holds no secret."""


class Server:
    """A running dari. `start`, then `wait` or `stop`; or use it in a `with` statement. It starts once.

    `log` stands in for the one on standard error; tests use it. Thread-safe. A signal handler calls `stop` on a thread
    of its own as long as `start` has not returned: it may have interrupted whoever holds a lock that `stop` needs.
    """

    def __init__(self, settings: Settings, log: EventLog | None = None) -> None:
        self._settings = settings
        self._log = log or make_log(settings.log_level, settings.log_format)
        self._stop_wanted = False
        # An item for each call of `stop`, which ends the waits that it need not sit out. See also _stopped.
        self._stop_calls: SimpleQueue[None] = SimpleQueue()
        self._stop_delay_s = 0.0
        self._keeper: PostgresKeeper | None = None
        # Held while it starts and while it stops; guards _opened and _is_ended. Reentrant, so that a `stop` that
        # interrupts another on the same thread finds nothing left to do instead of waiting for itself.
        self._life = threading.RLock()
        self._opened: ExitStack | None = None
        self._is_ended = False
        self._pools: list[EndingPool] = []
        self._targets: Sequence[Target] = ()
        self._capture = ExitStack()
        # Holds one item from the end on. Unlike an Event's `set`, its `put` may interrupt the wait on the same thread.
        self._stopped: SimpleQueue[None] = SimpleQueue()
        self.address = settings.listen_address
        """Where it serves, with the real port once it is started."""
        self.admin_address = settings.admin_address
        """Where its health is served, with the real port once it is started."""
        self.metrics_address = settings.metrics_address
        """Where its metrics are served, with the real port once it is started; empty where they are not."""

    def start(self) -> Self:
        """Serve; or close what was opened, and raise one of START_ERRORS.

        Health is served first, and says NOT_SERVING until everything is there: a database that replays its log may
        take minutes. Nothing here forks a process that gRPC runs in: `subprocess` uses vfork(2) as long as it is not
        asked for a user, a group or a preexec_fn, and gRPC's fork handlers, which would complain, do not run.
        """
        with self._life:
            if self._opened is not None or self._is_ended:
                raise RuntimeError("A Server starts once.")
            self._capture.enter_context(captured(self._log, self._settings.log_level, self._settings.log_format))
            try:
                with ExitStack() as opened:
                    self._open(opened)
                    self._opened = opened.pop_all()
            except START_ERRORS as error:
                if self._stop_wanted and not isinstance(error, StoppedAtStart):
                    raise StoppedAtStart("dari was stopped while it started.") from error
                raise
            finally:
                if self._opened is None:
                    self._end()
        self._log.info(
            "serving",
            address=self.address,
            admin_address=self.admin_address,
            metrics_address=self.metrics_address,
        )
        return self

    def wait(self) -> None:
        """Block until it is stopped."""
        self._stopped.get()
        self._stopped.put(None)

    def stop(self, delay_s: float = 0.0) -> bool:
        """Say NOT_SERVING, let open calls go on for the drain time, end them, close everything. Idempotent.

        For `delay_s` it still takes calls, so that whoever sends them by its health sees that first; another call of
        `stop` ends that time.

        Returns whether all threads have ended. If not, a handler hangs in something that nobody can end, and Python
        would wait for it at its exit for ever: leave by `os._exit`. Raises nothing: what fails is logged.
        """
        self._stop_wanted = True
        self._stop_calls.put(None)
        if self._keeper is not None:
            self._keeper.interrupt()
        with self._life:
            if self._opened is not None:
                opened, self._opened = self._opened, None
                self._stop_delay_s = delay_s
                self._log.info("stopping", delay_s=delay_s, drain_timeout_s=self._settings.drain_timeout_s)
                try:
                    opened.close()
                except Exception as error:  # noqa: BLE001 - whoever stops it can do nothing about it but leave
                    self._log.error("stop_failed", error_type=type(error).__name__)
                self._end()
            has_ended = self._is_ended and self._have_threads_ended(0)
            if has_ended:
                self._capture.close()
            return has_ended

    def longest_stop_s(self, delay_s: float = 0.0) -> float:
        """How long `stop` may take, with a handler that hangs and a database that is gone."""
        return delay_s + self._settings.drain_timeout_s + _CLOSE_TIMEOUT_S

    def log_hanging(self) -> None:
        """Tell where each thread stands: for a stop that has taken longer than that."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():  # noqa: SLF001 - Python's own way to see them
            self._log.error(
                "stop_hangs", thread=names.get(ident, ""), stands_at=places_of(traceback.extract_stack(frame))
            )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _open(self, opened: ExitStack) -> None:
        settings = self._settings
        self._go_on()
        self._targets = _targets(settings)
        admin = opened.enter_context(_Admin(settings.admin_address))
        self.admin_address = admin.address
        telemetry = self._open_telemetry(opened)
        gate = CallerInterceptor(
            open_authenticator(settings, self._log, opened),
            open_audit(settings, self._log, opened),
            CallerLimits(
                at_once=settings.caller_calls_at_once,
                per_s=settings.caller_calls_per_s,
                burst=settings.caller_burst,
            ),
        )
        tls = open_tls(settings, self._log, opened)
        database = self._open_database(telemetry, opened)
        self._go_on()
        server, watching = self._build(database, gate, telemetry, opened)
        self.address = _bind(server, settings.listen_address, tls)
        server.start()
        opened.callback(self._drain, server)
        opened.callback(watching.stop)
        self._go_on()
        opened.callback(self._linger)
        admin.tell(serves=True, has_database=True)
        opened.callback(admin.tell, serves=False)
        watch = DatabaseWatch(
            partial(_look_at, database),
            lambda answers: admin.tell(has_database=answers),
            self._log,
            interval_s=settings.database_watch_interval_s,
        )
        watch.start()
        opened.callback(watch.close)

    def _go_on(self) -> None:
        if self._stop_wanted:
            raise StoppedAtStart("dari was stopped while it started.")

    def _end(self) -> None:
        """Whatever was opened is closed: let those go on who wait for it."""
        self._is_ended = True
        if self._have_threads_ended(_LAST_TIMEOUT_S):
            # A handler that is left behind may still fail, and gRPC log it, until the process ends.
            self._capture.close()
        self._stopped.put(None)

    def _linger(self) -> None:
        """Health says NOT_SERVING; go on until those who look at it have seen that."""
        with suppress(Empty):
            self._stop_calls.get_nowait()  # The call that stops it now.
            if self._stop_delay_s > 0:
                self._stop_calls.get(timeout=self._stop_delay_s)

    def _drain(self, server: grpc.Server) -> None:
        """Let open calls go on for the drain time, then cancel them and give their handlers a moment to see it."""
        drain_timeout_s = self._settings.drain_timeout_s
        server.stop(drain_timeout_s).wait(drain_timeout_s + _UNWIND_TIMEOUT_S)
        if not self._have_threads_ended(_UNWIND_TIMEOUT_S):
            self._log.warning("handlers_hang", drain_timeout_s=drain_timeout_s)

    def _have_threads_ended(self, timeout_s: float) -> bool:
        # The pool of the RPCs, made last, first: its handlers may still hand work to the others.
        states = [pool.has_ended_within(timeout_s) for pool in reversed(self._pools)]
        return all(states)

    def _pool(self, size: int, name: str) -> EndingPool:
        self._pools.append(pool := EndingPool(size, name))
        return pool

    def _open_lanes(self) -> dict[Kind, Lane]:
        """The threads of the RPCs, by their kind."""
        settings = self._settings
        lanes = {
            Kind.UNARY: Lane(settings.max_unary_calls, "max_unary_calls", threads=settings.unary_threads),
            Kind.CHAT: Lane(settings.max_chats, "max_chats"),
            # Which uploads may go on is decided when a stream says which one it is (core.upload_session).
            Kind.UPLOAD: Lane(_STREAMS_PER_UPLOAD * settings.max_open_uploads, "max_open_uploads"),
            Kind.EXPORT: Lane(settings.max_exports, "max_exports"),
            Kind.WATCH: Lane(settings.max_watchers, "max_watchers", remedy="ask with GetUpload or ListUpstreams"),
        }
        self._pools += lanes.values()
        return lanes

    def _open_telemetry(self, opened: ExitStack) -> ServerTelemetry:
        """Begun before anything that it tells of, and closed behind all of it."""
        telemetry = ServerTelemetry(self._settings, self._log, opened)
        try:
            self.metrics_address = telemetry.serve()
        except OSError as error:
            raise AddressInUse(_cannot_be_bound(self._settings.metrics_address)) from error
        return telemetry

    def _open_database(self, telemetry: ServerTelemetry, opened: ExitStack) -> Database:
        settings = self._settings
        if settings.database_dsn is not None:
            dsn = settings.database_dsn.get_secret_value()
            self._await_database(dsn)
            self._log.info("database_opened", kind="external")
        else:
            embedded = EmbeddedPostgres(settings.postgres_dir, max_connections=settings.database_max_connections)
            self._keeper = PostgresKeeper(embedded, self._log)
            self._go_on()
            opened.enter_context(self._keeper)
            create_database(embedded.admin_dsn)
            dsn = embedded.service_dsn()
            migrate(embedded.admin_dsn, "dari", "dari_service")
            capability = embedded.capability.name if embedded.capability else None
            self._log.info("database_opened", kind="embedded", pid=embedded.pid, capability=capability)
        database = Database(
            dsn,
            max_connections=settings.database_max_connections,
            wait_timeout_s=settings.database_wait_timeout_s,
            statement_timeout_s=settings.database_statement_timeout_s,
            on_wait=telemetry.on_database_wait,
        )
        # The end of the process does not wait for a connection that a statement runs in.
        opened.callback(_run_within, _UNWIND_TIMEOUT_S, database.close)
        telemetry.read_database(database)
        return database

    def _await_database(self, dsn: str) -> None:
        """Return when it is there and migrated. Raises MigrationError: at once where waiting would not help."""
        deadline_s = time.monotonic() + self._settings.database_start_timeout_s
        is_told = False
        while True:
            try:
                newer = require_migrated(dsn)
            except DatabaseAway:
                self._go_on()
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    raise
            else:
                if newer:
                    self._log.warning("database_is_newer", migrations=newer)
                return
            if not is_told:
                self._log.warning("database_awaited", timeout_s=self._settings.database_start_timeout_s)
                is_told = True
            with suppress(Empty):
                self._stop_calls.get(timeout=min(_DATABASE_START_INTERVAL_S, left_s))
            self._go_on()

    def _start_alerts(
        self, database: Database, directory: UpstreamDirectory, telemetry: Telemetry, opened: ExitStack
    ) -> AlertDispatcher:
        quiet = timedelta(seconds=self._settings.notify_quiet_s)
        alerts = AlertDispatcher(PostgresOutbox(database), self._targets, self._log, quiet=quiet, telemetry=telemetry)
        alerts.start()
        opened.callback(alerts.close)
        watch = UpstreamAlerts(directory.watched_circuits, directory.local_process, alerts, self._log, repeat=quiet)
        watch.start()
        opened.callback(watch.close)
        return alerts

    def _build(
        self, database: Database, gate: CallerInterceptor, figures: ServerTelemetry, opened: ExitStack
    ) -> tuple[grpc.Server, Watching]:
        settings, telemetry = self._settings, figures.telemetry
        watchdog = Watchdog()
        opened.callback(watchdog.close)
        local_model = _start_local_model(settings, self._log, opened)
        directory = UpstreamDirectory(
            tenant=settings.tenant,
            secrets=TenantSecrets(settings.secrets, settings.tenant),
            local_model=local_model,
            local_model_id=settings.local_model,
            circuit_rules=_circuit_rules(settings),
        )
        opened.callback(directory.close)
        figures.read_upstreams(directory)
        prober = Prober(directory.servers, settings.probe_interval_s, settings.connect_timeout_s, self._log, telemetry)
        prober.start()
        opened.callback(prober.close)
        alerts = self._start_alerts(database, directory, telemetry, opened)
        upload_limits = UploadLimits(
            max_open=settings.max_open_uploads,
            second_streams=_second_streams(settings),
            max_upload_bytes=settings.max_upload_bytes,
        )
        committers = self._pool(upload_limits.max_open + upload_limits.second_streams, "committer")

        conversations = PostgresConversationStore(database)
        links = PostgresLinkStore(database)
        search = Search(PostgresRowReader(database, NativePostings()), NativeLexer())
        evidence = NativeEvidence()
        upload_store = PostgresUploadStore(database, evidence, telemetry)
        versions = PostgresVersionReader(database, evidence)
        profiles = Profiles(versions, evidence)
        watching = Watching()
        housekeeping = Housekeeping(
            upload_store,
            PostgresHousekeepingStore(database),
            Retention(settings.version_grace_s, settings.keep_versions, settings.upload_expiry_s),
            settings.housekeeping_interval_s,
            self._log,
            telemetry,
        )
        opened.callback(housekeeping.close)
        housekeeping.start()
        make_parser = ParserFactory(
            batch_bytes=settings.batch_bytes,
            max_record_bytes=settings.max_record_bytes,
            max_cell_bytes=settings.max_cell_bytes,
            max_header_bytes=settings.max_header_bytes,
            max_columns=settings.max_columns,
        )
        database_circuit = WindowedCircuit(_DATABASE_CIRCUIT)
        turns = UnsavedTurns(conversations, conversations, database_circuit, self._log)
        turns.start()
        opened.callback(turns.close)
        budgets = TokenBudgets(
            PostgresTokenLedger(database),
            self._log,
            per_caller=settings.caller_tokens_per_day,
            per_tenant=settings.tenant_tokens_per_day,
        )
        budgets.start()
        opened.callback(budgets.close)
        chat = Chat(
            chats=LastKnownChats(links, database_circuit),
            turns=turns,
            search=search,
            profiles=KnownProfiles(profiles, self._log),
            local_context=_local_context(settings),
            directory=directory,
            watchdog=watchdog,
            log=self._log,
            alerts=alerts,
            default_timeout_s=settings.chat_timeout_s,
            server_timeouts=ServerTimeouts(settings.connect_timeout_s, settings.first_event_timeout_s),
            spare_threads=SpareThreads(self._pool(settings.max_stand_bys, "stand_by"), settings.max_stand_bys),
            database_timeout_s=settings.chat_database_timeout_s,
            budgets=budgets,
            telemetry=telemetry,
        )

        uploads = Uploads(upload_store, make_parser, committers, upload_limits, telemetry)
        figures.read_work(uploads, turns, alerts)
        syncs = _start_syncs(settings, database, uploads, alerts, self._log, telemetry, opened)

        lanes = self._open_lanes()
        figures.read_lanes({kind.value: lane for kind, lane in lanes.items()})
        server = grpc.server(
            # For what no lane is named for, and the lane interceptor names one for all.
            lanes[Kind.UNARY],
            interceptors=[
                LaneInterceptor(lanes),
                CallInterceptor(telemetry, self._log),
                ErrorInterceptor(self._log),
                gate,
            ],
            options=(*_SERVER_OPTIONS, *_connection_age(settings)),
        )
        chat_pb2_grpc.add_ChatServiceServicer_to_server(
            ChatService(chat=chat, conversations=conversations, upstreams=directory, watching=watching), server
        )
        ingest_pb2_grpc.add_IngestServiceServicer_to_server(
            IngestService(
                uploads=uploads,
                store=upload_store,
                watching=watching,
                search=search,
                exports=ExportCalls(
                    exports=Exports(versions, upload_store, make_csv_writer),
                    watchdog=watchdog,
                    stall_timeout_s=settings.export_stall_timeout_s,
                ),
                profiles=profiles,
                log=self._log,
                idle_timeout_s=settings.upload_idle_timeout_s,
                max_rejected_rows=settings.max_rejected_rows,
                max_rejected_share=settings.max_rejected_share,
            ),
            server,
        )
        mapping_pb2_grpc.add_MappingServiceServicer_to_server(
            MappingService(
                ai_models=AiModelStore(database),
                chat_configurations=ChatConfigurationStore(database),
                knowledge_bases=KnowledgeBaseStore(database),
                links=links,
                syncs=SyncCalls(syncs=syncs, comparer=PostgresVersionComparer(database)),
                forget_upstream=directory.forget,
            ),
            server,
        )
        reflection.enable_server_reflection((*_SERVICES, reflection.SERVICE_NAME), server)
        return server, watching


_SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_CHUNK_BYTES + _MESSAGE_ROOM_BYTES),
    # Two servers on one port would share its calls at random; an address in use must be an error.
    ("grpc.so_reuseport", 0),
    # A gateway asks on the wire whether we live (docker/envoy.yaml: every 15 s). By default gRPC takes more than two
    # such questions in five minutes for an attack, and closes the connection with all its calls.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


def _connection_age(settings: Settings) -> tuple[tuple[str, int], ...]:
    """Calls under way when a connection is asked to end go on without a limit of their own."""
    age_s = settings.max_connection_age_s
    return () if age_s is None else (("grpc.max_connection_age_ms", int(age_s * 1_000)),)


def _start_syncs(
    settings: Settings,
    database: Database,
    uploads: Uploads,
    alerts: AlertSink,
    log: EventLog,
    telemetry: Telemetry,
    opened: ExitStack,
) -> Syncs:
    addresses = AllowedAddresses(map(str, settings.source_networks_allowed))
    limits = FetchLimits(settings.max_upload_bytes, settings.source_timeout_s)
    reader = SourceFiles(
        WebFetcher(addresses, limits),
        SourcePlaces(settings.source_folders, settings.source_schemes),
        TenantSecrets(settings.secrets, settings.tenant),
        unpacked,
        spool_dir=settings.data_dir / "sources",
        limits=limits,
    )
    syncs = Syncs(
        PostgresSyncStore(database),
        reader,
        uploads,
        alerts,
        log,
        interval_s=settings.sync_poll_interval_s,
        lease_s=settings.sync_lease_s,
        max_at_once=settings.max_syncs,
        max_rejected=(settings.max_rejected_rows, settings.max_rejected_share),
        telemetry=telemetry,
    )
    syncs.start()
    opened.callback(syncs.close)
    return syncs


def _second_streams(settings: Settings) -> int:
    """Uploads that may store two batches at once, such that every other upload still finds a connection."""
    if settings.copy_streams == 1:
        return 0
    spare = settings.database_max_connections - settings.max_open_uploads - _CONNECTIONS_FOR_OTHERS
    return max(0, min(spare, settings.max_open_uploads))


class _Admin:
    """The second server: health checks starve on a busy one."""

    def __init__(self, address: str) -> None:
        self._health = health.HealthServicer()
        self._server = grpc.server(ThreadPoolExecutor(_ADMIN_THREADS, "admin"), options=_SERVER_OPTIONS)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        self.address = _bind(self._server, address)
        self._lock = threading.Lock()  # guards the two below, and the order in which they are told
        self._serves = False
        self._has_database = False
        self.tell()

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.stop(None).wait(_UNWIND_TIMEOUT_S)

    def tell(self, *, serves: bool | None = None, has_database: bool | None = None) -> None:
        """Tell the state of the whole and of every service; None leaves a part of it as it is."""
        with self._lock:
            self._serves = self._serves if serves is None else serves
            self._has_database = self._has_database if has_database is None else has_database
            for service in ("", *_SERVICES):
                is_fit = self._serves and (self._has_database or service in _DO_WITHOUT_DATABASE)
                self._health.set(service, _SERVING if is_fit else _NOT_SERVING)


def _bind(server: grpc.Server, address: str, tls: grpc.ServerCredentials | None = None) -> str:
    try:
        port = server.add_insecure_port(address) if tls is None else server.add_secure_port(address, tls)
    except RuntimeError:
        port = 0
    if not port:
        raise AddressInUse(_cannot_be_bound(address))
    return f"{address.rpartition(':')[0]}:{port}"


def _look_at(database: Database) -> None:
    """Raises Unavailable where it does not answer."""
    with database.transaction(Role.HOUSEKEEPER, tenant=None):
        pass


def _cannot_be_bound(address: str) -> str:
    return f"{address} cannot be bound; is another server there? Choose another address."


def _run_within(timeout_s: float, action: Callable[[], None]) -> None:
    """Run `action`, and leave it to itself where it takes longer."""
    thread = threading.Thread(target=action, name="closing", daemon=True)
    thread.start()
    thread.join(timeout_s)


def _circuit_rules(settings: Settings) -> CircuitRules:
    return CircuitRules(
        consecutive_failures=settings.circuit_consecutive_failures,
        failure_rate=settings.circuit_failure_rate,
        min_outcomes=settings.circuit_min_outcomes,
        window_s=settings.circuit_window_s,
        open_s=settings.circuit_open_s,
        max_open_s=settings.circuit_max_open_s,
        ramp_s=settings.circuit_ramp_s,
    )


def _local_context(settings: Settings) -> LocalContext:
    """Half of it is for the prompt: reading one is what takes a CPU its time."""
    return LocalContext(settings.local_context_tokens, settings.local_context_tokens // 2)


def _targets(settings: Settings) -> Sequence[Target]:
    """Whom operators named, before anything is opened. Raises SettingsError."""
    if not settings.notify_urls:
        return ()
    from dari.adapters.notifier import apprise_targets

    targets, unknown = apprise_targets(settings.notify_urls)
    if unknown:
        raise SettingsError([f"notify_urls.{name}: fits no service of apprise" for name in unknown])
    return targets


def _start_local_model(settings: Settings, log: EventLog, opened: ExitStack) -> LocalModel | None:
    if not settings.local_model:
        return None
    files = model_files.read_manifest(settings.model_dir)
    if settings.local_model not in files:
        log.warning("local_model_missing", model_file=settings.local_model, remedy="dari model add")
        return None
    context = _local_context(settings)
    options = EngineOptions(
        threads=settings.local_threads or 0,
        context_tokens=context.context_tokens,
        prompt_limit_tokens=context.prompt_tokens,
        slots=settings.local_slots,
    )
    memory_limit_mib = settings.local_memory_limit_mib
    local_model = LocalModel(
        files[settings.local_model],
        log,
        engine=settings.local_engine,
        options=options,
        queue_size=settings.local_queue_size,
        limits=Limits(memory_bytes=None if memory_limit_mib is None else memory_limit_mib * 1024 * 1024),
    )
    return opened.enter_context(local_model)
