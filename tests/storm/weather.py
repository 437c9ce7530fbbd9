"""Which neighbour fails when, by a seed; what really happened when; and the threads that make it so.

A fault is due at a turn, not at a time, so that a slow machine meets as many a turn as a fast one. Each neighbour has
one fault at a time; several neighbours may have theirs at once.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Self

Fault = Callable[[], AbstractContextManager[None]]
"""The fault begins as the context is entered, and is over when it is left."""
Faults = Mapping[str, Mapping[str, Fault]]
"""By neighbour and by name."""


@dataclass(frozen=True, slots=True)
class DueFault:
    """A fault that is to come."""

    turn: int
    neighbour: str
    name: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class FaultSeen:
    """A fault that was. Times of the monotonic clock, which all processes share; `end_s` infinite while it lasts."""

    neighbour: str
    name: str
    begin_s: float
    end_s: float


def plan_faults(seed: str, turns: int, count: int, faults: Faults, longest_s: float) -> list[DueFault]:
    """So many faults over the turns, every neighbour's turn to fail coming as often as any other's."""
    chance = random.Random(f"{seed} weather")
    neighbours: list[str] = []
    while len(neighbours) < count:
        neighbours += chance.sample(sorted(faults), len(faults))
    step = turns / (count + 1)
    return [
        DueFault(
            turn=round((place + chance.random()) * step),
            neighbour=neighbour,
            name=chance.choice(sorted(faults[neighbour])),
            duration_s=chance.uniform(longest_s / 6, longest_s),
        )
        for place, neighbour in enumerate(neighbours[:count])
    ]


class Timeline:
    """What happened when. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _faults
        self._faults: list[FaultSeen] = []

    def begin(self, neighbour: str, name: str) -> int:
        """Note that a fault is about to begin; returns what `end` wants."""
        with self._lock:
            self._faults.append(FaultSeen(neighbour, name, time.monotonic(), float("inf")))
            return len(self._faults) - 1

    def end(self, place: int) -> None:
        """Note that the neighbour works again."""
        with self._lock:
            self._faults[place] = replace(self._faults[place], end_s=time.monotonic())

    @property
    def faults(self) -> list[FaultSeen]:
        with self._lock:
            return list(self._faults)

    def lived(self, neighbour: str, begin_s: float, end_s: float) -> bool:
        """Whether it had no fault at any moment between the two."""
        return not any(
            fault.neighbour == neighbour and fault.begin_s < end_s and begin_s < fault.end_s for fault in self.faults
        )


class Weather:
    """Makes the planned faults come and go. Use in a `with` statement; at its end every neighbour is well."""

    def __init__(self, faults: Faults, plan: Sequence[DueFault], timeline: Timeline) -> None:
        self._faults = faults
        self._timeline = timeline
        self._lock = threading.Lock()  # guards _due
        self._due = sorted(plan, key=lambda fault: -fault.turn)
        self._over = threading.Event()
        self._queues: dict[str, SimpleQueue[DueFault | None]] = {neighbour: SimpleQueue() for neighbour in faults}
        self._threads = [threading.Thread(target=self._work, args=(neighbour,)) for neighbour in faults]
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        for queue in self._queues.values():
            queue.put(None)
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def turn_begins(self, number: int) -> None:
        """Let those faults begin that are due at this turn."""
        with self._lock:
            while self._due and self._due[-1].turn <= number:
                due = self._due.pop()
                self._queues[due.neighbour].put(due)

    def _work(self, neighbour: str) -> None:
        try:
            while (due := self._queues[neighbour].get()) is not None and not self._over.is_set():
                place = self._timeline.begin(neighbour, due.name)
                with self._faults[neighbour][due.name]():
                    self._over.wait(due.duration_s)
                self._timeline.end(place)
        except BaseException as error:
            self._failure = error
