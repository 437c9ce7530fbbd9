"""Uploads through the real Envoy: it sends nothing twice and holds nothing back, and a dead replica costs no row."""

import random
from concurrent.futures import ThreadPoolExecutor

from dari.client import Client, Progress
from tests.faults.operation.conftest import StartCluster
from tests.fix_postgres import PostgresDsns
from tests.support.cluster import Cluster
from tests.support.exactly_once import assert_exactly_once
from tests.support.fault_proxy import Fault, PostgresProxy
from tests.support.fault_sizes import SEEDS
from tests.support.ingesting import make_knowledge_base, send
from tests.support.killer import Killer
from tests.support.known_file import seeded_file

MIB = 1024 * 1024
FILES = max(3, SEEDS // 5)
SLOW_BYTES_PER_S = 12 * MIB
UPLOADS = 2
FILE_BYTES = 12 * MIB
IN_FLIGHT_BYTES = 10 * MIB
"""What one upload may have between the client's file and the ledger: windows and buffers of client and Envoy, and the
batches of dari. 7 MiB were seen; with the windows that Envoy has by default, the whole file."""
ENVOY_BYTES = 6 * MIB
"""What the heap of Envoy may grow by: 2 MiB were seen, 10 with its own windows."""


class KilledReplica:
    """Kills the replica that an upload is under way on, and starts it again."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def __call__(self) -> None:
        for replica in self._cluster.replicas:
            if self._cluster.envoy.active_calls("dari_uploads").get(replica.address):
                replica.restart()
                return


def test_an_upload_goes_on_where_a_killed_replica_left_it(start_cluster: StartCluster, database: PostgresDsns) -> None:
    cluster = start_cluster()
    kills = 0
    with Client(cluster.address) as client:
        make_knowledge_base(client)
        for seed in range(FILES):
            chance = random.Random(seed)
            file, id = seeded_file(chance), f"seed-{seed}"
            killer = Killer(chance, KilledReplica(cluster))
            send(client, id, file.data, on_progress=killer.on_progress)
            killer.join()
            assert_exactly_once(database.admin_dsn, id, file.expected)
            kills += killer.kills
    assert kills >= FILES // 2
    assert cluster.envoy.counter("cluster.dari_uploads.upstream_rq_retry") == 0


def test_a_slow_database_slows_the_client_and_fills_no_envoy(
    start_cluster: StartCluster, database: PostgresDsns
) -> None:
    with PostgresProxy(database.service_dsn) as before_postgres:
        cluster = start_cluster(database._replace(service_dsn=before_postgres.dsn))
        envoy = cluster.envoy
        held, sizes = [], [before := envoy.counter("server.memory_allocated")]

        def look(progress: Progress) -> None:
            held.append(progress.sent_bytes - progress.committed_bytes)
            sizes.append(envoy.counter("server.memory_allocated"))

        def upload(number: int) -> int:
            return send(client, f"slow-{number}", file_of(FILE_BYTES), on_progress=look).rows_stored

        with Client(cluster.address) as client, ThreadPoolExecutor(UPLOADS) as callers:
            make_knowledge_base(client)
            before_postgres.to_target.set(Fault(bytes_per_s=SLOW_BYTES_PER_S))
            stored = list(callers.map(upload, range(UPLOADS)))
        assert stored == [FILE_BYTES // len(ROW)] * UPLOADS
        assert max(held) <= IN_FLIGHT_BYTES
        assert max(sizes) - before <= ENVOY_BYTES


ROW = b"7,LaGuardia,40.77,-73.87,22\n"


def file_of(size_bytes: int) -> bytes:
    """A header and as many rows as fit, all the same."""
    return b"id,name,lat,lon,alt\n" + ROW * (size_bytes // len(ROW))
