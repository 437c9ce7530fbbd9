"""Syncs through a real channel: real files, a real web server, real PostgreSQL."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import psycopg2
import pytest
from google.protobuf.duration_pb2 import Duration

from dari.v1 import ingest_pb2
from dari.v1 import mapping_pb2 as pb
from tests.fix_postgres import PostgresDsns
from tests.fix_server import ServedDari, StartServer
from tests.support.file_server import FileServer
from tests.support.operators import Operators
from tests.support.running_dari import RunningDari, refusal
from tests.support.serving_process import ServingProcess
from tests.support.waiting import until

KB = "knowledgeBases/kb"


def make(dari: RunningDari, source: pb.KnowledgeBaseSource) -> None:
    request = pb.CreateKnowledgeBaseRequest(knowledge_base_id="kb", knowledge_base=pb.KnowledgeBase(source=source))
    assert dari.mapping.CreateKnowledgeBase(request).knowledge_base.source.uri == source.uri


def sync(dari: RunningDari, *, accept_shrink: bool = False) -> pb.Sync:
    """Ask for a sync, and wait for its end."""
    request = pb.SyncKnowledgeBaseRequest(name=KB, accept_shrink=accept_shrink)
    number = dari.mapping.SyncKnowledgeBase(request).sync.number
    return end_of(dari, number)


def end_of(dari: RunningDari, number: int) -> pb.Sync:
    until(lambda: ended(dari, number) is not None)
    found = ended(dari, number)
    assert found is not None
    return found


def ended(dari: RunningDari, number: int) -> pb.Sync | None:
    found = dari.mapping.ListSyncs(pb.ListSyncsRequest(knowledge_base=KB)).syncs
    return next((one for one in found if one.number == number and one.state != pb.SYNC_STATE_RUNNING), None)


def base(dari: RunningDari) -> pb.KnowledgeBase:
    return dari.mapping.GetKnowledgeBase(pb.GetKnowledgeBaseRequest(name=KB)).knowledge_base


def rows(count: int) -> bytes:
    return b"id,name\n" + b"".join(b"%d,n%d\n" % (number, number) for number in range(count))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in" / "sales.csv"


@pytest.fixture
def served(start_server: StartServer, file: Path) -> ServedDari:
    return start_server(source_folders=[file.parent], source_networks_allowed=["127.0.0.0/8"])


def test_a_changed_file_makes_a_version_and_an_unchanged_one_moves_nothing(served: ServedDari, file: Path) -> None:
    file.write_bytes(rows(10))
    make(served.dari, pb.KnowledgeBaseSource(uri=file.as_uri(), key_columns=["id"]))
    first = sync(served.dari)
    assert (first.state, first.version, first.rows_found, len(first.uploads)) == (pb.SYNC_STATE_COMPLETED, 1, 10, 1)
    again = sync(served.dari)
    assert (again.state, again.fetched_bytes, list(again.uploads)) == (pb.SYNC_STATE_UNCHANGED, 0, [])
    file.write_bytes(rows(12).replace(b"3,n3", b"3,other"))
    assert sync(served.dari).version == 2
    difference = served.dari.mapping.CompareVersions(pb.CompareVersionsRequest(knowledge_base=KB))
    counts = difference.rows_added, difference.rows_removed, difference.rows_changed, difference.rows_unchanged
    assert counts == (2, 0, 1, 9)


def test_a_content_that_comes_back_is_current_again(served: ServedDari, file: Path) -> None:
    make(served.dari, pb.KnowledgeBaseSource(uri=file.as_uri()))
    for version, count in enumerate((10, 11, 10), start=1):
        file.write_bytes(rows(count))
        assert sync(served.dari).version == version
    assert base(served.dari).row_count == 10


def test_a_touched_file_is_read_but_stored_no_second_time(served: ServedDari, file: Path) -> None:
    file.write_bytes(rows(10))
    make(served.dari, pb.KnowledgeBaseSource(uri=file.as_uri()))
    sync(served.dari)
    file.unlink()
    file.write_bytes(rows(10))
    touched = sync(served.dari)
    assert (touched.state, touched.version) == (pb.SYNC_STATE_UNCHANGED, 0)
    assert base(served.dari).current_version == 1


def test_a_source_that_shrinks_is_held_until_a_person_accepts(served: ServedDari, file: Path) -> None:
    file.write_bytes(rows(10))
    make(served.dari, pb.KnowledgeBaseSource(uri=file.as_uri()))
    sync(served.dari)
    file.write_bytes(rows(4))
    held = sync(served.dari)
    assert (held.state, held.code, held.rows_before, held.rows_found) == (pb.SYNC_STATE_HELD, "shrunk", 10, 4)
    assert sync(served.dari).state == pb.SYNC_STATE_HELD
    assert base(served.dari).row_count == 10
    assert sync(served.dari, accept_shrink=True).state == pb.SYNC_STATE_COMPLETED
    assert base(served.dari).row_count == 4


def test_a_file_outside_the_folders_and_a_link_out_of_them_are_refused(served: ServedDari, file: Path) -> None:
    outside = file.parent.parent / "outside.csv"
    outside.write_bytes(rows(3))
    file.symlink_to(outside)
    make(served.dari, pb.KnowledgeBaseSource(uri=file.as_uri()))
    assert sync(served.dari).code == "not_in_source_folders"
    assert base(served.dari).current_version == 0


def test_a_failure_backs_off_visibly_and_the_version_before_serves_on(served: ServedDari) -> None:
    with FileServer(rows(10)) as files:
        make(served.dari, pb.KnowledgeBaseSource(uri=files.url, interval=Duration(seconds=86_400)))
        assert end_of(served.dari, 1).state == pb.SYNC_STATE_COMPLETED
        files.statuses.append(503)
        failed = sync(served.dari)
    assert (failed.state, failed.code) == (pb.SYNC_STATE_FAILED, "http_503")
    assert failed.create_time.seconds < failed.next_time.seconds < failed.create_time.seconds + 86_400
    assert base(served.dari).row_count == 10


@pytest.mark.parametrize(("etag", "last_modified"), [('"1"', None), (None, "Tue, 03 Mar 2026 08:00:00 GMT")])
def test_an_unchanged_web_source_moves_nothing(served: ServedDari, etag: str | None, last_modified: str | None) -> None:
    """By ETag and by Last-Modified: no byte of the body, no row, no version, no upload."""
    with FileServer(rows(1_000)) as files:
        files.etag, files.last_modified = etag, last_modified
        make(served.dari, pb.KnowledgeBaseSource(uri=files.url))
        assert sync(served.dari).rows_found == 1_000
        sent_bytes = files.sent_bytes
        again = sync(served.dari)
        assert (again.state, again.fetched_bytes, again.rows_found) == (pb.SYNC_STATE_UNCHANGED, 0, 1_000)
        assert files.sent_bytes == sent_bytes
    assert (base(served.dari).current_version, len(uploads(served.dari))) == (1, 1)


def test_a_web_source_without_validators_is_fetched_and_its_hash_decides(served: ServedDari) -> None:
    with FileServer(rows(1_000)) as files:
        files.etag = None
        make(served.dari, pb.KnowledgeBaseSource(uri=files.url))
        sync(served.dari)
        again = sync(served.dari)
        assert (again.state, again.fetched_bytes) == (pb.SYNC_STATE_UNCHANGED, len(files.content))
    assert (base(served.dari).current_version, len(uploads(served.dari))) == (1, 1)


def test_a_web_source_that_is_cut_is_gone_on_with(served: ServedDari) -> None:
    with FileServer(rows(20_000)) as files:
        files.cuts.extend([50_000, 50_000])
        make(served.dari, pb.KnowledgeBaseSource(uri=files.url))
        assert sync(served.dari).rows_found == 20_000
        assert files.sent_bytes == len(files.content)


def test_a_file_of_a_store_is_a_source(start_server: StartServer, store: Any) -> None:
    dari = start_server(source_schemes=["memory"]).dari
    store.pipe("/bucket/sales.csv", rows(10))
    make(dari, pb.KnowledgeBaseSource(uri="memory://bucket/sales.csv"))
    assert sync(dari).version == 1
    assert sync(dari).state == pb.SYNC_STATE_UNCHANGED
    store.pipe("/bucket/sales.csv", rows(11))
    assert (sync(dari).version, base(dari).row_count) == (2, 11)


def test_a_bomb_ends_at_the_limit_of_an_upload(start_server: StartServer, file: Path) -> None:
    """6 MB of rows in a file of some kB; what was there before serves on."""
    dari = start_server(source_folders=[file.parent], max_upload_bytes=1_000_000).dari
    file.write_bytes(gzip.compress(rows(10)))
    make(dari, pb.KnowledgeBaseSource(uri=file.as_uri()))
    assert sync(dari).version == 1
    file.write_bytes(gzip.compress(b"id,name\n" + b"1,one\n" * 1_000_000))
    assert len(file.read_bytes()) < 30_000
    failed = sync(dari)
    assert (failed.state, failed.code) == (pb.SYNC_STATE_FAILED, "resource_exhausted")
    assert base(dari).row_count == 10


def test_a_source_with_a_cron_line_is_due_by_it(served: ServedDari, file: Path) -> None:
    """And not at once, as one with an interval is."""
    file.write_bytes(rows(10))
    make(served.dari, pb.KnowledgeBaseSource(uri=file.as_uri(), cron="30 3 * * *"))
    due = sync(served.dari).next_time.ToDatetime()
    assert (due.hour, due.minute, due.second) == (3, 30, 0)
    listed = served.dari.mapping.ListSyncs(pb.ListSyncsRequest(knowledge_base=KB)).syncs
    assert [one.number for one in listed] == [1]


def test_a_held_source_leaves_no_upload_open_and_is_told_once(start_server: StartServer, file: Path) -> None:
    """Its rows are not kept; whoever accepts gets them from the source again."""
    with Operators() as operators:
        dari = start_server(source_folders=[file.parent], notify_urls={"ops": operators.url}).dari
        file.write_bytes(rows(10))
        make(dari, pb.KnowledgeBaseSource(uri=file.as_uri()))
        sync(dari)
        file.write_bytes(rows(4))
        assert [sync(dari).state for _ in range(3)] == [pb.SYNC_STATE_HELD] * 3
        assert operators.wait_for(1) == [f"the source of {KB} has lost many rows"]
        states = [upload.state for upload in uploads(dari)]
        assert sorted(states) == sorted([ingest_pb2.UPLOAD_STATE_COMPLETED, ingest_pb2.UPLOAD_STATE_CANCELLED])
        assert sync(dari, accept_shrink=True).rows_found == 4
        assert operators.titles() == [f"the source of {KB} has lost many rows"]


def test_a_content_whose_upload_failed_is_tried_anew(start_server: StartServer, file: Path) -> None:
    """As after a limit was raised: the id of the upload that failed is not in the way."""
    file.write_bytes(b"id,name\n" + b"1,a\0\n" * 2_000 + b"1,b\n" * 100)
    strict = start_server(source_folders=[file.parent], max_rejected_share=0.1)
    make(strict.dari, pb.KnowledgeBaseSource(uri=file.as_uri()))
    assert sync(strict.dari).state == pb.SYNC_STATE_FAILED
    strict.server.stop()
    lenient = start_server(source_folders=[file.parent], max_rejected_share=1.0).dari
    assert sync(lenient).state == pb.SYNC_STATE_COMPLETED


def test_two_replicas_do_one_sync(start_server: StartServer, file: Path) -> None:
    file.write_bytes(rows(5_000))
    replicas = [start_server(source_folders=[file.parent]) for _ in range(2)]
    make(replicas[0].dari, pb.KnowledgeBaseSource(uri=file.as_uri(), interval=Duration(seconds=86_400)))
    asked = {
        replica.dari.mapping.SyncKnowledgeBase(pb.SyncKnowledgeBaseRequest(name=KB)).sync.number for replica in replicas
    }
    for number in asked:
        end_of(replicas[0].dari, number)
    assert (base(replicas[0].dari).current_version, base(replicas[0].dari).row_count) == (1, 5_000)


def test_the_sync_of_a_replica_that_died_goes_on_elsewhere_exactly_once(start_server: StartServer, file: Path) -> None:
    file.write_bytes(rows(5_000))
    first = start_server(source_folders=[file.parent], max_syncs=1, sync_poll_interval_s=3_600)
    make(first.dari, pb.KnowledgeBaseSource(uri=file.as_uri()))
    with psycopg2.connect(first.dsns.admin_dsn) as session, session.cursor() as cur:
        cur.execute(
            "INSERT INTO dari.syncs (tenant, knowledge_base, number, state, accepts_shrink, version_before,"
            " rows_before) VALUES ('default', 'kb', 1, 'RUNNING', false, 0, 0);"
            "UPDATE dari.knowledge_base_sources SET lease = gen_random_uuid(),"
            " lease_until = clock_timestamp() + interval '1 second'"
        )
    session.close()
    second = start_server(source_folders=[file.parent], sync_poll_interval_s=0.1)
    moved = end_of(second.dari, 1)
    assert (moved.state, moved.version, moved.rows_found) == (pb.SYNC_STATE_COMPLETED, 1, 5_000)


def test_a_knowledge_base_without_a_source_cannot_be_synced(server: ServedDari) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.dari.mapping.SyncKnowledgeBase(pb.SyncKnowledgeBaseRequest(name=KB))
    assert refusal(caught.value).status == "FAILED_PRECONDITION"


def test_a_replica_that_is_killed_in_the_middle_leaves_each_row_once(
    start_server: StartServer, database: PostgresDsns, tmp_path: Path, file: Path
) -> None:
    file.write_bytes(rows(300_000))
    folders = json.dumps([str(file.parent)])
    with ServingProcess(database, tmp_path / "killed", source_folders=folders, sync_lease_s=2) as killed:
        with RunningDari(killed.address) as dari:
            make(dari, pb.KnowledgeBaseSource(uri=file.as_uri()))
            dari.mapping.SyncKnowledgeBase(pb.SyncKnowledgeBaseRequest(name=KB))
            until(lambda: any(one.committed_offset_bytes for one in uploads(dari)))
        killed.kill()
    survivor = start_server(source_folders=[file.parent], sync_poll_interval_s=0.1)
    assert end_of(survivor.dari, 1).state == pb.SYNC_STATE_COMPLETED
    assert (base(survivor.dari).current_version, base(survivor.dari).row_count) == (1, 300_000)
    assert len(uploads(survivor.dari)) == 1
    file.write_bytes(rows(300_001).replace(b"\n7,n7\n", b"\n7,other\n"))
    assert sync(survivor.dari).version == 2
    request = pb.CompareVersionsRequest(knowledge_base=KB, key_columns=["id"])
    found = survivor.dari.mapping.CompareVersions(request)
    assert (found.rows_added, found.rows_removed, found.rows_changed, found.rows_unchanged) == (1, 0, 1, 299_999)


def uploads(dari: RunningDari) -> Sequence[ingest_pb2.Upload]:
    return dari.ingest.ListUploads(ingest_pb2.ListUploadsRequest()).uploads
