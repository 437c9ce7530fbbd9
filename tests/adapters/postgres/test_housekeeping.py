"""What nobody asks for: uploads that were left alone are finished, and what is over is removed."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest

from dari.adapters.native import NativeEvidence
from dari.adapters.postgres.database import Database, Role
from dari.adapters.postgres.housekeeping_store import PostgresHousekeepingStore
from dari.adapters.postgres.segments import lock_segments
from dari.adapters.postgres.upload_store import PostgresUploadStore
from dari.core.housekeeping import Done, Housekeeping, Retention
from dari.v1 import ingest_pb2 as pb
from tests.fix_postgres import PostgresDsns
from tests.fix_server import SMALL_BATCH_BYTES, ServedDari, StartServer
from tests.support.event_log import RecordedEvents
from tests.support.uploading import APPEND, Stored, made_csv, made_rows
from tests.support.waiting import until

ROWS = 3_000
FILE = made_csv(ROWS)
DAY_S = 86_400.0
KEEP_ALL = Retention(version_grace_s=DAY_S, keep_versions=100, upload_expiry_s=DAY_S)
KEEP_NOTHING = Retention(version_grace_s=0, keep_versions=0, upload_expiry_s=DAY_S)


@pytest.fixture
def served(start_server: StartServer) -> ServedDari:
    """A server that leaves housekeeping to the test."""
    served = start_server(housekeeping_interval_s=DAY_S)
    served.dari.make_knowledge_base("kb")
    return served


@contextmanager
def another_server(dsns: PostgresDsns, retention: Retention = KEEP_ALL) -> Iterator[Housekeeping]:
    """The housekeeping of a replica over the same database."""
    with closing(Database(dsns.service_dsn, max_connections=4, wait_timeout_s=5, statement_timeout_s=30)) as database:
        uploads = PostgresUploadStore(database, NativeEvidence())
        yield Housekeeping(uploads, PostgresHousekeepingStore(database), retention, DAY_S, RecordedEvents())


def run(dsns: PostgresDsns, statement: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(dsns.admin_dsn)) as session, session, session.cursor() as cur:
        cur.execute(statement)
        return cur.fetchall() if cur.description else []


def tables(dsns: PostgresDsns) -> set[str]:
    return {
        str(name)
        for (name,) in run(
            dsns, "SELECT relname FROM pg_class WHERE relnamespace = 'dari_rows'::regnamespace AND relkind = 'r'"
        )
    }


def leave_unpublished(served: ServedDari, upload_id: str = "u", data: bytes = FILE, **options: Any) -> None:
    """Send a whole file to a server that dies before it publishes: what it leaves is what a lock on the way leaves."""
    with closing(psycopg2.connect(served.dsns.admin_dsn)) as session, session.cursor() as cur:
        cur.execute("SELECT 1 FROM dari.knowledge_bases FOR NO KEY UPDATE")  # Nobody can publish.
        stream = served.uploader.begun(data, upload_id, **options)
        stream.opened()
        # Whoever waits for this session: batches of the upload wait for each other, too.
        end_waiting = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE {session.info.backend_pid} = ANY (pg_blocking_pids(pid))"
        )
        until(lambda: bool(run(served.dsns, end_waiting)))
        assert stream.refusal().status == "UNAVAILABLE"
    assert served.uploader.state(upload_id).state == pb.UPLOAD_STATE_INDEXING


def test_an_upload_whose_server_died_before_publishing_is_published_by_another(served: ServedDari) -> None:
    leave_unpublished(served)
    with another_server(served.dsns) as housekeeping:
        assert housekeeping.run_once() == Done(uploads_published=1)
        assert housekeeping.run_once() == Done()
    state = served.uploader.state()
    assert (state.state, state.receipt.version, state.receipt.rows_stored) == (pb.UPLOAD_STATE_COMPLETED, 1, ROWS)
    assert Stored(served.dsns.admin_dsn).rows == made_rows(ROWS)
    assert served.uploader.upload(FILE) == state.receipt, "the client that comes back is told the same"


def test_an_upload_that_somebody_is_at_work_on_is_left_to_them(served: ServedDari) -> None:
    leave_unpublished(served)
    with closing(psycopg2.connect(served.dsns.admin_dsn)) as session, session.cursor() as cur:
        cur.execute("SELECT 1 FROM dari.uploads FOR UPDATE")
        with another_server(served.dsns) as housekeeping:
            assert housekeeping.run_once() == Done()
    assert served.uploader.state().state == pb.UPLOAD_STATE_INDEXING


def test_an_upload_that_its_server_would_have_failed_is_failed_by_another(served: ServedDari) -> None:
    bad = b"a,b\n" + b"1,\0\n" * 3
    leave_unpublished(served, "rejected", bad, max_rejected_share=1.0)
    run(served.dsns, "UPDATE dari.uploads SET max_rejected_rows = 2")
    with another_server(served.dsns) as housekeeping:
        assert housekeeping.run_once() == Done(uploads_failed=1)
    state = served.uploader.state("rejected")
    assert state.state == pb.UPLOAD_STATE_FAILED
    assert "More than 2 rows were rejected" in state.failure
    assert tables(served.dsns) == set()


def test_an_append_that_fits_no_more_is_failed_with_its_reason(served: ServedDari) -> None:
    served.uploader.upload(FILE, "before")
    leave_unpublished(served, "append", FILE, mode=APPEND)
    served.uploader.upload(b"other\n1\n", "replace")
    with another_server(served.dsns) as housekeeping:
        assert housekeeping.run_once() == Done(uploads_failed=1)
    assert "columns" in served.uploader.state("append").failure


def test_superseded_versions_go_when_their_grace_is_over_and_nothing_that_serves_does(served: ServedDari) -> None:
    for number in range(4):
        served.uploader.upload(made_csv(10, tag=f"tag{number}"), f"u{number}")
    served.uploader.upload(made_csv(10, first=100, tag="more"), "more", mode=APPEND)

    def versions() -> list[object]:
        return [number for (number,) in run(served.dsns, "SELECT number FROM dari.knowledge_base_versions ORDER BY 1")]

    with another_server(served.dsns, KEEP_ALL) as housekeeping:
        assert housekeeping.run_once() == Done()
    with another_server(served.dsns, Retention(DAY_S, 0, DAY_S)) as housekeeping:
        assert housekeeping.run_once() == Done(), "their grace goes on"
    with another_server(served.dsns, Retention(0, 2, DAY_S)) as housekeeping:
        assert housekeeping.run_once() == Done(versions_removed=2, segments_dropped=2)
        assert versions() == [3, 4, 5]
    run(served.dsns, "UPDATE dari.knowledge_base_versions SET create_time = now() - interval '2 days' WHERE number = 4")
    with another_server(served.dsns, Retention(DAY_S, 0, DAY_S)) as housekeeping:
        assert housekeeping.run_once() == Done(versions_removed=1, segments_dropped=1)
        assert versions() == [4, 5]
    with another_server(served.dsns, KEEP_NOTHING) as housekeeping:
        assert housekeeping.run_once() == Done(versions_removed=1), "its rows are the current version's too"
    assert versions() == [5]
    assert len(tables(served.dsns)) == 2 * 3
    assert served.uploader.search("tag3", limit=1)
    assert served.uploader.search("more", limit=1)
    assert served.uploader.state("u0").receipt.version == 1, "what was done is still told"


def test_a_typed_view_goes_with_its_version_and_not_with_its_rows(served: ServedDari) -> None:
    served.uploader.upload(made_csv(10), "one")
    served.uploader.upload(made_csv(10, first=11), "two", mode=APPEND)

    def views() -> set[str]:
        in_rows = "SELECT relname FROM pg_class WHERE relnamespace = 'dari_rows'::regnamespace AND relkind = 'v'"
        return {str(name) for (name,) in run(served.dsns, in_rows)}

    first, second = (f"typed_{Stored(served.dsns.admin_dsn, upload).segment}" for upload in ("one", "two"))
    assert views() == {first, second}
    with another_server(served.dsns, KEEP_NOTHING) as housekeeping:
        assert housekeeping.run_once() == Done(versions_removed=1)
    assert views() == {second}
    with closing(psycopg2.connect(served.dsns.admin_dsn)) as session, session.cursor() as cur:
        cur.execute(f"SELECT count(*) FROM dari_rows.{second}")
        assert cur.fetchone() == (20,), "of rows of both segments"
    served.uploader.upload(made_csv(1), "three")
    with another_server(served.dsns, KEEP_NOTHING) as housekeeping:
        assert housekeeping.run_once() == Done(versions_removed=1, segments_dropped=2)
    assert views() == {f"typed_{Stored(served.dsns.admin_dsn, 'three').segment}"}


def test_a_silent_upload_expires_with_its_rows_and_one_that_moves_does_not(served: ServedDari) -> None:
    for id in ("silent", "moving"):
        stream = served.uploader.stream()
        stream.open(id)
        stream.opened()
        stream.chunks(FILE[: 2 * SMALL_BATCH_BYTES])
        stream.committed(SMALL_BATCH_BYTES)
        stream.leave()
    run(served.dsns, "UPDATE dari.uploads SET update_time = now() - interval '2 days' WHERE id = 'silent'")
    with another_server(served.dsns) as housekeeping:
        assert housekeeping.run_once() == Done(uploads_expired=1, segments_dropped=1)
    assert served.uploader.state("silent").failure.startswith("It expired")
    assert run(served.dsns, "SELECT kind, subject, item, code FROM dari.alerts") == [
        ("UPLOAD_FAILED", "knowledgeBases/kb", "uploads/silent", "expired")
    ]
    assert served.uploader.refused(FILE, "silent").reason == "UPLOAD_CONFLICT"
    assert served.uploader.upload(FILE, "moving").rows_stored == ROWS


def test_a_reader_keeps_what_it_reads(served: ServedDari) -> None:
    for id in ("old", "new"):
        served.uploader.upload(FILE, id)
    segment = Stored(served.dsns.admin_dsn, "old").segment
    with closing(Database(served.dsns.service_dsn, max_connections=1, wait_timeout_s=5, statement_timeout_s=30)) as own:
        with (
            own.transaction(Role.READER, snapshot=True, tenant="default", knowledge_bases=["kb"]) as reading,
            another_server(served.dsns, KEEP_NOTHING) as housekeeping,
        ):
            lock_segments(reading, [segment])
            assert housekeeping.run_once() == Done(versions_removed=1)
            row = reading.execute(f"SELECT count(*) FROM dari_rows.rows_{segment}").fetchone()
            assert row == (ROWS,)
        with another_server(served.dsns, KEEP_NOTHING) as housekeeping:
            assert housekeeping.run_once() == Done(segments_dropped=1)
    assert f"rows_{segment}" not in tables(served.dsns)


def test_tables_of_an_upload_that_ended_when_its_server_died_are_found(served: ServedDari) -> None:
    stream = served.uploader.stream()
    stream.open()
    stream.opened()
    stream.chunks(FILE)
    stream.committed(SMALL_BATCH_BYTES)
    stream.leave()
    run(served.dsns, "UPDATE dari.uploads SET state = 'CANCELLED'")
    with another_server(served.dsns) as housekeeping:
        assert housekeeping.run_once().segments_dropped == 1
    assert tables(served.dsns) == set()


def test_one_server_at_a_time_removes(served: ServedDari) -> None:
    for id in ("old", "new"):
        served.uploader.upload(FILE, id)
    with closing(psycopg2.connect(served.dsns.admin_dsn)) as session, session.cursor() as cur:
        cur.execute("SELECT pg_advisory_xact_lock(%s)", (int.from_bytes(b"dari-hsk", "big"),))
        with another_server(served.dsns, KEEP_NOTHING) as housekeeping:
            assert housekeeping.run_once() == Done()
    with another_server(served.dsns, KEEP_NOTHING) as housekeeping:
        assert housekeeping.run_once() == Done(versions_removed=1, segments_dropped=1)


def test_a_server_does_it_by_itself(start_server: StartServer) -> None:
    first = start_server(housekeeping_interval_s=DAY_S)
    first.dari.make_knowledge_base("kb")
    leave_unpublished(first)
    start_server(housekeeping_interval_s=DAY_S)
    until(lambda: first.uploader.state().state == pb.UPLOAD_STATE_COMPLETED)
