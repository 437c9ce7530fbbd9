"""The embedded server: one holder, no life of its own, nobody else on its socket, no row in its log."""

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import psycopg2
import pytest

from dari.adapters.postgres.embedded import DataFolderInUse, EmbeddedPostgres, EmbeddedPostgresError
from tests.fix_postgres import open_folder

WAIT_S = 60.0
"""Longest wait for an event that comes in milliseconds."""

HOLDER = """
import sys
from pathlib import Path
from dari.adapters.postgres.embedded import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1]), durable=False) as server:
    print(server.pid, server.admin_dsn, flush=True)
    sys.stdin.read()
"""
"""Another dari: holds a folder until its standard input is closed."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """A folder whose server was started once; each test leaves it stopped."""
    with open_folder() as folder:
        with _server(folder / "pg"):
            pass
        yield folder / "pg"


def test_data_survives_stop_and_start(data_dir: Path) -> None:
    """What was committed is there after a restart, under the same DSN; what was not is not."""
    with _server(data_dir) as server:
        dsn = server.admin_dsn
        _execute(dsn, "CREATE TABLE kept AS SELECT '한국' AS word")
        open_transaction = psycopg2.connect(dsn)
        open_transaction.cursor().execute("INSERT INTO kept VALUES ('lost')")
    with _server(data_dir) as server:
        assert server.admin_dsn == dsn
        assert _execute(dsn, "SELECT word FROM kept") == [("한국",)]
    open_transaction.close()


def test_start_makes_a_utf8_database_in_code_point_order(data_dir: Path) -> None:
    """The locale is PostgreSQL's own C.UTF-8, whatever the machine has, and the time zone is UTC."""
    with _server(data_dir) as server:
        query = "SELECT datlocprovider, datlocale, pg_encoding_to_char(encoding), current_setting('timezone')"
        rows = _execute(server.admin_dsn, query + " FROM pg_database WHERE datname = 'postgres'")
    assert rows == [("b", "C.UTF-8", "UTF8", "UTC")]


def test_commits_are_durable_and_a_large_load_has_room(data_dir: Path) -> None:
    """By default a commit waits for the disk."""
    with EmbeddedPostgres(data_dir) as server:
        names = ("fsync", "synchronous_commit", "full_page_writes", "max_wal_size")
        settings = [_execute(server.admin_dsn, f"SHOW {name}")[0][0] for name in names]
    assert settings == ["on", "on", "on", "4GB"]


def test_stop_can_be_called_twice_and_before_start(data_dir: Path) -> None:
    """Stop does nothing where nothing runs, and the DSNs say so instead of leading nowhere."""
    server = EmbeddedPostgres(data_dir, durable=False)
    server.stop()
    server.start()
    server.stop()
    server.stop()
    assert not server.is_running
    with pytest.raises(EmbeddedPostgresError, match="does not run"):
        _ = server.admin_dsn


def test_a_second_start_of_the_same_object_is_an_error(data_dir: Path) -> None:
    """And it leaves the running server alone."""
    with _server(data_dir) as server:
        with pytest.raises(EmbeddedPostgresError, match="started already"):
            server.start()
        assert server.is_running


def test_a_second_holder_is_refused_with_the_folder_and_the_pid(data_dir: Path) -> None:
    """The message names who holds the folder; afterwards the folder is free."""
    with _holder(data_dir) as (process, _, dsn):
        with pytest.raises(DataFolderInUse) as caught:
            EmbeddedPostgres(data_dir, durable=False).start()
        assert caught.value.pid == process.pid
        assert str(process.pid) in str(caught.value)
        assert str(data_dir) in str(caught.value)
        assert _execute(dsn, "SELECT 1") == [(1,)]
        process.communicate(timeout=WAIT_S)
    with _server(data_dir) as server:
        assert server.is_running


def test_the_server_ends_when_its_holder_is_killed(data_dir: Path) -> None:
    """SIGKILL leaves the holder no time to stop it: the kernel tells the server, and it shuts down cleanly."""
    with _holder(data_dir) as (process, server_pid, dsn):
        _execute(dsn, "CREATE TABLE committed AS SELECT 1 AS n")
        server_end = os.pidfd_open(server_pid)
        process.kill()
        assert select.select([server_end], [], [], WAIT_S)[0], "the server goes on"
        os.close(server_end)
    with _server(data_dir) as server:
        assert _execute(server.admin_dsn, "SELECT n FROM committed") == [(1,)]


