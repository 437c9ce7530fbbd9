"""The life of the server: what keeps it from starting, what it does while the database is gone, how it ends."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import SimpleQueue

import grpc
import psycopg2
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from psycopg2.extensions import make_dsn

from dari.adapters.local_model.model_files import add_model_file
from dari.adapters.postgres.embedded import DataFolderInUse, EmbeddedPostgres
from dari.adapters.postgres.migrate import DatabaseUnreachable, NotMigrated
from dari.core.errors import FailedPrecondition
from dari.server import START_ERRORS, AddressInUse, Server, StoppedAtStart, _second_streams
from dari.settings import Settings, load_settings
from dari.v1 import ingest_pb2, mapping_pb2
from tests.fix_postgres import PostgresDsns
from tests.support.event_log import RecordedEvents
from tests.support.running_dari import RunningDari

WAIT_S = 60.0
"""Longest wait for an event that comes in milliseconds."""
CSV = b"id,name\n1,one\n"
BASE = "knowledgeBases/sales"

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine sets for its own dari takes no part."""
    for name in [name for name in os.environ if name.startswith("DARI_") and not name.startswith("DARI_TEST_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def settings(database: PostgresDsns, tmp_path: Path) -> Settings:
    """Free ports, a database of the test's own, no local model."""
    return _settings(tmp_path, database_dsn=database.service_dsn)


def test_it_serves_and_stops(settings: Settings) -> None:
    """Health says so on the other port; afterwards all threads have ended, and `wait` comes back at once."""
    server = Server(settings, events := RecordedEvents())
    with server, RunningDari(server.address) as dari:
        assert _health(server) == SERVING
        assert not dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest()).ai_models
    assert server.stop()
    server.wait()
    server.wait()
    assert events.names() == ["database_opened", "serving", "stopping"]
    assert events.fields("database_opened") == [{"kind": "external"}]


def test_it_starts_once(settings: Settings) -> None:
    """Another start is a defect of the caller, before and after the end."""
    with Server(settings, RecordedEvents()) as server, pytest.raises(RuntimeError):
        server.start()
    with pytest.raises(RuntimeError):
        server.start()


# What keeps it from starting.


def test_an_address_that_is_taken_is_named(settings: Settings) -> None:
    """For both of its addresses; and what was opened before is closed, so that the other one is free again."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        taken_address, free_address = (f"127.0.0.1:{place.getsockname()[1]}" for place in (taken, other))
        other.close()
        for listen, admin in ((taken_address, free_address), (free_address, taken_address)):
            addresses = {"listen_address": listen, "admin_address": admin}
            with pytest.raises(AddressInUse, match=taken_address):
                Server(settings.model_copy(update=addresses), RecordedEvents()).start()
    with Server(settings.model_copy(update=addresses), RecordedEvents()) as server:
        assert server.address == free_address


def test_a_data_folder_that_is_held_is_refused(postgres_dir: Path) -> None:
    """By another dari of this machine."""
    settings = _settings(postgres_dir)
    with EmbeddedPostgres(settings.postgres_dir, durable=False), pytest.raises(DataFolderInUse):
        Server(settings, RecordedEvents()).start()


UNREACHABLE = {
    "nobody listens": "postgresql://canary-user:canary-password@127.0.0.1:1/canary-database",
    "no such socket": "host=/nowhere/canary-folder user=canary-user dbname=canary-database",
    "no such host": "postgresql://canary-user@canary-host.invalid/canary-database",
    "no DSN at all": "canary-password with spaces",
    "a wrong escape": "postgresql://canary-user:canary%zz@127.0.0.1/canary-database",
}


@pytest.mark.parametrize("dsn", UNREACHABLE.values(), ids=UNREACHABLE.keys())
def test_a_database_that_is_not_reached_is_told_without_its_dsn(tmp_path: Path, dsn: str) -> None:
    """The message says why in our own words; libpq's name host, user and what it could not read."""
    with pytest.raises(DatabaseUnreachable) as caught:
        Server(_settings(tmp_path, database_dsn=dsn), RecordedEvents()).start()
    assert "canary" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


def test_a_database_without_our_tables_is_refused(postgres_server: PostgresDsns, tmp_path: Path) -> None:
    """The message says what to run: a server that migrates by itself would need the rights to do so."""
    settings = _settings(tmp_path, database_dsn=postgres_server.admin_dsn)
    with pytest.raises(NotMigrated, match=r"lacks .*0001_foundation.*Run: dari migrate"):
        Server(settings, RecordedEvents()).start()


def test_a_user_without_the_roles_is_refused(database: PostgresDsns, tmp_path: Path) -> None:
    """Otherwise every single call would fail; the message does not name the user, who is a part of the DSN."""
    user = "dari_stranger"
    _execute(database.admin_dsn, f"CREATE ROLE {user} LOGIN PASSWORD 'stranger'")
    dsn = make_dsn(database.service_dsn, user=user, password="stranger")
    try:
        with pytest.raises(
            NotMigrated, match="may not take on dari_app, dari_housekeeper, dari_ingest, dari_reader"
        ) as caught:
            Server(_settings(tmp_path, database_dsn=dsn), RecordedEvents()).start()
    finally:
        _execute(database.admin_dsn, f"DROP ROLE {user}")
    assert user not in str(caught.value)


def test_a_broken_manifest_of_models_is_told(settings: Settings) -> None:
    """And not found out by the first question."""
    settings.model_dir.mkdir()
    (settings.model_dir / "manifest.json").write_text("{")
    with pytest.raises(FailedPrecondition, match=r"manifest\.json"):
        Server(settings.model_copy(update={"local_model": "any"}), RecordedEvents()).start()


def test_a_model_that_cannot_be_loaded_does_not_delay_the_start(settings: Settings) -> None:
    """It loads behind the serving server; whoever waits for it is told by its own state."""
    path = settings.data_dir / "broken.ggml"
    path.write_bytes(b"lmgg" + bytes(64))
    add_model_file(settings.model_dir, path, model_id="broken", architecture="llama")
    with Server(settings.model_copy(update={"local_model": "broken"}), RecordedEvents()) as server:
        assert _health(server) == SERVING


# While it starts.


def test_health_says_not_serving_until_everything_is_there(tmp_path: Path) -> None:
    """A database may take its time: here it takes the connection and says nothing until health was asked."""
    with _silent_database() as (dsn, connected, hang_up):
        server = Server(_settings(tmp_path, database_dsn=dsn), RecordedEvents())
        errors = _in_thread(server.start)
        connected.get(timeout=WAIT_S)
        assert _health(server) == NOT_SERVING
        hang_up()
        assert isinstance(errors.get(timeout=WAIT_S), DatabaseUnreachable)


def test_a_stop_during_the_start_ends_it(tmp_path: Path) -> None:
    """Whatever the start would have come to; `wait` does not hang."""
    with _silent_database() as (dsn, connected, hang_up):
        server = Server(_settings(tmp_path, database_dsn=dsn), RecordedEvents())
        errors = _in_thread(server.start)
        connected.get(timeout=WAIT_S)
        stopping = _in_thread(server.stop)
        hang_up()
        assert isinstance(errors.get(timeout=WAIT_S), START_ERRORS)
        assert stopping.get(timeout=WAIT_S) is None
    server.wait()
    assert server.stop()


def test_a_stop_before_the_start_prevents_it(settings: Settings) -> None:
    """As when the signal comes early."""
    server = Server(settings, RecordedEvents())
    server.stop()
    with pytest.raises(StoppedAtStart):
        server.start()
    server.wait()


# The embedded database.


def test_a_dead_database_is_unavailable_and_comes_back_by_itself(postgres_dir: Path) -> None:
    """The postmaster is killed; meanwhile calls say UNAVAILABLE, then the same call works, and the data is there.

    A file that it needs is taken away for as long as the test looks at the time between.
    """
    settings, events = _settings(postgres_dir), RecordedEvents()
    with Server(settings, events) as server, RunningDari(server.address) as dari:
        dari.make_knowledge_base("sales")
        (opened,) = events.fields("database_opened")
        control = settings.postgres_dir / "cluster" / "global" / "pg_control"
        control.rename(control.with_name("moved"))
        os.kill(int(str(opened["pid"])), signal.SIGKILL)
        assert events.wait_for("embedded_postgres_not_restarted", 1, WAIT_S)
        with pytest.raises(grpc.RpcError) as caught:
            _list_bases(dari)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert _health(server) == SERVING
        control.with_name("moved").rename(control)
        assert events.wait_for("embedded_postgres_restarted", 1, WAIT_S)
        assert _list_bases(dari) == [BASE]
    assert server.stop()
    assert events.fields("internal_error") == []


# How it ends.


def test_an_open_call_goes_on_during_the_drain(settings: Settings) -> None:
    """The upload is finished after `stop` was called, while health says NOT_SERVING."""
    server = Server(settings, events := RecordedEvents()).start()
    with RunningDari(server.address) as dari:
        dari.make_knowledge_base("sales")
        messages, answers = _open_upload(dari)
        assert next(answers).HasField("opened")
        stopping = _in_thread(server.stop)
        assert events.wait_for("stopping", 1, WAIT_S)
        _wait_for_health(server, NOT_SERVING)
        messages.put(_chunk())
        messages.put(ingest_pb2.IngestRequest(finish=ingest_pb2.FinishUpload(total_size_bytes=len(CSV))))
        assert list(answers)[-1].completed.receipt.rows_stored == 1
    assert stopping.get(timeout=WAIT_S) is None
    assert server.stop()


def test_a_call_that_outlasts_the_drain_is_cancelled(settings: Settings) -> None:
    """And its handler ends, so that nothing holds the process."""
    server = Server(settings.model_copy(update={"drain_timeout_s": 0.1}), RecordedEvents()).start()
    with RunningDari(server.address) as dari:
        dari.make_knowledge_base("sales")
        messages, answers = _open_upload(dari)
        assert next(answers).HasField("opened")
        assert server.stop()
        with pytest.raises(grpc.RpcError):
            next(answers)
        messages.put(None)


def test_a_handler_that_waits_in_the_database_ends_with_the_stop(database: PostgresDsns, settings: Settings) -> None:
    """Here for a lock that is never given; the statement's own limit is far away."""
    limits = {"drain_timeout_s": 0.1, "database_statement_timeout_s": 10 * WAIT_S}
    server = Server(settings.model_copy(update=limits), RecordedEvents()).start()
    with closing(psycopg2.connect(database.admin_dsn)) as locker, RunningDari(server.address) as dari:
        locker.cursor().execute("LOCK TABLE dari.ai_models IN ACCESS EXCLUSIVE MODE")
        waiting = dari.mapping.ListAiModels.future(mapping_pb2.ListAiModelsRequest())
        _wait_until(lambda: _execute(database.admin_dsn, "SELECT 1 FROM pg_locks WHERE NOT granted") == [(1,)])
        assert server.stop()
        assert isinstance(waiting.exception(timeout=WAIT_S), grpc.RpcError)


def test_a_handler_that_hangs_for_ever_does_not_hold_the_stop(settings: Settings) -> None:
    """`stop` comes back and says that a thread is left behind, so that the command line leaves by `os._exit`."""
    server = Server(settings.model_copy(update={"drain_timeout_s": 0.1}), events := RecordedEvents()).start()
    released = threading.Event()
    hanging = server._pools[-1].submit(released.wait)
    _wait_until(hanging.running)
    assert not server.stop()
    server.wait()
    released.set()
    _wait_until(server.stop)
    assert events.names()[-2:] == ["stopping", "handlers_hang"]


def test_stop_may_come_from_several_threads(settings: Settings) -> None:
    """All of them come back when everything is closed."""
    server = Server(settings, events := RecordedEvents()).start()
    stopping = [_in_thread(server.stop) for _ in range(4)]
    server.wait()
    assert [ended.get(timeout=WAIT_S) for ended in stopping] == [None] * 4
    assert events.names().count("stopping") == 1


@pytest.mark.parametrize(
    ("connections", "open_uploads", "copy_streams", "second_streams"),
    [(24, 16, 2, 4), (24, 16, 1, 0), (20, 16, 2, 0), (4, 16, 2, 0), (21, 16, 2, 1), (100, 16, 2, 16)],
)
def test_second_streams_leave_a_connection_for_each_upload_and_some_for_others(
    connections: int, open_uploads: int, copy_streams: int, second_streams: int
) -> None:
    settings = load_settings(
        database_max_connections=connections, max_open_uploads=open_uploads, copy_streams=copy_streams
    )
    assert _second_streams(settings) == second_streams


def test_stop_may_come_from_a_signal_handler(settings: Settings) -> None:
    """On the very thread that waits for the end."""
    server = Server(settings, RecordedEvents()).start()
    former = signal.signal(signal.SIGUSR1, lambda number, frame: server.stop())
    try:
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        server.wait()
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert server.stop()


def _settings(data_dir: Path, **others: object) -> Settings:
    """Free ports, no local model, and no wait for a database that is not there."""
    chosen = {"listen_address": "127.0.0.1:0", "admin_address": "127.0.0.1:0", "local_model": ""}
    return load_settings(**{**chosen, "data_dir": data_dir, "database_start_timeout_s": 0, **others})


def _health(server: Server) -> int:
    with grpc.insecure_channel(server.admin_address) as channel:
        request = health_pb2.HealthCheckRequest()
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=WAIT_S, wait_for_ready=True).status)


