"""I9: a REPLACE that does not come to its end; all along, readers see the version before, whole."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from dari.client import Client
from dari.v1 import ingest_pb2 as pb
from tests.faults.conftest import StartProcess
from tests.fix_postgres import PostgresDsns
from tests.support.exactly_once import assert_exactly_once
from tests.support.ingesting import KNOWLEDGE_BASE, TOLD, make_knowledge_base, send
from tests.support.known_file import KnownFile, seeded_file
from tests.support.running_dari import SOON_S
from tests.support.serving_process import Replicas
from tests.support.uploading import IngestStream


def everything(client: Client) -> bytes:
    """All rows of the current version, as they are exported."""
    request = pb.ExportRowsRequest(knowledge_base=KNOWLEDGE_BASE)
    return b"".join(piece.data for piece in client.ingests.ExportRows(request, timeout=SOON_S))


@contextmanager
def read_all_along(client: Client) -> Iterator[set[bytes]]:
    """Read everything again and again as long as the `with` lasts; gives what was seen."""
    seen: set[bytes] = set()
    problems: list[BaseException] = []
    ended = threading.Event()

    def read() -> None:
        try:
            while not ended.is_set():
                seen.add(everything(client))
        except BaseException as problem:
            problems.append(problem)

    reader = threading.Thread(target=read, name="reader")
    reader.start()
    try:
        yield seen
    finally:
        ended.set()
        reader.join()
    assert not problems, problems
    seen.add(everything(client))


def leave(stream: IngestStream, client: Client, file: KnownFile) -> None:
    """The client goes away in the middle."""
    stream.chunks(file.data[: len(file.data) // 2])
    stream.committed(1)
    stream.leave()


def cancel(stream: IngestStream, client: Client, file: KnownFile) -> None:
    """Another caller ends the upload in the middle."""
    stream.chunks(file.data[: len(file.data) // 2])
    stream.committed(1)
    client.ingests.CancelUpload(pb.CancelUploadRequest(name="uploads/second"))
    stream.chunks(file.data, len(file.data) // 2)
    assert stream.refusal().reason == "UPLOAD_CONFLICT"


def break_last_row(stream: IngestStream, client: Client, file: KnownFile) -> None:
    """All but the last row is right."""
    data = file.data + b'1,"never closed\n' + b"x" * 2_000_000
    stream.chunks(data)
    stream.finish(len(data))
    assert stream.refusal().reason == "MALFORMED_FILE"


def break_digest(stream: IngestStream, client: Client, file: KnownFile) -> None:
    """All rows are in, and are not those that the client meant."""
    stream.chunks(file.data)
    stream.finish(len(file.data), bytes(32))
    assert stream.refusal().reason == "CHECKSUM_MISMATCH"


@pytest.mark.parametrize("interrupt", [leave, cancel, break_last_row, break_digest])
def test_a_replace_that_does_not_come_to_its_end_changes_nothing_for_readers(
    start_process: StartProcess, interrupt: Callable[[IngestStream, Client, KnownFile], None]
) -> None:
    """A reader in a loop sees the first version, whole, before, meanwhile and after."""
    before, after = seeded_file(random.Random(1)), seeded_file(random.Random(2))
    with Client(start_process().address) as client:
        make_knowledge_base(client)
        send(client, "first", before.data)
        whole = everything(client)
        with read_all_along(client) as seen:
            stream = IngestStream(client.ingests)
            stream.open("second", dialect=TOLD)
            stream.opened()
            interrupt(stream, client, after)
        assert seen == {whole}


def test_a_replace_whose_server_is_killed_shows_one_version_or_the_other_whole(
    start_process: StartProcess, replicas: Replicas, database: PostgresDsns
) -> None:
    """A third server is read all along; every answer is one of the two versions."""
    before, after = seeded_file(random.Random(1)), seeded_file(random.Random(2))
    watched = start_process()
    with Client(replicas.address) as client, Client(watched.address) as watcher:
        make_knowledge_base(client)
        send(client, "first", before.data)
        whole = everything(watcher)
        killed = threading.Event()

        def kill_once(progress: object) -> None:
            if not killed.is_set():
                killed.set()
                replicas.kill()

        with read_all_along(watcher) as seen:
            send(client, "second", after.data, on_progress=kill_once)
        assert seen == {whole, everything(watcher)}
    assert_exactly_once(database.admin_dsn, "second", after.expected)
