"""I3: the same upload from two clients over two replicas, and bytes that do not fit what was sent before."""

import hashlib
import random
import threading

import grpc
import pytest

from dari.client import CallFailed, Client
from dari.v1 import ingest_pb2 as pb
from tests.faults.conftest import StartProcess
from tests.fix_postgres import PostgresDsns
from tests.support.exactly_once import assert_exactly_once
from tests.support.fault_sizes import SEEDS
from tests.support.ingesting import TOLD, make_knowledge_base, send
from tests.support.known_file import seeded_file
from tests.support.uploading import CHUNK_BYTES, IngestStream


def test_the_same_upload_twice_at_once_on_two_replicas_is_stored_once(
    start_process: StartProcess, database: PostgresDsns
) -> None:
    """One wins; the other is told so, or is given the same receipt."""
    with Client(start_process().address) as first, Client(start_process().address) as second:
        make_knowledge_base(first)
        for seed in range(SEEDS):
            chance = random.Random(seed)
            file, id = seeded_file(chance), f"seed-{seed}"
            outcomes: list[pb.Receipt | CallFailed] = []

            def run(client: Client, id: str = id, data: bytes = file.data, into: list[object] = outcomes) -> None:  # type: ignore[assignment]
                try:
                    into.append(send(client, id, data))
                except CallFailed as failure:
                    into.append(failure)

            delayed = threading.Timer(chance.choice([0.0, 0.001, 0.01, 0.03]), run, (second,))
            delayed.start()
            run(first)
            delayed.join()
            receipts = [outcome for outcome in outcomes if isinstance(outcome, pb.Receipt)]
            assert receipts and all(receipt == receipts[0] for receipt in receipts)
            refusals = [outcome.reason for outcome in outcomes if isinstance(outcome, CallFailed)]
            assert set(refusals) <= {"RIVAL_WRITER"}
            assert_exactly_once(database.admin_dsn, id, file.expected)


def test_offsets_that_jump_are_refused_and_those_that_fall_back_are_skipped_whichever_replica_answers(
    start_process: StartProcess, database: PostgresDsns
) -> None:
    """Chunks go in turn to two replicas, each opened anew; one in three comes too early, one in three too late."""
    chance = random.Random(7)
    file = seeded_file(chance, most_rows=4_000 * SEEDS)
    with Client(start_process().address) as first, Client(start_process().address) as second:
        make_knowledge_base(first)
        offset, turn = 0, 0
        while len(file.data) - offset > 6 * CHUNK_BYTES:
            turn += 1
            stream = IngestStream((first, second)[turn % 2].ingests)
            stream.open("u", dialect=TOLD)
            offset = stream.opened()
            if turn % 3 == 1:
                stream.chunk(offset + 1, file.data[offset + 1 : offset + 10])
                refusal = stream.refusal()
                assert (refusal.status, refusal.reason) == ("OUT_OF_RANGE", "OFFSET_GAP")
                assert refusal.metadata["expected_offset"] == str(offset)
                continue
            start = chance.randrange(offset + 1) if turn % 3 == 2 else offset
            stream.chunks(file.data[: offset + 5 * CHUNK_BYTES], start)
            assert stream.committed(offset).offset_bytes >= offset
            stream.leave()
        assert turn > 3
        send(first, "u", file.data, dialect=TOLD)
    assert_exactly_once(database.admin_dsn, "u", file.expected)


def test_other_bytes_under_the_same_id_never_mix_with_the_first_ones(
    start_process: StartProcess, database: PostgresDsns
) -> None:
    """Before the end their digest differs and the upload fails; behind it nothing may follow, and it says so."""
    file, other = seeded_file(random.Random(1)), seeded_file(random.Random(2))
    with Client(start_process().address) as client:
        make_knowledge_base(client)
        send(client, "whole", file.data)
        begun = IngestStream(client.ingests)
        begun.open("mixed", dialect=TOLD)
        begun.opened()
        begun.chunks(file.data[: len(file.data) // 2])
        begun.committed(1)
        begun.leave()
        with pytest.raises(CallFailed) as raised:
            send(client, "mixed", other.data, dialect=TOLD)
        assert raised.value.reason in ("CHECKSUM_MISMATCH", "MALFORMED_FILE")
        with pytest.raises(CallFailed) as raised:
            send(client, "mixed", file.data, dialect=TOLD)
        assert (raised.value.code, raised.value.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "UPLOAD_CONFLICT",
        )
        assert send(client, "whole", file.data).sha256 == hashlib.sha256(file.data).digest()
    assert_exactly_once(database.admin_dsn, "whole", file.expected)