def _wait_for_health(server: Server, status: int) -> None:
    with grpc.insecure_channel(server.admin_address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
        assert any(state.status == status for state in watch)
        watch.cancel()


def _list_bases(dari: RunningDari) -> list[str]:
    answer = dari.mapping.ListKnowledgeBases(mapping_pb2.ListKnowledgeBasesRequest())
    return [base.name for base in answer.knowledge_bases]


def _open_upload(
    dari: RunningDari,
) -> tuple[SimpleQueue[ingest_pb2.IngestRequest | None], Iterator[ingest_pb2.IngestResponse]]:
    """An upload that is open: where to put its next messages, None for the end, and what is answered."""
    messages: SimpleQueue[ingest_pb2.IngestRequest | None] = SimpleQueue()
    opening = ingest_pb2.OpenUpload(knowledge_base=BASE, upload_id="an-upload", mode=ingest_pb2.UPLOAD_MODE_REPLACE)
    messages.put(ingest_pb2.IngestRequest(open=opening))
    return messages, dari.ingest.Ingest(iter(messages.get, None))


def _chunk() -> ingest_pb2.IngestRequest:
    return ingest_pb2.IngestRequest(chunk=ingest_pb2.UploadChunk(offset_bytes=0, data=CSV))


@contextmanager
def _silent_database() -> Iterator[tuple[str, SimpleQueue[None], Callable[[], None]]]:
    """A place that takes connections and answers nothing: its DSN, what tells of a connection, and how to hang up."""
    connected: SimpleQueue[None] = SimpleQueue()
    hung_up = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take() -> None:
            connection, _ = listener.accept()
            with connection:
                connected.put(None)
                hung_up.wait(WAIT_S)

        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield f"host=127.0.0.1 port={listener.getsockname()[1]} user=nobody sslmode=disable", connected, hung_up.set
        finally:
            hung_up.set()
            thread.join(WAIT_S)


def _in_thread(action: Callable[[], object]) -> SimpleQueue[BaseException | None]:
    """Run it elsewhere; gives what it raised, or None, when it has ended."""
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def run() -> None:
        try:
            action()
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)

    threading.Thread(target=run).start()
    return ended


def _wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    pytest.fail("it did not come to be")


def _execute(dsn: str, statement: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(dsn)) as session, session, session.cursor() as cur:
        cur.execute(statement)
        return cur.fetchall() if cur.description else []
