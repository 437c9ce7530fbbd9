"""Uploads whose server, or whose database sessions, are killed: every row is stored once, or listed once as rejected.

DARI_TEST_SEEDS=200 runs as many seeds; a seed is a file, its batches, and the moments of the kills.
"""

import io
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
import psycopg2
import pytest

from dari.client import Client, Progress
from dari.v1 import ingest_pb2, mapping_pb2
from tests.fix_postgres import PostgresDsns
from tests.fix_server import StartServer, settings_for
from tests.support.running_dari import SOON_S
from tests.support.uploading import Stored

SEEDS = int(os.environ.get("DARI_TEST_SEEDS", "12"))
MOST_KILLS = 3


@dataclass(frozen=True)
class File:
    """Bytes, and what must come of them."""

    data: bytes
    rows: list[tuple[str, ...]]
    rejected_lines: list[int]


def _file(chance: random.Random) -> File:
    """Up to two megabytes with quoted line ends, Korean and rows that cannot be stored."""
    lines, rejected_lines, line = ["id,text\n"], [], 2
    rows: list[tuple[str, ...]] = []
    for number in range(chance.randrange(2_000, 12_000)):
        kind = chance.random()
        if kind < 0.01:
            rejected_lines.append(line)
            lines.append(f"{number},\0\n")
        elif kind < 0.2:
            rows.append((str(number), f"zwei\n{number}"))
            lines.append(f'{number},"zwei\n{number}"\n')
            line += 1
        else:
            text = "행 " * chance.randrange(0, 40)
            rows.append((str(number), text))
            lines.append(f"{number},{text}\n")
        line += 1
    return File("".join(lines).encode(), rows, rejected_lines)


def _assert_stored_once(dsns: PostgresDsns, id: str, file: File, receipt: ingest_pb2.Receipt, client: Client) -> None:
    stored = Stored(dsns.admin_dsn, id)
    assert Counter(stored.rows) == Counter(file.rows)
    assert stored.rows == file.rows
    stored.assert_ledger_covers(len(file.data))
    assert receipt.rows_stored == len(file.rows)
    assert receipt.rows_rejected == len(file.rejected_lines)
    listed, token = [], ""
    while True:
        page = client.ingests.ListRejectedRows(
            ingest_pb2.ListRejectedRowsRequest(upload=f"uploads/{id}", page_size=1_000, page_token=token)
        )
        listed += [row.line for row in page.rejected_rows]
        token = page.next_page_token
        if not token:
            break
    assert listed == file.rejected_lines


class ServerProcess:
    """`dari serve` on a port that stays the same over restarts. Use in a `with` statement."""

    def __init__(self, dsns: PostgresDsns, data_dir: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        chosen = {**settings_for(dsns, data_dir), "listen_address": self.address, "local_model": ""}
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DARI_")},
            **{f"DARI_{name.upper()}": str(value) for name, value in chosen.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", "dari", "serve"], env=self._environment)
        with grpc.insecure_channel(self.address) as channel:
            grpc.channel_ready_future(channel).result(SOON_S)

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()


class Killer:
    """Calls `kill` at chosen moments of an upload: a number of answers after the last kill, and a bit later."""

    def __init__(self, chance: random.Random, kill: "Kill") -> None:
        self._left = [chance.randrange(1, 12) for _ in range(chance.randrange(1, MOST_KILLS + 1))]
        self._delay_s = [chance.choice([0.0, 0.002, 0.01, 0.05]) for _ in self._left]
        self._kill = kill
        self._answers = 0
        self._running: threading.Thread | None = None
        self.kills = 0

    def on_progress(self, progress: Progress) -> None:
        if progress.pause_cause is not None or not self._left or (self._running and self._running.is_alive()):
            return
        self._answers += 1
        if self._answers >= self._left[-1]:
            self._answers = 0
            self._left.pop()
            self.kills += 1
            timer = threading.Timer(self._delay_s.pop(), self._kill.now)
            timer.start()
            self._running = timer

    def join(self) -> None:
        if self._running is not None:
            self._running.join()


class Kill:
    """What is killed."""

    def now(self) -> None:
        raise NotImplementedError


class KillServer(Kill):
    def __init__(self, process: ServerProcess) -> None:
        self._process = process

    def now(self) -> None:
        self._process.restart()


class KillSessions(Kill):
    """Ends every session of dari in the test's database, as a restart of PostgreSQL would."""

    def __init__(self, dsns: PostgresDsns) -> None:
        self._dsns = dsns

    def now(self) -> None:
        with closing(psycopg2.connect(self._dsns.admin_dsn)) as session, session.cursor() as cur:
            cur.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'dari'"
            )


@pytest.fixture
def process(database: PostgresDsns, tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(database, tmp_path) as process:
        yield process


def _run_seeds(client: Client, dsns: PostgresDsns, kill: Kill) -> int:
    """Upload one file a seed, each killed at moments of its own; returns how many kills there were."""
    client.mapping.CreateKnowledgeBase(mapping_pb2.CreateKnowledgeBaseRequest(knowledge_base_id="kb"))
    kills = 0
    for seed in range(SEEDS):
        chance = random.Random(seed)
        file, killer, id = _file(chance), Killer(chance, kill), f"seed-{seed}"
        receipt = client.ingest(
            io.BytesIO(file.data),
            "knowledgeBases/kb",
            ingest_pb2.UPLOAD_MODE_REPLACE,
            upload_id=id,
            on_progress=killer.on_progress,
        )
        killer.join()
        _assert_stored_once(dsns, id, file, receipt, client)
        kills += killer.kills
    found = client.mapping.GetKnowledgeBase(mapping_pb2.GetKnowledgeBaseRequest(name="knowledgeBases/kb"))
    assert found.knowledge_base.current_version == SEEDS
    return kills


def test_a_killed_server_costs_no_row_and_doubles_none(process: ServerProcess, database: PostgresDsns) -> None:
    with Client(process.address) as client:
        assert _run_seeds(client, database, KillServer(process)) >= SEEDS // 2


def test_killed_database_sessions_cost_no_row_and_double_none(
    start_server: StartServer, database: PostgresDsns
) -> None:
    served = start_server()
    with Client(served.server.address) as client:
        assert _run_seeds(client, database, KillSessions(database)) >= SEEDS // 2
