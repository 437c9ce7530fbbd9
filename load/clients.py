"""Starts worker processes, and puts together what they saw."""

import json
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass, replace
from typing import Any

from load.worker import Called, Plan

_MOST_PROCESSES = 4
_GRACE_S = 180.0
"""How much longer than its plan a worker may take: calls under way are waited for, each with limits of its own."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the clients of one plan saw, and what they took of the machine."""

    called: tuple[Called, ...]
    cpu_s: float
    """Without the start of Python."""


class Running:
    """Workers at work. `wait` for what they saw."""

    def __init__(self, plan: Plan, processes: int | None = None) -> None:
        """As many processes as named, or as the clients need."""
        count = min(processes or _MOST_PROCESSES, plan.clients)
        shares = [plan.clients // count + (number < plan.clients % count) for number in range(count)]
        plans = [
            replace(plan, clients=share, first_client=plan.first_client + sum(shares[:number]))
            for number, share in enumerate(shares)
        ]
        self._limit_s = plan.seconds + _GRACE_S
        self._workers = [_Worker(each) for each in plans]

    def wait(self) -> Seen:
        """Raises CalledProcessError where a worker failed, and TimeoutExpired where it never came to an end."""
        seen = [worker.wait(self._limit_s) for worker in self._workers]
        return Seen(tuple(called for one in seen for called in one.called), sum(one.cpu_s for one in seen))


class _Worker:
    """One process. Its output is read by a thread, so that it never waits for us."""

    def __init__(self, plan: Plan) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "load.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._plan = json.dumps(asdict(plan))
        self._told: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def wait(self, limit_s: float) -> Seen:
        self._thread.join(limit_s)
        if self._thread.is_alive():
            self._process.kill()
            raise subprocess.TimeoutExpired(self._process.args, limit_s)
        if self._process.returncode:
            raise subprocess.CalledProcessError(self._process.returncode, self._process.args)
        called = tuple(Called(**{**told, "codes": tuple(told["codes"])}) for told in self._told["called"])
        return Seen(called, self._told["cpu_s"])

    def _talk(self) -> None:
        told, _ = self._process.communicate(self._plan)
        if self._process.returncode == 0:
            self._told = json.loads(told)
