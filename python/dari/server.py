"""The composition root: builds every object, serves, drains, stops."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from dari.adapters.local_model import model_files
from dari.adapters.local_model.engines import EngineOptions
from dari.adapters.local_model.process import LocalModel
from dari.adapters.native import NativeLexer, ParserFactory
from dari.adapters.postgres.conversation_store import PostgresConversationStore
from dari.adapters.postgres.database import Database
from dari.adapters.postgres.embedded import EmbeddedPostgres
from dari.adapters.postgres.mapping_store import (
    AiModelStore,
    ChatConfigurationStore,
    KnowledgeBaseStore,
    PostgresLinkStore,
)
from dari.adapters.postgres.migrate import create_database, migrate
from dari.adapters.postgres.row_reader import PostgresRowReader
from dari.adapters.postgres.upload_store import PostgresUploadStore
from dari.adapters.upstreams import UpstreamDirectory
from dari.core.chat import Chat
from dari.core.event_log import EventLog
from dari.core.search import Search
from dari.core.upload_session import Uploads
from dari.core.uploads import MAX_CHUNK_BYTES
from dari.core.watchdog import Watchdog
from dari.logs import make_log
from dari.rpc.chat import ChatService
from dari.rpc.errors import ErrorInterceptor
from dari.rpc.ingest import IngestService
from dari.rpc.mapping import MappingService
from dari.settings import Settings
from dari.v1 import chat_pb2, chat_pb2_grpc, ingest_pb2, ingest_pb2_grpc, mapping_pb2, mapping_pb2_grpc

_MESSAGE_ROOM_BYTES = 64 * 1024
"""What a message may have beside the bytes of a chunk."""
_ADMIN_THREADS = 4
_SERVICES = (
    chat_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name,
    ingest_pb2.DESCRIPTOR.services_by_name["IngestService"].full_name,
    mapping_pb2.DESCRIPTOR.services_by_name["MappingService"].full_name,
)


class AddressInUse(Exception):
    """An address of the settings cannot be bound."""


class Server:
    """A running dari. `start`, then `wait` or `stop`; or use it in a `with` statement."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._log = make_log(settings.log_level, settings.log_format)
        self._opened = ExitStack()
        self._stopped = threading.Event()
        self._stop_lock = threading.Lock()
        self.address = settings.listen_address
        """Where it serves, with the real port once it is started."""
        self.admin_address = settings.admin_address
        """Where its health is served, with the real port once it is started."""

    def start(self) -> Self:
        """Serve, or close what was opened and raise what prevents it."""
        with ExitStack() as opened:
            # Child processes first: gRPC must not run where a process forks.
            database = _open_database(self._settings, opened)
            self._health = opened.enter_context(_Admin(self._settings.admin_address))
            self.admin_address = self._health.address
            server = self._build(database, opened)
            self.address = _bind(server, self._settings.listen_address)
            server.start()
            opened.callback(lambda: server.stop(self._settings.drain_timeout_s).wait())
            self._health.set_serving(True)
            self._opened = opened.pop_all()
        self._log.info("serving", address=self.address, admin_address=self.admin_address)
        return self

    def wait(self) -> None:
        """Block until it is stopped."""
        self._stopped.wait()

    def stop(self) -> None:
        """Say NOT_SERVING, let open calls go on for the drain time, end them, close everything. Idempotent."""
        with self._stop_lock:
            if not self._stopped.is_set():
                self._log.info("stopping", drain_timeout_s=self._settings.drain_timeout_s)
                self._health.set_serving(False)
                self._opened.close()
                self._stopped.set()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _build(self, database: Database, opened: ExitStack) -> grpc.Server:
        settings = self._settings
        watchdog = Watchdog()
        opened.callback(watchdog.close)
        directory = UpstreamDirectory(
            secrets=settings.secrets,
            local_model=_start_local_model(settings, self._log, opened),
            local_model_id=settings.local_model,
            failures_to_open=settings.circuit_failure_threshold,
            open_s=settings.circuit_open_s,
        )
        opened.callback(directory.close)
        committers = opened.enter_context(ThreadPoolExecutor(settings.max_open_uploads, "committer"))

        conversations = PostgresConversationStore(database)
        links = PostgresLinkStore(database)
        search = Search(PostgresRowReader(database), NativeLexer())
        upload_store = PostgresUploadStore(database)
        make_parser = ParserFactory(
            batch_bytes=settings.batch_bytes,
            block_rows=settings.block_rows,
            max_record_bytes=settings.max_record_bytes,
            max_columns=settings.max_columns,
        )
        chat = Chat(
            links=links,
            conversations=conversations,
            search=search,
            directory=directory,
            watchdog=watchdog,
            log=self._log,
            default_timeout_s=settings.chat_timeout_s,
            connect_timeout_s=settings.connect_timeout_s,
        )

        server = grpc.server(
            ThreadPoolExecutor(settings.rpc_threads, "rpc"),
            interceptors=[ErrorInterceptor(self._log)],
            # A call beyond the threads is refused at once instead of waiting without an end.
            maximum_concurrent_rpcs=settings.rpc_threads,
            options=_SERVER_OPTIONS,
        )
        chat_pb2_grpc.add_ChatServiceServicer_to_server(
            ChatService(
                tenant=settings.tenant, chat=chat, conversations=conversations, upstream_states=directory.states
            ),
            server,
        )
        ingest_pb2_grpc.add_IngestServiceServicer_to_server(
            IngestService(
                tenant=settings.tenant,
                uploads=Uploads(upload_store, make_parser, committers, settings.max_open_uploads),
                store=upload_store,
                search=search,
                log=self._log,
                idle_timeout_s=settings.upload_idle_timeout_s,
                max_rejected_rows=settings.max_rejected_rows,
            ),
            server,
        )
        mapping_pb2_grpc.add_MappingServiceServicer_to_server(
            MappingService(
                tenant=settings.tenant,
                ai_models=AiModelStore(database),
                chat_configurations=ChatConfigurationStore(database),
                knowledge_bases=KnowledgeBaseStore(database),
                links=links,
            ),
            server,
        )
        reflection.enable_server_reflection((*_SERVICES, reflection.SERVICE_NAME), server)
        return server


_SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_CHUNK_BYTES + _MESSAGE_ROOM_BYTES),
    # Two servers on one port would share its calls at random; an address in use must be an error.
    ("grpc.so_reuseport", 0),
)


class _Admin:
    """The second server: health checks starve on a busy one."""

    def __init__(self, address: str) -> None:
        self._health = health.HealthServicer()
        self._server = grpc.server(ThreadPoolExecutor(_ADMIN_THREADS, "admin"), options=_SERVER_OPTIONS)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        self.address = _bind(self._server, address)
        self.set_serving(False)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.stop(None).wait()

    def set_serving(self, serving: bool) -> None:
        """Tell the state of the whole and of every service."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *_SERVICES):
            self._health.set(service, status)


def _bind(server: grpc.Server, address: str) -> str:
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if not port:
        raise AddressInUse(f"{address} cannot be bound; is another server there? Choose another address.")
    return f"{address.rpartition(':')[0]}:{port}"


def _open_database(settings: Settings, opened: ExitStack) -> Database:
    if settings.database_dsn is not None:
        dsn = settings.database_dsn.get_secret_value()
    else:
        embedded = opened.enter_context(EmbeddedPostgres(settings.postgres_dir))
        create_database(embedded.admin_dsn)
        dsn = embedded.service_dsn()
        migrate(embedded.admin_dsn, "dari", "dari_service")
    database = Database(
        dsn,
        max_connections=settings.database_max_connections,
        wait_timeout_s=settings.database_wait_timeout_s,
        statement_timeout_s=settings.database_statement_timeout_s,
    )
    opened.callback(database.close)
    return database


def _start_local_model(settings: Settings, log: EventLog, opened: ExitStack) -> LocalModel | None:
    if not settings.local_model:
        return None
    files = model_files.read_manifest(settings.model_dir)
    if settings.local_model not in files:
        log.warning("local_model_missing", model_file=settings.local_model, remedy="dari model add")
        return None
    options = EngineOptions(threads=settings.local_threads or 0, context_tokens=settings.local_context_tokens)
    local_model = LocalModel(
        files[settings.local_model],
        engine=settings.local_engine,
        options=options,
        queue_size=settings.local_queue_size,
    )
    return opened.enter_context(local_model)
