"""I4: PostgreSQL is killed, restarted, answers no more, or has no room; nothing is stored by halves."""

import os
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import psycopg2
from psycopg2 import sql
from psycopg2.extensions import make_dsn

from dari.adapters.postgres.embedded import EmbeddedPostgres
from dari.adapters.postgres.migrate import migrate
from dari.client import Client, Progress
from tests.faults.conftest import SmallDisk, StartProcess
from tests.fix_postgres import PostgresDsns
from tests.support.exactly_once import assert_exactly_once, assert_nothing_partial
from tests.support.fault_proxy import PostgresProxy
from tests.support.fault_sizes import SEEDS
from tests.support.ingesting import TOLD, make_knowledge_base, send
from tests.support.killer import Killer
from tests.support.known_file import LargeFile, seeded_file
from tests.support.running_dari import SOON_S, Refusal
from tests.support.serving_process import MIB, ServingProcess
from tests.support.uploading import IngestStream

LOG_SEGMENT_BYTES = 16 * MIB
"""PostgreSQL takes room for its log in pieces of this size, and gives up the one that it cannot write."""


def test_a_postgresql_that_dies_or_restarts_in_mid_upload_costs_no_row(
    start_process: StartProcess, own_postgres: EmbeddedPostgres, own_database: PostgresDsns
) -> None:
    """Killed as a whole, killed in one of dari's sessions (which ends them all), or restarted by its operator."""

    def kill_session() -> None:
        with suppress(psycopg2.OperationalError, IndexError), closing(psycopg2.connect(own_database.admin_dsn)) as own:
            os.kill(sessions(own, "dari")[0], signal.SIGKILL)

    def restart(number: signal.Signals | None = None) -> None:
        if number is not None:
            os.kill(own_postgres.pid, number)
        own_postgres.stop()
        own_postgres.start()

    ways: list[Callable[[], None]] = [restart, lambda: restart(signal.SIGKILL), kill_session]
    with Client(start_process(own_database, database_wait_timeout_s=2.0).address) as client:
        make_knowledge_base(client)
        kills = 0
        for seed in range(max(len(ways), SEEDS // 2)):
            chance = random.Random(seed)
            file, id = seeded_file(chance), f"seed-{seed}"
            killer = Killer(chance, ways[seed % len(ways)])
            send(client, id, file.data, on_progress=killer.on_progress)
            killer.join()
            kills += killer.kills
            assert_exactly_once(own_database.admin_dsn, id, file.expected)
        assert kills >= len(ways)


def test_a_database_that_answers_no_more_is_told_with_the_committed_offset(
    start_process: StartProcess, database: PostgresDsns
) -> None:
    """Behind a network that swallows all bytes, and with frozen sessions: UNAVAILABLE after a bounded time, both."""
    file = seeded_file(random.Random(3))
    limits = {"database_statement_timeout_s": 1.0, "database_wait_timeout_s": 2.0}
    with PostgresProxy(database.service_dsn) as proxy:
        behind_proxy = start_process(database._replace(service_dsn=proxy.dsn), **limits)
        named = make_dsn(database.service_dsn, application_name="frozen")
        before_frozen = start_process(database._replace(service_dsn=named), **limits)
        with (
            Client(behind_proxy.address) as swallowed_client,
            Client(before_frozen.address) as frozen_client,
            closing(psycopg2.connect(database.admin_dsn)) as session,
        ):
            make_knowledge_base(swallowed_client)
            swallowed = half_sent(swallowed_client, "swallowed", file.data)
            frozen = half_sent(frozen_client, "frozen", file.data)
            proxy.swallow()
            frozen_sessions = sessions(session, "frozen")
            # With who makes new ones: else an upload goes on by these, while others wait for the frozen.
            with stopped([*frozen_sessions, psutil.Process(frozen_sessions[0]).ppid()]):
                for stream in (swallowed, frozen):
                    stream.chunks(file.data, len(file.data) // 2)
                refusals = {"swallowed": swallowed.refusal(), "frozen": frozen.refusal()}
            proxy.forward()
            for id, client in (("swallowed", swallowed_client), ("frozen", frozen_client)):
                assert_told_what_is_safe(refusals[id], database, id)
                send(client, id, file.data, dialect=TOLD)
                assert_exactly_once(database.admin_dsn, id, file.expected)


def half_sent(client: Client, upload_id: str, data: bytes) -> IngestStream:
    """A stream that has sent half of the file, some of which is committed."""
    # The pool cuts a frozen connection that it comes across after 11 s.
    stream = IngestStream(client.ingests, timeout_s=4 * SOON_S)
    stream.open(upload_id, dialect=TOLD)
    stream.opened()
    stream.chunks(data[: len(data) // 2])
    stream.committed(1)
    return stream


def assert_told_what_is_safe(refusal: Refusal, database: PostgresDsns, upload_id: str) -> None:
    assert (refusal.status, refusal.reason) == ("UNAVAILABLE", "UNAVAILABLE")
    told = int(refusal.metadata["committed_offset"])
    with closing(psycopg2.connect(database.admin_dsn)) as session, session.cursor() as cursor:
        assert_nothing_partial(cursor, upload_id)
        cursor.execute("SELECT committed_offset_bytes FROM dari.uploads WHERE id = %s", (upload_id,))
        ((committed,),) = cursor.fetchall()
    assert 0 < told <= committed


def sessions(session: psycopg2.extensions.connection, application_name: str) -> list[int]:
    """Process ids of the database's sessions of this name."""
    with session, session.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s",
            (application_name,),
        )
        return [pid for (pid,) in cursor.fetchall()]


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_a_full_disk_is_told_stores_nothing_by_halves_and_is_got_over_when_there_is_room(
    start_process: StartProcess,
    own_postgres: EmbeddedPostgres,
    mount_small_disk: Callable[[int], SmallDisk],
) -> None:
    """The database lies in a tablespace on a disk of its own, as it does where tables and log are kept apart."""
    disk = mount_small_disk(20 * MIB)
    on_disk = database_on(own_postgres, disk)
    file = LargeFile(20 * MIB)
    with Client(start_process(on_disk, batch_bytes=MIB).address) as client:
        make_knowledge_base(client)
        stream = IngestStream(client.ingests)
        stream.begin(file.readall(), "u")
        refusal = stream.refusal()
        assert (refusal.status, refusal.reason) == ("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED")
        disk.enlarge(200 * MIB)
        with closing(psycopg2.connect(on_disk.admin_dsn)) as session, session.cursor() as cursor:
            assert_nothing_partial(cursor, "u")
        file.seek(0)
        send(client, "u", file)
    assert_exactly_once(on_disk.admin_dsn, "u", file.expected)


def database_on(postgres: EmbeddedPostgres, disk: SmallDisk) -> PostgresDsns:
    """A migrated database whose files lie on the disk."""
    folder = disk.folder / "tablespace"
    folder.mkdir(mode=0o700)
    cluster = (postgres.data_dir / "cluster").stat()
    os.chown(folder, cluster.st_uid, cluster.st_gid)
    with closing(psycopg2.connect(postgres.admin_dsn)) as session:
        session.autocommit = True
        with session.cursor() as cursor:
            cursor.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(sql.Literal(str(folder))))
            cursor.execute("CREATE ROLE dari_service LOGIN NOINHERIT")
            cursor.execute("CREATE DATABASE dari TABLESPACE small STRATEGY FILE_COPY")
    migrate(postgres.admin_dsn, "dari", "dari_service")
    return PostgresDsns(postgres.admin_dsn, postgres.service_dsn()).to("dari")


def test_an_embedded_database_without_room_for_its_log_comes_back_by_itself_when_there_is(
    mount_small_disk: Callable[[int], SmallDisk], database: PostgresDsns
) -> None:
    """All of dari's data is on one disk: PostgreSQL panics and cannot even recover until there is room."""
    disk = mount_small_disk(100 * MIB)
    file = LargeFile(60 * MIB)
    paused = threading.Event()

    def make_room(progress: Progress) -> None:
        if progress.pause_cause is not None and not paused.is_set():
            assert progress.pause_cause.reason in ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
            assert shutil.disk_usage(disk.folder).free < 2 * LOG_SEGMENT_BYTES
            paused.set()
            disk.enlarge(1_000 * MIB)

    with ServingProcess(database, disk.folder / "dari", database_dsn=None, batch_bytes=4 * MIB) as server:
        with Client(server.address) as client:
            make_knowledge_base(client)
            send(client, "u", file, on_progress=make_room)
        assert paused.is_set(), "the disk was never full"
        assert_exactly_once(embedded_dsn(disk.folder / "dari"), "u", file.expected)


def embedded_dsn(data_dir: Path) -> str:
    """The superuser's way into the database of a server that runs with an embedded one."""
    (pid_file,) = data_dir.glob("postgres/**/postmaster.pid")
    lines = pid_file.read_text().splitlines()
    return make_dsn(host=lines[4], port=lines[3], user="postgres", dbname="dari")
