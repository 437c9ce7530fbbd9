"""Work in the background is done once, and by another replica when the one that does it dies in the middle.

Two real replicas, the first killed by SIGKILL while it is at it. What leads each kind of work:

    index, publish   the lock of the upload's row         tests/faults/ingest/test_killed_server.py
    syncs            a lease of the source                tests/rpc/test_syncs.py
    what is over     an advisory lock, here
    messages         a lease of each message, here

A session of PostgreSQL holds all but the leases, and ends with its replica: also that is here. Probes are each
replica's own: what one of them reaches says nothing of what the other does.
"""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
from psycopg2.extensions import connection

from tests.faults.conftest import StartProcess
from tests.fix_postgres import PostgresDsns
from tests.support.operators import Operators
from tests.support.running_dari import SOON_S, RunningDari
from tests.support.serving_process import ServingProcess
from tests.support.uploading import Uploader
from tests.support.waiting import until

CSV = "id,name\n1,one\n"
SOON_OVER = {"housekeeping_interval_s": 0.1, "version_grace_s": 0, "keep_versions": 0}
NEVER_OVER = {"version_grace_s": 86_400}
WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%knowledge_base_versions%'"


@contextmanager
def locked(database: PostgresDsns, statement: str) -> Iterator[connection]:
    """A session that holds a lock until it is rolled back."""
    with closing(psycopg2.connect(database.admin_dsn)) as session:
        session.cursor().execute(statement)
        yield session


def rows(database: PostgresDsns, statement: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(database.admin_dsn)) as session, session, session.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def make_three_versions(replica: ServingProcess) -> None:
    with RunningDari(replica.address) as dari:
        dari.make_knowledge_base("kb", CSV)
        dari.upload("kb", CSV)
        dari.upload("kb", CSV)


def versions(database: PostgresDsns) -> list[object]:
    return [number for (number,) in rows(database, "SELECT number FROM dari.knowledge_base_versions ORDER BY number")]


def test_what_is_over_is_removed_by_another_replica_when_the_one_that_removes_dies(
    start_process: StartProcess, database: PostgresDsns
) -> None:
    """It is killed while it waits for a row that it is to remove, and holds the lock that lets it remove alone."""
    make_three_versions(start_process(**NEVER_OVER))
    with locked(database, "SELECT 1 FROM dari.knowledge_base_versions WHERE number = 1 FOR UPDATE") as session:
        dying = start_process(**SOON_OVER)
        until(lambda: len(rows(database, WAITING)) == 1)
        start_process(**SOON_OVER)
        dying.kill()
        session.rollback()
    until(lambda: versions(database) == [3])
    until(lambda: len(rows(database, "SELECT 1 FROM pg_tables WHERE tablename LIKE 'rows\\_%'")) == 1)


def test_what_a_dead_replica_holds_in_the_database_is_free_though_its_session_waits(
    start_process: StartProcess, database: PostgresDsns
) -> None:
    """For a lock that is never given: PostgreSQL looks whether anybody is there to hear of it."""
    make_three_versions(start_process(**NEVER_OVER))
    with locked(database, "SELECT 1 FROM dari.knowledge_base_versions WHERE number = 1 FOR UPDATE"):
        dying = start_process(**SOON_OVER)
        until(lambda: len(rows(database, WAITING)) == 1)
        ((held,),) = rows(database, WAITING)
        dying.kill()
        until(lambda: not rows(database, f"SELECT 1 FROM pg_stat_activity WHERE pid = {held}"))


def test_a_message_to_operators_is_sent_by_another_replica_when_the_one_that_sends_dies(
    start_process: StartProcess, database: PostgresDsns
) -> None:
    """It is killed while it waits for the target's word. Nobody else sends until its lease is over; then one does.

    The lease is two minutes, which a sleeping target may need; it is brought to its end by hand.
    """
    with Operators() as operators:
        notify = {"notify_urls": json.dumps({"ops": operators.url})}
        operators.hold()
        dying = start_process(**notify)
        with RunningDari(dying.address) as dari:
            dari.make_knowledge_base("kb")
            Uploader(dari.ingest).refused(b"", "failed")
        assert operators.is_asked.wait(SOON_S)
        # Before the others start, which may take longer than it waits for the target.
        dying.kill()
        heirs = [start_process(**notify) for _ in range(2)]
        operators.release()
        taken = operators.wait_for(1)
        rows(database, "UPDATE dari.alert_deliveries SET due_time = now() WHERE delivered_time IS NULL")
        assert operators.wait_for(2) == 2 * taken, "what it sent and could not write down comes once more"
        until(lambda: not rows(database, "SELECT 1 FROM dari.alert_deliveries WHERE delivered_time IS NULL"))
        assert rows(database, "SELECT attempts FROM dari.alert_deliveries") == [(2,)]
        assert all(heir.is_alive() for heir in heirs)
        assert operators.titles() == 2 * taken
