"""I1: the server, or its database sessions, end at any moment of an upload; the client goes on, and no row is lost.

A seed is a file and the moments of the kills.
"""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial

import psycopg2
import pytest

from dari.client import Client, Progress
from dari.v1 import ingest_pb2 as pb
from tests.faults.conftest import StartProcess
from tests.fix_postgres import PostgresDsns
from tests.support.exactly_once import assert_exactly_once
from tests.support.fault_proxy import Fault, FaultProxy, PostgresProxy
from tests.support.fault_sizes import SEEDS
from tests.support.ingesting import TOLD, make_knowledge_base, rejected_lines, send
from tests.support.killer import Killer, committed_offset
from tests.support.known_file import seeded_file
from tests.support.running_dari import SOON_S
from tests.support.serving_process import Replicas, ServingProcess
from tests.support.waiting import until


def run_seeds(client: Client, database: PostgresDsns, kill: Callable[[], None]) -> int:
    """Upload one file a seed, each killed at moments of its own; returns how many kills there were."""
    make_knowledge_base(client)
    kills = 0
    with closing(psycopg2.connect(database.admin_dsn)) as session:
        session.autocommit = True
        for seed in range(SEEDS):
            chance = random.Random(seed)
            file, id = seeded_file(chance), f"seed-{seed}"
            killer = Killer(chance, kill, partial(committed_offset, session, id))
            dialect = chance.choice((None, TOLD))
            receipt = send(client, id, file.data, dialect=dialect, on_progress=killer.on_progress)
            killer.join()
            assert_exactly_once(database.admin_dsn, id, file.expected)
            assert (receipt.rows_stored, receipt.rows_rejected) == (
                file.expected.rows_stored,
                file.expected.rows_rejected,
            )
            assert rejected_lines(client, id) == file.rejected_lines
            assert receipt.version == seed + 1
            kills += killer.kills
    return kills


def test_a_killed_server_costs_no_row_and_doubles_none(replicas: Replicas, database: PostgresDsns) -> None:
    """Another replica goes on, until it is killed itself."""
    with Client(replicas.address) as client:
        assert run_seeds(client, database, replicas.kill) >= SEEDS // 2


def test_killed_database_sessions_cost_no_row_and_double_none(
    start_process: StartProcess, database: PostgresDsns
) -> None:
    """As a restart of PostgreSQL ends them, with what they were about to commit."""

    def end_sessions() -> None:
        with closing(psycopg2.connect(database.admin_dsn)) as session, session.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'dari'"
            )

    with Client(start_process().address) as client:
        assert run_seeds(client, database, end_sessions) >= SEEDS // 2


def test_a_network_that_is_slow_or_cut_costs_no_row_and_doubles_none(
    start_process: StartProcess, database: PostgresDsns
) -> None:
    """Between client and server, and between server and database, each direction with a fault of its own."""
    with PostgresProxy(database.service_dsn) as before_database:
        server = start_process(database._replace(service_dsn=before_database.dsn))
        with FaultProxy(server.target) as before_server, Client(before_server.address) as client:
            make_knowledge_base(client)
            directions = [
                direction
                for proxy in (before_database, before_server)
                for direction in (proxy.to_target, proxy.to_caller)
            ]
            for seed in range(SEEDS):
                chance = random.Random(seed)
                file, id = seeded_file(chance, most_rows=4_000), f"seed-{seed}"
                for direction in directions:
                    direction.set(Fault.drawn(chance, len(file.data)))
                send(client, id, file.data)
                for direction in directions:
                    direction.set(Fault())
                assert_exactly_once(database.admin_dsn, id, file.expected)


@dataclass(frozen=True)
class Stop:
    """A moment between the last byte and the receipt: which lock keeps the server there, how the ledger shows it."""

    lock: str
    is_indexed: bool


STOPS = {
    "before the index": Stop("LOCK TABLE dari_rows.rows_{segment} IN SHARE UPDATE EXCLUSIVE MODE", is_indexed=False),
    "between index and publish": Stop("SELECT 1 FROM dari.knowledge_bases FOR NO KEY UPDATE", is_indexed=True),
}


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_an_upload_whose_server_dies_between_commit_and_publish_is_published_once(
    start_process: StartProcess, database: PostgresDsns, stop: Stop
) -> None:
    """By another server, when the client comes to it; nothing is sent again."""
    file = seeded_file(random.Random(1))
    dying, heir = start_process(), start_process()
    with held_before_publish(dying, database, file.data, stop):
        dying.kill()
    with Client(heir.address) as client:
        receipt = send(client, "u", file.data)
        assert receipt.version == 1
        assert send(client, "u", file.data) == receipt
    assert_exactly_once(database.admin_dsn, "u", file.expected)


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_an_upload_whose_server_and_client_die_before_publish_is_published_by_another_server(
    start_process: StartProcess, database: PostgresDsns, stop: Stop
) -> None:
    """By itself; two of them that race for it make one version."""
    file = seeded_file(random.Random(1))
    dying = start_process()
    heirs = [start_process(housekeeping_interval_s=0.1) for _ in range(2)]
    with held_before_publish(dying, database, file.data, stop):
        dying.kill()
    with Client(heirs[0].address) as client:
        upload = pb.GetUploadRequest(name="uploads/u")
        until(lambda: client.ingests.GetUpload(upload).upload.state == pb.UPLOAD_STATE_COMPLETED)
        assert client.ingests.GetUpload(upload).upload.receipt.version == 1
        assert send(client, "next", b"a,b\n1,2\n").version == 2
    assert_exactly_once(database.admin_dsn, "u", file.expected)


@contextmanager
def held_before_publish(server: ServingProcess, database: PostgresDsns, data: bytes, stop: Stop) -> Iterator[None]:
    """All bytes are committed, and the server waits for a lock that the test holds."""
    with Client(server.address) as client, closing(psycopg2.connect(database.admin_dsn)) as session:
        make_knowledge_base(client)
        cursor = session.cursor()
        held = threading.Event()

        def lock(progress: Progress) -> None:
            if progress.committed_bytes > 0 and not held.is_set():
                cursor.execute("SELECT segment FROM dari.uploads WHERE id = 'u'")
                ((segment,),) = cursor.fetchall()
                cursor.execute(stop.lock.format(segment=segment))
                held.set()

        def upload() -> None:
            with pytest.raises(Exception):  # noqa: B017 - its server dies
                send(client, "u", data, on_progress=lock, give_up_after_s=0.0)

        sender = threading.Thread(target=upload)
        sender.start()
        until(lambda: is_held(database, stop))
        yield
        session.rollback()
        sender.join(SOON_S)
        assert not sender.is_alive()


def is_held(database: PostgresDsns, stop: Stop) -> bool:
    """Whether the upload has all bytes, is where it must wait, and a session does wait."""
    with closing(psycopg2.connect(database.admin_dsn)) as session, session.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM dari.uploads WHERE state = 'INDEXING' AND (index_duration_s IS NOT NULL) = %s)"
            " AND EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'dari' AND wait_event_type = 'Lock')",
            (stop.is_indexed,),
        )
        return cursor.fetchone() == (True,)
