"""I5: a database slower than the client; the client is slowed down to it, and memory stays bounded for any size."""

import pytest

from dari.client import Client, Progress
from tests.faults.conftest import StartProcess
from tests.fix_postgres import PostgresDsns
from tests.support.exactly_once import assert_exactly_once
from tests.support.fault_proxy import Fault, PostgresProxy
from tests.support.fault_sizes import BIG_BYTES
from tests.support.ingesting import make_knowledge_base, send
from tests.support.known_file import LargeFile
from tests.support.serving_process import MIB, ServingProcess

MOST_ABOVE_IDLE_BYTES = (64 + 32) * MIB
"""For the server, and for its one open upload."""
MOST_UNDER_WAY_BYTES = 40 * MIB
"""Sent by the client and not committed: a few batches of 4 MiB, and what gRPC's window and the sockets hold."""
EQUAL_WITHIN = 0.10
BATCH_BYTES = 4 * MIB
"""The product's own, not that of other tests: it is what memory is made of."""
IS_LARGE = BIG_BYTES >= 4_000_000_000


def upload_measured(server: ServingProcess, client: Client, upload_id: str, file: LargeFile) -> int:
    """The most bytes that were under way."""
    most_under_way = 0

    def note(progress: Progress) -> None:
        nonlocal most_under_way
        most_under_way = max(most_under_way, progress.sent_bytes - progress.committed_bytes)

    server.forget_peak()
    send(client, upload_id, file, on_progress=note)
    return most_under_way


def test_a_slow_database_slows_the_client_down_and_takes_no_memory(
    start_process: StartProcess, database: PostgresDsns
) -> None:
    """A link of 16 MB/s to the database, and a client that could send ten times as fast."""
    file = LargeFile(min(BIG_BYTES, 100_000_000))
    with PostgresProxy(database.service_dsn) as proxy:
        server = start_process(database._replace(service_dsn=proxy.dsn), batch_bytes=BATCH_BYTES)
        with Client(server.address) as client:
            make_knowledge_base(client)
            idle_bytes = server.resident_bytes()
            proxy.to_target.set(Fault(bytes_per_s=16e6))
            assert upload_measured(server, client, "u", file) <= MOST_UNDER_WAY_BYTES < file.size_bytes
            assert server.peak_bytes() - idle_bytes <= MOST_ABOVE_IDLE_BYTES
    assert_exactly_once(database.admin_dsn, "u", file.expected)


def test_memory_is_the_same_for_a_file_of_any_size(start_process: StartProcess, database: PostgresDsns) -> None:
    """The small one is a quarter of the large one in CI, a twentieth from 4 GB on.

    In CI batches are smaller too: a file of a few of them ends before memory has come to its height.
    """
    sizes = (BIG_BYTES // (20 if IS_LARGE else 4), BIG_BYTES)
    peaks = []
    for size_bytes in sizes:
        server = start_process(batch_bytes=BATCH_BYTES if IS_LARGE else MIB)
        with Client(server.address) as client:
            make_knowledge_base(client)
            idle_bytes = server.resident_bytes()
            file = LargeFile(size_bytes)
            upload_measured(server, client, f"u-{size_bytes}", file)
            assert server.peak_bytes() - idle_bytes <= MOST_ABOVE_IDLE_BYTES
        peaks.append(server.peak_bytes())
        server.kill()
        assert_exactly_once(database.admin_dsn, f"u-{size_bytes}", file.expected)
    assert peaks[1] == pytest.approx(peaks[0], rel=EQUAL_WITHIN)
