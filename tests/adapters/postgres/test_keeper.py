"""A server that ends by itself comes back under the same DSN; what was committed is in it."""

import os
import signal
import threading
from contextlib import closing
from pathlib import Path

import psycopg2

from dari.adapters.postgres.embedded import EmbeddedPostgres
from dari.adapters.postgres.keeper import PostgresKeeper
from tests.support.event_log import RecordedEvents

WAIT_S = 60.0


def test_a_killed_server_comes_back_under_the_same_dsn(postgres_dir: Path) -> None:
    """Twice, as by the out-of-memory killer; operators read it by the names of events."""
    events = RecordedEvents()
    server = EmbeddedPostgres(postgres_dir, durable=False)
    with PostgresKeeper(server, events):
        dsn = server.admin_dsn
        _execute(dsn, "CREATE TABLE kept (n integer)")
        for number in (1, 2):
            _execute(dsn, f"INSERT INTO kept VALUES ({number})")
            os.kill(server.pid, signal.SIGKILL)
            assert events.wait_for("embedded_postgres_restarted", number, WAIT_S)
        assert _execute(dsn, "SELECT n FROM kept ORDER BY n") == [(1,), (2,)]
    assert events.names() == ["embedded_postgres_ended", "embedded_postgres_restarted"] * 2
    assert not server.is_running


def test_a_server_that_does_not_start_is_tried_again(postgres_dir: Path) -> None:
    """Until it does: here the file that it lacked is put back after the first try."""
    events = RecordedEvents()
    server = EmbeddedPostgres(postgres_dir, durable=False)
    with PostgresKeeper(server, events):
        control = postgres_dir / "cluster" / "global" / "pg_control"
        control.rename(control.with_name("moved"))
        os.kill(server.pid, signal.SIGKILL)
        assert events.wait_for("embedded_postgres_not_restarted", 1, WAIT_S)
        control.with_name("moved").rename(control)
        assert events.wait_for("embedded_postgres_restarted", 1, WAIT_S)
        assert _execute(server.admin_dsn, "SELECT 1") == [(1,)]


def test_stop_ends_the_wait_between_two_tries(postgres_dir: Path) -> None:
    """However long that is; the folder is free then."""
    events = RecordedEvents()
    server = EmbeddedPostgres(postgres_dir, durable=False)
    keeper = PostgresKeeper(server, events)
    keeper.start()
    (postgres_dir / "cluster" / "global" / "pg_control").rename(postgres_dir / "moved")
    os.kill(server.pid, signal.SIGKILL)
    assert events.wait_for("embedded_postgres_not_restarted", 2, WAIT_S)
    stopper = threading.Thread(target=keeper.stop, daemon=True)
    stopper.start()
    stopper.join(WAIT_S)
    assert not stopper.is_alive()
    (postgres_dir / "moved").rename(postgres_dir / "cluster" / "global" / "pg_control")
    with EmbeddedPostgres(postgres_dir, durable=False) as other:
        assert other.is_running


def test_an_ordered_stop_is_no_end_by_itself(postgres_dir: Path) -> None:
    """Nothing is logged, nothing restarted, and a second stop does nothing."""
    events = RecordedEvents()
    keeper = PostgresKeeper(EmbeddedPostgres(postgres_dir, durable=False), events)
    keeper.start()
    keeper.stop()
    keeper.stop()
    assert events.names() == []


def _execute(dsn: str, statement: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(dsn)) as session, session, session.cursor() as cur:
        cur.execute(statement)
        return cur.fetchall() if cur.description else []
