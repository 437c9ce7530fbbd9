"""Measures what a sync of an unchanged source moves: over the wire, into the database, and in time.

    python -m bench.sync                        900 MB, five looks at each source
    python -m bench.sync --megabytes 20 --rounds 3

A fresh server (`dari serve`, embedded PostgreSQL with its default settings, a temporary folder) has the same file as
three sources, one after the other: over http from a server in a process of its own that sends an ETag; from one that
sends nothing that tells a change, so that the hash of what was fetched decides; and as `file:`. Each is synced once,
which stores it, and then looked at again and again, unchanged.

Bytes on the wire are those of requests and responses as the file server counts them, above TCP. Rows are what the
database has more of in uploads, versions and tables of rows; WAL is all that PostgreSQL wrote down meanwhile, the
sync's own line with it. The time of a look is from SyncKnowledgeBase until ListSyncs tells its end, polled every 5 ms,
beside a conditional GET of httpx for the same file in the same round.

The last line on stdout is one JSON object; the table before it is for people.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.generate_csv import MEGABYTE, Generated, cached
from bench.ingest import Bench, WrongResult, check, machine, running_server, session, spread
from dari.v1 import mapping_pb2 as wire

WIRE_LIMIT_BYTES = 100_000
"""What a look at an unchanged source may move where its server tells that it is."""
_POLL_S = 0.005
_SYNC_TIMEOUT_S = 1_800.0
_STORED = """
SELECT (SELECT count(*) FROM dari.uploads), (SELECT count(*) FROM dari.knowledge_base_versions),
    (SELECT count(*) FROM pg_class WHERE relnamespace = 'dari_rows'::regnamespace AND relkind = 'r')
"""
_WAL_POSITION = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"

Run = Callable[[str], list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Place:
    """Where the file is a source."""

    name: str
    uri: str
    tells_changes: bool
    """Whether whoever serves it says that it is unchanged."""

    def counts(self) -> dict[str, int]:
        """What passed its server so far; nothing passes a wire for a file on the disk."""
        if self.uri.startswith("file:"):
            return {"requests": 0, "received_bytes": 0, "sent_bytes": 0}
        told: dict[str, int] = httpx.get(httpx.URL(self.uri).join("/counts"), trust_env=False).json()
        return told


@dataclass
class Looked:
    """All looks at one unchanged source."""

    first_s: float = 0.0
    first_wire_bytes: int = 0
    look_s: list[float] = field(default_factory=list)
    bare_s: list[float] = field(default_factory=list)
    wire_bytes: list[int] = field(default_factory=list)
    wal_bytes: list[int] = field(default_factory=list)


@contextmanager
def served(path: Path, *options: str) -> Iterator[str]:
    """A file server in a process of its own; its URL."""
    command = [sys.executable, "-m", "bench.sync_file_server", str(path), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def make(bench: Bench, place: Place) -> str:
    """A knowledge base with this source, looked at only when asked; its name."""
    base = wire.KnowledgeBase(source=wire.KnowledgeBaseSource(uri=place.uri))
    request = wire.CreateKnowledgeBaseRequest(knowledge_base_id=place.name, knowledge_base=base)
    return bench.client.mapping.CreateKnowledgeBase(request).knowledge_base.name


def sync(bench: Bench, name: str) -> tuple[wire.Sync, float]:
    """Begin a sync and wait for its end; how it ended, and after how long."""
    began_s = time.perf_counter()
    begun = bench.client.mapping.SyncKnowledgeBase(wire.SyncKnowledgeBaseRequest(name=name)).sync
    request = wire.ListSyncsRequest(knowledge_base=name, page_size=1)
    while time.perf_counter() - began_s < _SYNC_TIMEOUT_S:
        (latest,) = bench.client.mapping.ListSyncs(request).syncs
        if latest.number == begun.number and latest.state != wire.SYNC_STATE_RUNNING:
            return latest, time.perf_counter() - began_s
        time.sleep(_POLL_S)
    raise WrongResult("the sync did not end")


def looked(bench: Bench, run: Run, peer: httpx.Client, place: Place, file: Generated, rounds: int) -> Looked:
    """Store the file once, look at it `rounds` times, and see that nothing came of it."""
    found = Looked()
    name = make(bench, place)
    before = place.counts()
    first, found.first_s = sync(bench, name)
    found.first_wire_bytes = _passed(before, place.counts())
    check(f"{place.name}, first sync", (first.state, first.rows_found), (wire.SYNC_STATE_COMPLETED, file.row_count))
    etag = _etag(place)
    for _ in range(rounds):
        stored, wal, before = run(_STORED), run(_WAL_POSITION)[0][0], place.counts()
        again, took_s = sync(bench, name)
        found.look_s.append(took_s)
        found.wire_bytes.append(_passed(before, place.counts()))
        found.wal_bytes.append(run(_WAL_POSITION)[0][0] - wal)
        check(f"{place.name}, a look", (again.state, list(again.uploads)), (wire.SYNC_STATE_UNCHANGED, []))
        check(f"{place.name}, what is stored", run(_STORED), stored)
        if etag is not None:
            found.bare_s.append(_conditional_get_s(peer, place.uri, etag))
    bench.client.mapping.DeleteKnowledgeBase(wire.DeleteKnowledgeBaseRequest(name=name, force=True))
    return found


def _passed(before: dict[str, int], after: dict[str, int]) -> int:
    return sum(after[name] - before[name] for name in ("received_bytes", "sent_bytes"))


def _etag(place: Place) -> str | None:
    """What a conditional GET names; "" where the server knows no condition, None where there is no server."""
    return (
        None if place.uri.startswith("file:") else str(httpx.head(place.uri, trust_env=False).headers.get("ETag", ""))
    )


def _conditional_get_s(peer: httpx.Client, url: str, etag: str) -> float:
    """Seconds of a connection, a GET where the file is another one than this, and of all that comes."""
    began_s = time.perf_counter()
    with peer.stream("GET", url, headers={"If-None-Match": etag} if etag else {}) as response:
        check("status of the bare GET", response.status_code, 304 if etag else 200)
        for _ in response.iter_raw():
            pass
    return time.perf_counter() - began_s


def check_bounds(place: Place, found: Looked, size_bytes: int) -> None:
    """Little moves where the server tells; without that the file comes whole, and is not stored."""
    for wire_bytes in found.wire_bytes:
        if place.tells_changes and wire_bytes >= WIRE_LIMIT_BYTES:
            raise WrongResult(f"{place.name}: {wire_bytes} bytes on the wire")
        if not place.tells_changes and wire_bytes < size_bytes:
            raise WrongResult(f"{place.name}: only {wire_bytes} bytes on the wire, where nothing tells of a change")


def summary(place: Place, found: Looked) -> dict[str, Any]:
    """One source's numbers."""
    told: dict[str, Any] = {
        "source": place.name,
        "first_s": round(found.first_s, 3),
        "first_wire_bytes": found.first_wire_bytes,
        "look_s": spread(found.look_s),
        "wire_bytes": max(found.wire_bytes),
        "rows_stored": 0,
        "wal_bytes": max(found.wal_bytes),
    }
    return told | ({"bare_get_s": spread(found.bare_s)} if found.bare_s else {})


