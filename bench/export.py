r"""Measures ExportRows beside `psql \copy … TO` of the same rows of the same PostgreSQL.

    python -m bench.export                       89 MB, five repetitions
    python -m bench.export --megabytes 900 --repetitions 3

A fresh server (`dari serve`, embedded PostgreSQL with its default settings, a temporary folder) takes the file once.
Then ExportRows, read by the Python client, and psql, which writes to /dev/null, take turns. psql does it twice: as the
rows lie in the table, and in the order of the file, which is what dari gives. The first export is read as CSV again,
and its rows are counted and hashed against what the generator says.

Memory is the resident set of the server's own process (VmHWM, reset before each export), without PostgreSQL's and
without the client's, above what it was after the upload.

The last line on stdout is one JSON object; the table before it is for people.
"""

import argparse
import csv
import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.generate_csv import COLUMNS, MEGABYTE, SEPARATOR, Generated, cached
from bench.ingest import (
    KNOWLEDGE_BASE,
    MIB,
    Bench,
    check,
    machine,
    psql,
    reset_peak,
    running_server,
    session,
    spread,
    status_bytes,
)
from dari.v1.ingest_pb2 import UPLOAD_MODE_REPLACE, ExportRowsRequest


@dataclass
class Measured:
    """All repetitions. Seconds and bytes."""

    size_bytes: int = 0
    """Of the CSV that dari gives."""
    export_s: list[float] = field(default_factory=list)
    copy_s: list[float] = field(default_factory=list)
    ordered_copy_s: list[float] = field(default_factory=list)
    peak_above_idle_bytes: list[int] = field(default_factory=list)


def export(bench: Bench, idle_bytes: int, measured: Measured) -> None:
    """One export, timed."""
    reset_peak(bench.process.pid)
    began_s = time.perf_counter()
    measured.size_bytes = sum(map(len, exported(bench)))
    measured.export_s.append(time.perf_counter() - began_s)
    measured.peak_above_idle_bytes.append(status_bytes(bench.process.pid, "VmHWM") - idle_bytes)


def exported(bench: Bench) -> Iterator[bytes]:
    """The CSV, piece by piece."""
    for message in bench.client.ingests.ExportRows(ExportRowsRequest(knowledge_base=KNOWLEDGE_BASE)):
        yield message.data


def copy(bench: Bench, source: str) -> float:
    r"""Seconds that `\copy` takes, the start of psql left in."""
    command = [str(psql()), bench.dsn, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c"]
    command.append(f"\\copy {source} TO '/dev/null' WITH (FORMAT csv, HEADER true)")
    began_s = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - began_s


def check_rows(bench: Bench, file: Generated) -> None:
    """The rows that are exported are those of the file."""
    rows = csv.reader(text_lines(exported(bench)))
    next(rows)
    count = rows_hash = 0
    for row in rows:
        digest = hashlib.md5(SEPARATOR.join(row).encode(), usedforsecurity=False).hexdigest()
        rows_hash += int(digest[:15], 16)
        count += 1
    check("rows exported", count, file.row_count)
    check("hash of the rows", rows_hash, file.rows_hash)


def text_lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """Lines with their ends, however the pieces are cut."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line.decode() + "\n" for line in lines)
    if rest:
        yield rest.decode()


def rows_table(bench: Bench) -> str:
    """The one table of rows."""
    with session(bench.dsn) as run:
        ((table,),) = run("SELECT oid::regclass::text FROM pg_class WHERE relname LIKE 'rows\\_%' AND relkind = 'r'")
    return str(table)


def summary(file: Generated, measured: Measured) -> dict[str, Any]:
    """The numbers. A ratio above 1 means that dari is faster than psql in the same repetition."""
    size = measured.size_bytes
    return {
        "file_bytes": file.size_bytes,
        "rows": file.row_count,
        "export_bytes": size,
        "repetitions": len(measured.export_s),
        "dari_export_mb_per_s": spread([size / MEGABYTE / s for s in measured.export_s]),
        "psql_copy_mb_per_s": spread([size / MEGABYTE / s for s in measured.copy_s]),
        "psql_ordered_copy_mb_per_s": spread([size / MEGABYTE / s for s in measured.ordered_copy_s]),
        "ratio": spread([copy / own for own, copy in zip(measured.export_s, measured.copy_s, strict=True)]),
        "ratio_ordered": spread(
            [copy / own for own, copy in zip(measured.export_s, measured.ordered_copy_s, strict=True)]
        ),
        "peak_above_idle_mib": spread([peak / MIB for peak in measured.peak_above_idle_bytes]),
    }


def report(result: dict[str, Any]) -> None:
    """The table for people."""
    print(f"{'median (smallest-largest)':40} {result['export_bytes'] / MEGABYTE:>18.0f} MB")
    for label, key, digits in (
        ("dari ExportRows, MB/s", "dari_export_mb_per_s", 1),
        ("psql \\copy, as the rows lie, MB/s", "psql_copy_mb_per_s", 1),
        ("psql \\copy, in the file's order, MB/s", "psql_ordered_copy_mb_per_s", 1),
        ("dari : psql, as the rows lie", "ratio", 2),
        ("dari : psql, in the file's order", "ratio_ordered", 2),
        ("dari, peak above idle, MiB", "peak_above_idle_mib", 1),
    ):
        values = result[key]
        shown = f"{values['median']:.{digits}f} ({values['min']:.{digits}f}-{values['max']:.{digits}f})"
        print(f"{label:40} {shown:>21}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Measure ExportRows beside psql \\copy TO.")
    parser.add_argument("--megabytes", type=float, default=89)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path(".dari/bench"), help="where generated files stay")
    options = parser.parse_args()

    facts = machine()
    path, file = cached(options.cache, round(options.megabytes * MEGABYTE))
    measured = Measured()
    with running_server() as bench:
        bench.client.ingest(path.resolve(), KNOWLEDGE_BASE, UPLOAD_MODE_REPLACE)
        bench.settle()
        check_rows(bench, file)
        table, cells = rows_table(bench), ", ".join(f"c{number}" for number in range(1, len(COLUMNS) + 1))
        idle_bytes = status_bytes(bench.process.pid, "VmRSS")
        steps: list[Callable[[], None]] = [
            lambda: export(bench, idle_bytes, measured),
            lambda: measured.copy_s.append(copy(bench, f"{table} ({cells})")),
            lambda: measured.ordered_copy_s.append(copy(bench, f"(SELECT {cells} FROM {table} ORDER BY row_number)")),
        ]
        for number in range(options.repetitions):
            # In turn, so that none is always the first on what the others left in the caches.
            for step in steps[number % 3 :] + steps[: number % 3]:
                step()

    result = summary(file, measured)
    report(result)
    print(json.dumps({"machine": facts, "export": result}))


if __name__ == "__main__":
    main()
