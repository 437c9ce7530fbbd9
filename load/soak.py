"""A long, even load: chats, a third of whose callers leave, and uploads; nothing may grow.

    python -m load.soak --minutes 60          or `make soak` (SOAK_MINUTES)

Two replicas over one PostgreSQL, each with the local model in its child process. Memory, descriptors and threads of
both and of their children are sampled; a straight line through the samples behind the warm-up (`load.slope`) must not
rise by more than ALLOWED over the whole run. Uploads replace the rows of the same knowledge bases, so that what
PostgreSQL keeps does not grow by itself. Everything that was told complete is looked up at the end.

A picture and the numbers are left in target/soak; the last line on stdout is one JSON object. Exits with 1 where
something grows, fails or is not stored as told.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from bench.generate_csv import MEGABYTE, cached
from bench.ingest import machine
from load.clients import Running
from load.judge import Judged, judge
from load.sampling import Sample, Sampler
from load.slope import Slope, slope_of
from load.system import CHAT, LOCAL_CHAT, ROWS_ONLY_CHAT, System, make_knowledge_base, started
from load.usage import Usage
from load.worker import CANCELLED, OK, UPLOAD, Called, Plan
from load.worker import CHAT as CHAT_CALL

MIB = 1024 * 1024
ALLOWED = {"memory": 24.0, "descriptors": 4.0, "threads": 4.0}
"""MiB, and numbers, by which a line may rise from the end of the warm-up to the end of the run.

