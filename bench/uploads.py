r"""Measures uploads at once beside as many `psql \copy` at once of the same files into equal tables, in the same run.

    python -m bench.uploads                              four of 89 MB, five rounds
    python -m bench.uploads --uploads 4 --megabytes 20 --rounds 2

One replica as an operator has it (`load.system`), and the PostgreSQL behind it for both. Each upload is a client
process of its own, as each `\copy` is a psql. In turn, with a checkpoint between, and each first in every other round.
Two times of dari are taken: until all rows of all files are committed, which is what `\copy` does, and until all are
visible to search.

Walls on two cores say who waits for whom; what the work costs is told by the CPU seconds of each part: the clients, the
server, PostgreSQL. They stay comparable when other work is on the machine.

The last line on stdout is one JSON object; the table before it is for people.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bench.generate_csv import COLUMNS, MEGABYTE, Generated, cached
from bench.ingest import check, machine, psql, session, spread
from load.system import POSTGRES, System, make_knowledge_base, started
from load.usage import children_cpu_s, cpu_s

Result = TypeVar("Result")

ASKED_RATIO = 0.9


@dataclass
class Measured:
    """The rounds of one of the two. Seconds."""

    committed_s: list[float] = field(default_factory=list)
    visible_s: list[float] = field(default_factory=list)
    clients_cpu_s: list[float] = field(default_factory=list)
    server_cpu_s: list[float] = field(default_factory=list)
    postgres_cpu_s: list[float] = field(default_factory=list)

    @property
    def cpu_s(self) -> list[float]:
        """Of all parts together."""
        parts = (self.clients_cpu_s, self.server_cpu_s, self.postgres_cpu_s)
        return [sum(one) for one in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Bench:
    """The files, and what takes them."""

    system: System
    files: tuple[tuple[Path, Generated], ...]

    def upload(self, measured: Measured) -> None:
        """All files at once through dari."""
        address = self.system.addresses[0]
        with ExitStack() as opened:
            clients = []
            for number, (path, _) in enumerate(self.files):
                command = [sys.executable, "-m", "bench.upload_client", address, str(path), _base(number)]
                process = opened.enter_context(
                    subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                )
                clients.append(process)
                _tell(process, self.system.token)
                check("a client that is there", _hear(process), "ready")
            told = self._metered(measured, lambda: [_uploaded(client) for client in _begun(clients)])
        measured.clients_cpu_s[-1] = sum(one["cpu_s"] for one in told)
        for one, (_, generated) in zip(told, self.files, strict=True):
            check("rows stored", one["rows"], generated.row_count)
        began_s = min(one["began_s"] for one in told)
        measured.committed_s.append(max(one["stored_s"] for one in told) - began_s)
        measured.visible_s.append(max(one["visible_s"] for one in told) - began_s)

    def copy(self, measured: Measured) -> None:
        r"""All files at once by `\copy`, each into a table of its own."""
        columns = ", ".join(f"c{number} text NOT NULL" for number in range(1, len(COLUMNS) + 1))
        # NULL '' of CSV would not fit NOT NULL: empty cells are texts, as dari stores them.
        options = r"(FORMAT csv, HEADER true, NULL '\N')"
        names = [f"bench_copy_{number}" for number in range(len(self.files))]
        with session(self.system.admin_dsn) as run:
            for name in names:
                run(f"DROP TABLE IF EXISTS {name}; CREATE TABLE {name} ({columns}) WITH (autovacuum_enabled = off)")

        def load() -> float:
            began_s = time.monotonic()
            command = [str(psql()), self.system.admin_dsn, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c"]
            running = [
                subprocess.Popen([*command, f"\\copy {name} FROM '{path}' WITH {options}"])
                for name, (path, _) in zip(names, self.files, strict=True)
            ]
            check("exit codes of psql", [one.wait() for one in running], [0] * len(running))
            return time.monotonic() - began_s

        measured.committed_s.append(self._metered(measured, load))
        with session(self.system.admin_dsn) as run:
            for name, (_, generated) in zip(names, self.files, strict=True):
                check("rows that psql copied", run(f"SELECT count(*) FROM {name}")[0][0], generated.row_count)
                run(f"DROP TABLE {name}")

    def settle(self) -> None:
        """Write out what the last load left, so that the next one does not pay for it."""
        with session(self.system.admin_dsn) as run:
            run("CHECKPOINT")

    def _metered(self, measured: Measured, work: Callable[[], Result]) -> Result:
        """Do the work, which waits for its client processes, and note what each part took."""
        (replica,) = self.system.replicas.values()
        pids = replica.pid, self.system.pids()[POSTGRES]
        before = [*map(cpu_s, pids), children_cpu_s()]
        result = work()
        after = [*map(cpu_s, pids), children_cpu_s()]
        columns = measured.server_cpu_s, measured.postgres_cpu_s, measured.clients_cpu_s
        for column, began, ended in zip(columns, before, after, strict=True):
            column.append(ended - began)
        return result


def _base(number: int) -> str:
    return f"knowledgeBases/bench-{number}"


def _tell(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def _hear(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _begun(clients: "list[subprocess.Popen[str]]") -> "list[subprocess.Popen[str]]":
    for client in clients:
        _tell(client, "go")
    return clients


def _uploaded(client: "subprocess.Popen[str]") -> dict[str, Any]:
    told: dict[str, Any] = json.loads(_hear(client))
    client.wait()
    return told


def summary(dari: Measured, copy: Measured, size_bytes: int) -> dict[str, Any]:
    """The numbers. A ratio above 1 means that dari was faster than psql in the same round."""
    ratios = [theirs / ours for ours, theirs in zip(dari.committed_s, copy.committed_s, strict=True)]
    cpu = [theirs / ours for ours, theirs in zip(dari.cpu_s, copy.cpu_s, strict=True)]

    def told(one: Measured) -> dict[str, Any]:
        return {
            "committed_s": spread(one.committed_s),
            "committed_mb_per_s": spread([size_bytes / MEGABYTE / s for s in one.committed_s]),
            "cpu_s": spread(one.cpu_s),
            "clients_cpu_s": spread(one.clients_cpu_s),
            "server_cpu_s": spread(one.server_cpu_s),
            "postgres_cpu_s": spread(one.postgres_cpu_s),
        }

    return {
        "dari": {**told(dari), "visible_s": spread(dari.visible_s)},
        "copy": told(copy),
        "ratio_committed": spread(ratios),
        "ratio_cpu": spread(cpu),
        "asked": ASKED_RATIO,
        "reached": statistics.median(ratios) >= ASKED_RATIO,
    }


def report(result: dict[str, Any]) -> None:
    """The table for people."""

    def three(values: dict[str, float]) -> str:
        return f"{values['median']:.2f} ({values['min']:.2f}-{values['max']:.2f})"

    print(f"{'median (smallest-largest)':32}{'dari':>24}{'psql copy':>24}")
    for label, key in (
        ("all rows committed, s", "committed_s"),
        ("MB/s", "committed_mb_per_s"),
        ("all rows visible, s", "visible_s"),
        ("CPU s, of all", "cpu_s"),
        ("CPU s, of the clients", "clients_cpu_s"),
        ("CPU s, of the server", "server_cpu_s"),
        ("CPU s, of PostgreSQL", "postgres_cpu_s"),
    ):
        cells = [three(result[who][key]) if key in result[who] else "" for who in ("dari", "copy")]
        print(f"{label:32}{cells[0]:>24}{cells[1]:>24}")
    print(f"committed, dari : psql {three(result['ratio_committed'])}, asked {ASKED_RATIO}")
    print(f"CPU, dari : psql       {three(result['ratio_cpu'])}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Measure uploads at once beside psql \\copy at once.")
    parser.add_argument("--uploads", type=int, default=4)
    parser.add_argument("--megabytes", type=float, default=89)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path(".dari/bench"), help="where generated files stay")
    options = parser.parse_args()
    facts = machine()
    path, generated = cached(options.cache, round(options.megabytes * MEGABYTE))
    files = ((path.resolve(), generated),) * options.uploads
    ours, theirs = Measured(), Measured()
    with started(replicas=1) as system:
        with system.client() as client:
            for number in range(options.uploads):
                make_knowledge_base(client, _base(number))
        bench = Bench(system, files)
        for number in range(options.rounds):
            steps: list[tuple[Callable[[Measured], None], Measured]] = [(bench.upload, ours), (bench.copy, theirs)]
            for step, measured in steps if number % 2 == 0 else reversed(steps):
                step(measured)
                bench.settle()
    result = summary(ours, theirs, generated.size_bytes * options.uploads)
    report(result)
    print(json.dumps({"machine": facts, "uploads": options.uploads, "bytes_each": generated.size_bytes, **result}))


if __name__ == "__main__":
    main()
