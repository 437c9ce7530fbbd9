"""Measures the parser's steps on one core beside csv-core, polars, DuckDB, pyarrow, pandas and Python's csv.

    python -m bench.parse                       four files of 64 MiB, five rounds
    python -m bench.parse --mebibytes 16 --rounds 3

The files are made from a fixed seed. Each round runs the Rust example (`parse_bench`: csv-core and the parser's steps)
and then every peer in a process of its own, told to use one thread; a peer reads the file once to warm its caches and
then once for the record. Times are processor seconds of the reading thread or process, so that what else runs on the
machine costs all of them about the same. Every reader must find the same number of rows.

What is compared: *scan* finds all cells, *evidence* checks their text too and gathers types, bounds, sums, distinct
and frequent values of every column, *evidence_copy* also encodes rows for COPY, *terms* indexes search terms, *whole*
is the parser with SHA-256. Of the peers, `polars` and `duckdb` read every column of every row, with types that they
guess from a sample; `polars_profile` and `duckdb_summarize` also tell bounds and distinct values, which is nearest to
*evidence*.

The last line on stdout is one JSON object; the table before it is for people.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEGABYTE = 1_000_000
FILES = ("sales", "korean", "quoted", "numbers")
BASE = "csv_core"
ONE_THREAD = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"}
RATIOS = (
    ("scan", BASE, 2.2),
    ("evidence", "polars", 3.0),
    ("evidence", "duckdb", 6.0),
    ("evidence", "polars_profile", 3.0),
    ("evidence", "duckdb_summarize", 6.0),
    ("evidence_copy", BASE, 1.0),
)
"""What is divided by what, and what it should reach."""


def _polars(path: str) -> int:
    import polars as pl

    return int(pl.scan_csv(path).collect(engine="streaming").height)


def _polars_profile(path: str) -> int:
    import polars as pl

    every = pl.all()
    facts = [
        every.min().name.prefix("min_"),
        every.max().name.prefix("max_"),
        every.null_count().name.prefix("null_"),
        every.approx_n_unique().name.prefix("distinct_"),
        pl.len(),
    ]
    return int(pl.scan_csv(path).select(facts).collect(engine="streaming")["len"][0])


def _duckdb(path: str) -> int:
    import duckdb

    connection = duckdb.connect(config={"threads": 1})
    counts = connection.execute("SELECT count(*), count(COLUMNS(*)) FROM read_csv(?)", [path]).fetchall()
    return int(counts[0][0])


def _duckdb_summarize(path: str) -> int:
    import duckdb

    connection = duckdb.connect(config={"threads": 1})
    columns = connection.execute("SELECT * FROM (SUMMARIZE FROM read_csv(?))", [path]).fetchall()
    return int(columns[0][10])


def _pyarrow(path: str) -> int:
    from pyarrow import csv as arrow_csv

    return int(arrow_csv.read_csv(path, read_options=arrow_csv.ReadOptions(use_threads=False)).num_rows)


def _pandas(path: str) -> int:
    import pandas as pd

    return len(pd.read_csv(path))


def _csv(path: str) -> int:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return sum(1 for _ in csv.reader(file)) - 1


PEERS: dict[str, Callable[[str], int]] = {
    "polars": _polars,
    "polars_profile": _polars_profile,
    "duckdb": _duckdb,
    "duckdb_summarize": _duckdb_summarize,
    "pyarrow": _pyarrow,
    "pandas": _pandas,
    "python_csv": _csv,
}


def run_peer(name: str, path: str) -> None:
    """Print rows and processor seconds of the second of two readings."""
    PEERS[name](path)
    began_s = time.process_time()
    rows = PEERS[name](path)
    print(json.dumps({"rows": rows, "seconds": time.process_time() - began_s}))


def build() -> Path:
    """The Rust example, built now."""
    command = ["cargo", "build", "--release", "--quiet", "--example", "parse_bench", "--message-format=json"]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    built = (json.loads(line).get("executable") for line in told.splitlines())
    return Path(next(path for path in built if path))


def printed(command: list[str]) -> dict[str, Any]:
    """What a command printed as JSON."""
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD)
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def measure(example: Path, path: Path, rounds: int) -> dict[str, list[float]]:
    """Processor seconds of every candidate, a value a round."""
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        steps = printed([str(example), str(path), "1"])
        for name, values in steps["seconds"].items():
            seconds.setdefault(name, []).extend(values)
        for name in PEERS:
            peer = printed([sys.executable, "-m", "bench.parse", "--peer", name, str(path)])
            if peer["rows"] != steps["rows"]:
                message = f"{name} found {peer['rows']} rows in {path.name}, csv-core {steps['rows']}"
                raise SystemExit(message)
            seconds.setdefault(name, []).append(peer["seconds"])
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, peer: str) -> float:
    """How many times as fast as the peer: the median over the rounds."""
    return statistics.median(other / own for own, other in zip(seconds[name], seconds[peer], strict=True))


def report(sizes: dict[str, int], results: dict[str, dict[str, list[float]]]) -> None:
    """Print the table for people."""
    print(f"{'median MB/s of one core':36}", *(f"{name:>12}" for name in results))
    for name in next(iter(results.values())):
        speeds = (sizes[file] / MEGABYTE / statistics.median(seconds[name]) for file, seconds in results.items())
        print(f"{name:36}", *(f"{speed:>12,.0f}" for speed in speeds))
    print()
    print(f"{'times as fast, median of rounds':36}", *(f"{name:>12}" for name in results))
    for name, peer, goal in RATIOS:
        ratios = (ratio(seconds, name, peer) for seconds in results.values())
        print(f"{f'{name} / {peer} (to reach: {goal})':36}", *(f"{value:>12.2f}" for value in ratios))


def main() -> None:
    """Make the files, run the rounds, print."""
    parser = argparse.ArgumentParser(description="Measure the parser beside its peers on one core.")
    parser.add_argument("--mebibytes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", nargs=2, metavar=("NAME", "PATH"), help="only this peer, in this process")
    options = parser.parse_args()
    if options.peer:
        run_peer(*options.peer)
        return
    load_before = os.getloadavg()[0]
    example = build()
    sizes: dict[str, int] = {}
    results: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="dari-parse-") as folder:
        for name in FILES:
            path = Path(folder) / f"{name}.csv"
            subprocess.run([str(example), "make", name, str(options.mebibytes), str(path)], check=True)
            sizes[name] = path.stat().st_size
            results[name] = measure(example, path, options.rounds)
            path.unlink()
    report(sizes, results)
    ratios = {
        file: {f"{name}/{peer}": round(ratio(seconds, name, peer), 3) for name, peer, _ in RATIOS}
        for file, seconds in results.items()
    }
    machine = {"cpus": os.cpu_count(), "platform": platform.platform(), "load_before_1m": load_before}
    rounds = {"rounds": options.rounds, "bytes": sizes, "seconds": results, "ratios": ratios, "machine": machine}
    print(json.dumps(rounds))


if __name__ == "__main__":
    main()