Memory goes up and down by an upload's 32 MiB, and the allocator keeps some; what leaks by the call is far beyond this
after an hour. gRPC opens a connection or a poller more now and then.
"""
_INTERVAL_S = 5.0
_CANCELLED_SHARE = 1 / 3
_CHATS, _UPLOADS = 6, 2
_LOCAL_CHATS = 1
_MEGABYTES = 1.0
_VERSION_GRACE_S = 60
"""Superseded versions go soon, so that dropping them is a part of the load."""
_REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Soaked:
    """What a run came to."""

    seconds: float
    samples: tuple[Sample, ...]
    called: tuple[Called, ...]
    judged: Judged
    slopes: Mapping[str, Mapping[str, Slope]]
    """By process and by quantity."""

    @property
    def growing(self) -> list[str]:
        """What rises, each with by how much."""
        return [
            f"{process}: {quantity} +{slope.growth:.1f}"
            for process, quantities in self.slopes.items()
            for quantity, slope in quantities.items()
            if not slope.is_flat(ALLOWED[quantity])
        ]

    @property
    def statuses(self) -> dict[str, int]:
        return dict(Counter(f"{one.kind} {one.status}" for one in self.called))

    @property
    def is_passed(self) -> bool:
        return not (
            self.growing or self.judged.complaints or any(one.status not in (OK, CANCELLED) for one in self.called)
        )


def soak(system: System, seconds: float, cache: Path, interval_s: float = _INTERVAL_S) -> Soaked:
    """Load the system for so long, and judge it."""
    path, generated = cached(cache, round(_MEGABYTES * MEGABYTE))
    bases = tuple(f"knowledgeBases/soak-{number}" for number in range(_UPLOADS))
    with system.client() as client:
        for name in bases:
            make_knowledge_base(client, name)
    chats = Plan(
        CHAT_CALL,
        system.addresses,
        system.token,
        _CHATS,
        seconds,
        names=(CHAT, CHAT, ROWS_ONLY_CHAT),
        cancelled_share=_CANCELLED_SHARE,
    )
    plans = [
        chats,
        replace(chats, kind=UPLOAD, clients=_UPLOADS, names=bases, paths=(str(path.resolve()),), replaces=True),
    ]
    if _has_local_model(system):
        plans.append(replace(chats, clients=_LOCAL_CHATS, names=(LOCAL_CHAT,), seed=2))
    with Sampler(lambda: _watched(system), interval_s) as sampler:
        began_s = time.monotonic()
        running = [Running(plan, 1) for plan in plans]
        called = [one for each in running for one in each.wait().called]
        took_s = time.monotonic() - began_s
    judged = judge(system.admin_dsn, _lookable(called), {str(path.resolve()): generated}, appends=False)
    return Soaked(took_s, tuple(sampler.samples), tuple(called), judged, slopes(sampler.samples))


def slopes(samples: Sequence[Sample]) -> dict[str, dict[str, Slope]]:
    """Of every process that was there to the end."""
    found: dict[str, dict[str, Slope]] = {}
    for name in samples[-1].usages if samples else ():
        own = [(sample.at_s, sample.usages[name]) for sample in samples if name in sample.usages]
        found[name] = {
            quantity: slope_of([(at_s, value) for at_s, usage in own for value in [_quantity(usage, quantity)]])
            for quantity in ALLOWED
        }
    return found


def _quantity(usage: Usage, quantity: str) -> float:
    return {
        "memory": usage.resident_bytes / MIB,
        "descriptors": float(usage.descriptors),
        "threads": float(usage.threads),
    }[quantity]


def _has_local_model(system: System) -> bool:
    return any(_children(replica.pid) for replica in system.replicas.values())


def _watched(system: System) -> dict[str, int]:
    """The replicas, and the child of each."""
    pids = {}
    for name, replica in system.replicas.items():
        pids[name] = replica.pid
        pids |= {f"child of {name}": pid for pid in _children(replica.pid)[:1]}
    return pids


def _children(pid: int) -> list[int]:
    """Those that work: multiprocessing has one beside them that only tracks what they share."""
    return [
        child.pid
        for child in psutil.Process(pid).children()
        if not any("resource_tracker" in argument for argument in child.cmdline())
    ]


def _lookable(called: Sequence[Called]) -> list[Called]:
    """Of the uploads to one knowledge base only the last is still there whole: those before it were superseded."""
    last = {one.about: one for one in sorted(called, key=lambda one: one.began_s + one.took_s) if one.kind == UPLOAD}
    return [one for one in called if one.kind != UPLOAD or one is last[one.about]]


def figures(soaked: Soaked, facts: dict[str, object]) -> dict[str, Any]:
    """The numbers of a run."""
    return {
        "machine": facts,
        "minutes": round(soaked.seconds / 60, 2),
        "samples": len(soaked.samples),
        "calls": soaked.statuses,
        "slopes": {
            process: {
                quantity: {
                    "level": round(slope.level, 1),
                    "per_hour": round(slope.per_hour, 2),
                    "growth": round(slope.growth, 2),
                    "allowed": ALLOWED[quantity],
                }
                for quantity, slope in quantities.items()
            }
            for process, quantities in soaked.slopes.items()
        },
        "growing": soaked.growing,
        "complaints": list(soaked.judged.complaints),
        "passed": soaked.is_passed,
    }


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--cache", type=Path, default=Path(".dari/bench"), help="where generated files stay")
    options = parser.parse_args()
    # Here, so that what needs no picture needs nothing to draw with; and first, so that an hour is not lost for it.
    from load.plots import soak as picture
    from load.plots import svg

    model_dir = Path(os.environ.get("DARI_TEST_MODEL_DIR", _REPOSITORY / ".dari" / "models"))
    facts = machine()
    seconds = options.minutes * 60
    settings = {"version_grace_s": _VERSION_GRACE_S, "housekeeping_interval_s": _VERSION_GRACE_S}
    with started(model_dir=model_dir, **settings) as system:
        soaked = soak(system, seconds, options.cache, min(_INTERVAL_S, seconds / 100))
    folder = Path("target/soak")
    folder.mkdir(parents=True, exist_ok=True)
    told = figures(soaked, facts)
    (folder / "soak.svg").write_text(svg(picture(soaked.samples, soaked.slopes)))
    (folder / "soak.json").write_text(json.dumps(told, indent=2))
    print(f"{folder / 'soak.svg'}\n{folder / 'soak.json'}")
    for complaint in (*soaked.growing, *soaked.judged.complaints):
        print(complaint)
    print(json.dumps(told))
    return 0 if soaked.is_passed else 1


if __name__ == "__main__":
    sys.exit(main())
