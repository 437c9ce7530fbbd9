"""Looks at the processes under load a few times a second, and tells what they used between any two moments."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Self

import psutil

from load.usage import Usage, usage_of

INTERVAL_S = 0.5
MACHINE = "machine"


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. A process that was not there is left out."""

    at_s: float
    usages: Mapping[str, Usage]
    busy_cores: float
    """Of the whole machine, since the look before."""


class Sampler:
    """Takes samples on a thread of its own. Use in a `with` statement."""

    def __init__(self, pids: Callable[[], Mapping[str, int]], interval_s: float = INTERVAL_S) -> None:
        self._pids = pids
        self._interval_s = interval_s
        self._ended = threading.Event()
        self.samples: list[Sample] = []
        """Appended by the thread; read them when it has ended, or a copy."""
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Self:
        psutil.cpu_percent()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            usages = {}
            for name, pid in self._pids().items():
                try:
                    usages[name] = usage_of(pid)
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
            cores = psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1)
            self.samples.append(Sample(time.monotonic(), usages, cores))


def cores_used(samples: list[Sample], name: str, from_s: float, to_s: float) -> float:
    """Cores that a process was busy on between two moments, on average; 0 where it was not seen twice.

    Where its CPU time went back it was started anew, and what it had used before is not lost from the sum.
    """
    seen = [(one.at_s, one.usages[name].cpu_s) for one in samples if from_s <= one.at_s <= to_s and name in one.usages]
    if len(seen) < 2:
        return 0.0
    used_s = sum(max(0.0, after - before) for (_, before), (_, after) in pairwise(seen))
    return used_s / (seen[-1][0] - seen[0][0])


def busy_cores(samples: list[Sample], from_s: float, to_s: float) -> float:
    """Cores of the whole machine that were busy between two moments, on average."""
    seen = [one.busy_cores for one in samples if from_s <= one.at_s <= to_s]
    return sum(seen) / len(seen) if seen else 0.0
