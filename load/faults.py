"""What breaks while the load is on: a replica is killed and comes back, the stand-in for Flowise is frozen."""

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from load.system import FLOWISE, System


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that happened. Times by time.monotonic."""

    what: str
    whom: str
    from_s: float
    to_s: float
    """When it was healed: a killed replica serves again."""


def break_in_turn(system: System, seconds: float, rounds: int, seen: list[Fault]) -> None:
    """So many rounds in so many seconds: one replica after the other, each followed by Flowise; returns when healed.

    No two faults at once, and each ends before the next begins, so that somebody always lives.
    """
    names = list(system.replicas)
    began_s = time.monotonic()
    for number in range(rounds):
        name = names[number % len(names)]
        steps: list[tuple[str, str, Callable[[], None]]] = [
            ("killed", name, system.replicas[name].restart),
            ("frozen", FLOWISE, lambda: _freeze(system, seconds / rounds / 4)),
        ]
        for place, (what, whom, do) in enumerate(steps):
            due_s = began_s + seconds * (number + (place + 0.5) / len(steps)) / rounds
            time.sleep(max(0.0, due_s - time.monotonic()))
            from_s = time.monotonic()
            do()
            seen.append(Fault(what, whom, from_s, time.monotonic()))


def breaking(system: System, seconds: float, rounds: int) -> tuple[threading.Thread, list[Fault]]:
    """The same on a thread, begun; and what has happened, whole when the thread has ended."""
    seen: list[Fault] = []
    thread = threading.Thread(target=break_in_turn, args=(system, seconds, rounds, seen), name="faults")
    thread.start()
    return thread, seen


def _freeze(system: System, seconds: float) -> None:
    system.flowise.signal(signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        system.flowise.signal(signal.SIGCONT)