def test_a_start_right_after_the_kill_of_the_holder_works(data_dir: Path) -> None:
    """The old server may still be shutting down: the new start waits for its end."""
    with _holder(data_dir) as (process, server_pid, _):
        postmaster = psutil.Process(server_pid)
        process.kill()
        process.wait()
        with _server(data_dir) as server:
            assert not _is_alive(postmaster)
            assert _execute(server.admin_dsn, "SELECT 1") == [(1,)]


def test_a_server_that_hangs_without_a_holder_is_ended_by_the_next_start(data_dir: Path) -> None:
    """A stopped process takes no shutdown: after the time limits it is killed, and its log replayed."""
    with _holder(data_dir) as (process, server_pid, dsn):
        _execute(dsn, "CREATE TABLE replayed AS SELECT 1 AS n")
        postmaster = psutil.Process(server_pid)
        postmaster.suspend()
        process.kill()
        process.wait()
        with EmbeddedPostgres(data_dir, stop_timeout_s=0.2, durable=False) as server:
            assert not _is_alive(postmaster)
            assert _execute(server.admin_dsn, "SELECT n FROM replayed") == [(1,)]


def test_the_server_outlives_the_thread_that_started_it(data_dir: Path) -> None:
    """The kernel's parent-death signal is about threads; the one that forks lives as long as the server."""
    server = EmbeddedPostgres(data_dir, durable=False)
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    with closing(psycopg2.connect(server.admin_dsn)):
        assert server.is_running
    server.stop()


def test_a_server_that_dies_is_noticed_and_can_be_started_anew(data_dir: Path) -> None:
    """The out-of-memory killer may take it; the DSN stays."""
    server = EmbeddedPostgres(data_dir, durable=False)
    server.start()
    dsn = server.admin_dsn
    os.kill(server.pid, signal.SIGKILL)
    assert server.wait_until_ended(WAIT_S)
    assert not server.is_running
    server.stop()
    with server:
        assert _execute(dsn, "SELECT 1") == [(1,)]


def test_a_pid_file_whose_pid_is_now_another_program_is_no_obstacle(data_dir: Path) -> None:
    """In a container pids begin anew, and the number in the file is soon somebody else's."""
    (data_dir / "cluster" / "postmaster.pid").write_text(f"{os.getpid()}\n{data_dir}/cluster\n")
    with _server(data_dir) as server:
        assert server.is_running


def test_there_is_no_tcp_and_the_socket_is_closed_to_others(data_dir: Path) -> None:
    """Only the server's own user, and root, can come to the socket."""
    with _server(data_dir) as server:
        processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children()]
        assert [process.net_connections("inet") for process in processes if _is_alive(process)] == [[]] * len(processes)
        socket_dir = Path(psycopg2.extensions.parse_dsn(server.admin_dsn)["host"])
        assert socket_dir.stat().st_mode & 0o777 == 0o700
        assert socket_dir.stat().st_uid == processes[0].uids().real