def report(results: list[dict[str, Any]]) -> None:
    """The table for people."""
    for one in results:
        bare = f"{one['bare_get_s']['median'] * 1000:9.1f} ms" if "bare_get_s" in one else "         none"
        print(
            f"{one['source']:14} a look {one['look_s']['median'] * 1000:9.1f} ms   bare GET {bare}   wire"
            f" {one['wire_bytes']:13,} B   rows {one['rows_stored']}   WAL {one['wal_bytes']:9,} B"
            f"   first sync {one['first_s']:7.1f} s, {one['first_wire_bytes']:13,} B"
        )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Measure syncs of an unchanged source.")
    parser.add_argument("--megabytes", type=float, default=900)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path(".dari/bench"), help="where generated files stay")
    options = parser.parse_args()
    facts = machine()
    path, file = cached(options.cache, round(options.megabytes * MEGABYTE))
    path = path.resolve()
    settings = {"source_folders": json.dumps([str(path.parent)]), "source_networks_allowed": '["127.0.0.0/8"]'}
    with served(path) as telling, served(path, "--no-validators") as silent, running_server(**settings) as bench:
        places = [
            Place("http-etag", telling, tells_changes=True),
            Place("http-hash", silent, tells_changes=False),
            Place("file", path.as_uri(), tells_changes=True),
        ]
        results = []
        # As a sync does: one context for all requests, a connection for each.
        peer_client = httpx.Client(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
        with session(bench.dsn) as run, peer_client as peer:
            for place in places:
                found = looked(bench, run, peer, place, file, options.rounds)
                check_bounds(place, found, file.size_bytes)
                results.append(summary(place, found))
    report(results)
    print(json.dumps({"machine": facts, "bytes": file.size_bytes, "rounds": options.rounds, "sources": results}))


if __name__ == "__main__":
    main()
