"""Looks at the processes under load: over time, a few times a second, and what they used between two moments."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil

from load.usage import Usage, cpu_s, usage_of

INTERVAL_S = 0.5
MACHINE = "machine"
_NOTHING_CORES = 0.003


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


class Meter:
    """Cores that processes and the whole machine were busy on, on average, since it was made."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._began_s = time.monotonic()
        self._before = self._read()

    def read(self) -> tuple[dict[str, float], float]:
        """By process, but for those that did nothing; and of the machine."""
        length_s = max(time.monotonic() - self._began_s, 1e-9)
        now = self._read()
        used = {name: (now[name] - before) / length_s for name, before in self._before.items()}
        machine = used.pop(MACHINE)
        return {name: cores for name, cores in used.items() if cores > _NOTHING_CORES}, machine

    def _read(self) -> dict[str, float]:
        times = psutil.cpu_times()
        return {
            **{name: cpu_s(pid) for name, pid in self._pids.items()},
            MACHINE: sum(times) - times.idle - times.iowait,
        }