def test_the_server_gets_no_variable_of_ours(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our environment has secrets, and may have PG variables that would change what the server does."""
    monkeypatch.setenv("DARI_SECRETS", '{"flowise": "hidden"}')
    monkeypatch.setenv("PGDATA", "/nowhere")
    with _server(data_dir) as server:
        assert {"DARI_SECRETS", "PGDATA"}.isdisjoint(psutil.Process(server.pid).environ())


def test_no_row_content_reaches_the_log(data_dir: Path) -> None:
    """PostgreSQL quotes values in its messages, details, contexts and statements; none of these is logged."""
    statements = [
        "CREATE TABLE people (id integer PRIMARY KEY, age integer)",
        "INSERT INTO people VALUES (7001, 'secret-cell'::text::integer)",
        "SELECT 'secret-cell'::integer",
        "INSERT INTO people VALUES (7001, 1), (7001, 2)",
        "DO $$ BEGIN RAISE EXCEPTION 'secret-cell'; END $$",
        "DO $$ BEGIN RAISE WARNING 'secret-cell'; END $$",
        "SELECT 'secret-cell' FROM",
    ]
    with _server(data_dir) as server:
        for statement in statements:
            with suppress(psycopg2.Error):
                _execute(server.admin_dsn, statement)
        with closing(psycopg2.connect(server.admin_dsn)) as session, session.cursor() as cur:
            reader, writer = os.pipe()
            os.write(writer, b"1\tsecret-cell\n")
            os.close(writer)
            with open(reader, "rb") as rows, pytest.raises(psycopg2.DataError, match="secret-cell"):
                cur.copy_expert("COPY people FROM STDIN", rows)
    log = (data_dir / "postgresql.log").read_text()
    assert "ready to accept connections" in log
    assert "secret-cell" not in log
    assert "7001" not in log


def test_the_log_stays_within_its_limit(data_dir: Path) -> None:
    """Two files, each within the limit."""
    for _ in range(3):
        with EmbeddedPostgres(data_dir, max_log_bytes=1_000, durable=False):
            pass
    sizes_bytes = [path.stat().st_size for path in data_dir.glob("postgresql.log*")]
    assert len(sizes_bytes) == 2
    assert max(sizes_bytes) <= 1_000


@pytest.mark.parametrize("name", ["a" * 120, "with, comma", "한국어 폴더"])
def test_any_folder_name_will_do(postgres_dir: Path, name: str) -> None:
    """A socket's path has 107 bytes at most and libpq splits it at commas: then it stands elsewhere."""
    with _server(postgres_dir / name) as server:
        assert _execute(server.admin_dsn, "SELECT 1") == [(1,)]
        assert _execute(server.service_dsn("postgres", "postgres"), "SELECT 2") == [(2,)]
        socket_dir = Path(psycopg2.extensions.parse_dsn(server.admin_dsn)["host"])
    assert not socket_dir.exists()


def test_a_first_start_that_was_cut_off_is_begun_anew(postgres_dir: Path) -> None:
    """Its half-made files stand under another name, which counts for nothing."""
    half_made = postgres_dir / "cluster.new"
    half_made.mkdir()
    (half_made / "PG_VERSION").write_text("18\n")
    with _server(postgres_dir) as server:
        assert server.is_running
    assert not half_made.exists()


def test_data_of_another_major_version_is_refused(postgres_dir: Path) -> None:
    """And nothing in it is touched."""
    cluster = postgres_dir / "cluster"
    cluster.mkdir()
    (cluster / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedPostgresError, match="made by PostgreSQL 16; this dari brings 18"):
        EmbeddedPostgres(postgres_dir).start()
    assert [path.name for path in cluster.iterdir()] == ["PG_VERSION"]


def test_files_that_are_not_ours_are_refused(postgres_dir: Path) -> None:
    """A folder with other content is not overwritten."""
    cluster = postgres_dir / "cluster"
    cluster.mkdir()
    (cluster / "thesis.txt").write_text("mine")
    with pytest.raises(EmbeddedPostgresError, match="not PostgreSQL's"):
        EmbeddedPostgres(postgres_dir).start()


def test_a_failed_start_shows_the_log_and_frees_the_folder(postgres_dir: Path) -> None:
    """The reason is in the message, and nothing is left behind that would hinder the next start."""
    with _server(postgres_dir):
        pass
    control = postgres_dir / "cluster" / "global" / "pg_control"
    control.rename(control.with_name("moved"))
    for _ in range(2):
        with pytest.raises(EmbeddedPostgresError, match=r"(?s)did not start.*pg_control"):
            EmbeddedPostgres(postgres_dir, durable=False).start()
    control.with_name("moved").rename(control)
    with _server(postgres_dir) as server:
        assert server.is_running


@needs_root
def test_a_folder_that_the_system_user_cannot_reach_is_refused(postgres_dir: Path) -> None:
    """As root the server runs as another user; the message names the closed folder and ways out."""
    closed = postgres_dir / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedPostgresError, match=rf"may not enter {closed} .*chmod o\+x"):
        EmbeddedPostgres(closed / "pg").start()
    assert closed.stat().st_mode & 0o777 == 0o700


@contextmanager
def _server(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(data_dir, durable=False) as server:
        yield server


@contextmanager
def _holder(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """Another process that holds the folder: itself, its server's pid and its DSN."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", HOLDER, str(data_dir)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        server_pid, _, dsn = process.stdout.readline().strip().partition(" ")
        try:
            yield process, int(server_pid), dsn
        finally:
            process.kill()


def _execute(dsn: str, statement: str) -> list[tuple[object, ...]]:
    """Run one statement in a session and a transaction of its own."""
    with closing(psycopg2.connect(dsn)) as session, session, session.cursor() as cur:
        cur.execute(statement)
        return cur.fetchall() if cur.description else []


def _is_alive(process: psutil.Process) -> bool:
    """Whether it lives; a zombie does not, and here nobody may reap it."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    return False
