"""`make cluster`: docker/compose.yaml's heart on this machine, until Ctrl-C.

    python -m tests.cluster [--port 50051] [--replicas 2]

One PostgreSQL, replicas of dari over it, and the real Envoy in front, all on loopback. What they keep is in a temporary
folder and goes with them. A model file that `dari model add` has put into .dari is used by each replica.
"""

import argparse
import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from dari.adapters.postgres.embedded import EmbeddedPostgres
from dari.adapters.postgres.migrate import create_database, migrate
from tests.fix_postgres import PostgresDsns, open_folder
from tests.support.cluster import Cluster

MODELS = Path(".dari/models")
CONNECTIONS = 100


def main() -> None:
    """Start all, say where, and end all."""
    parser = argparse.ArgumentParser(prog="make cluster", description="dari's replicas behind the real Envoy.")
    parser.add_argument("--port", type=int, default=50051, help="of the gateway; 0 is one that is free")
    parser.add_argument("--replicas", type=int, default=2)
    options = parser.parse_args()
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with ExitStack() as opened:
        folder = opened.enter_context(open_folder())
        postgres = opened.enter_context(EmbeddedPostgres(folder / "postgres", max_connections=CONNECTIONS))
        create_database(postgres.admin_dsn)
        migrate(postgres.admin_dsn, "dari", "dari_service")
        database = PostgresDsns(postgres.admin_dsn, postgres.service_dsn()).to("dari")
        settings = _settings(folder, options.replicas)
        cluster = opened.enter_context(
            Cluster(database, folder / "cluster", count=options.replicas, port=options.port, **settings)
        )
        _tell(cluster)
        # Not without an end: where another thread took the signal, nobody wakes this one to run the handler.
        while not stopped.wait(1.0):
            pass
        print("ending", flush=True)


def _settings(folder: Path, replicas: int) -> dict[str, Any]:
    """As an operator would have them, not as the tests do."""
    told: dict[str, Any] = {"batch_bytes": None, "log_level": "info", "drain_timeout_s": None}
    if MODELS.is_dir():
        for number in range(1, replicas + 1):
            data = folder / "cluster" / f"dari-{number}"
            data.mkdir(parents=True)
            (data / "models").symlink_to(MODELS.resolve())
        told["local_model"] = None
    told["metrics_address"] = "127.0.0.1:0"
    told["database_max_connections"] = CONNECTIONS // (replicas + 1)
    return told


def _tell(cluster: Cluster) -> None:
    print(f"gateway (gRPC, gRPC-Web, JSON)  {cluster.address}")
    print(f"statistics of Envoy             {cluster.envoy.stats_url}/stats/prometheus")
    for replica in cluster.replicas:
        print(f"dari, process {replica.pid:<17} {replica.address}, health {replica.admin_address}")
        print(f"metrics                         http://{replica.metrics_address}/metrics")
    for file in cluster.logs():
        print(f"log                             {file}")
    print(f"try: DARI_ADDRESS={cluster.address} dari map kb create first    (Ctrl-C ends all)", flush=True)


if __name__ == "__main__":
    main()
