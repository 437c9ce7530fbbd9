"""Callers that call and call until the test says stop, and what each call came to."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from tests.support.running_dari import SOON_S

Call = Callable[[int], object]
"""Given a number that no other call of these callers has."""


@dataclass(frozen=True)
class Failure:
    """A call that raised."""

    name: str
    number: int
    error: Exception


class Callers:
    """`each` threads for every call, each making it again and again. Use in a `with` statement. Thread-safe."""

    def __init__(self, calls: Mapping[str, Call], each: int = 1) -> None:
        self._calls = calls
        self._each = each
        self._stop = threading.Event()
        # Guards all below.
        self._changed = threading.Condition()
        self._numbers = 0
        self._done = dict.fromkeys(calls, 0)
        self._failures: list[Failure] = []
        self._threads = [
            threading.Thread(target=self._repeat, args=(name, call), name=name)
            for name, call in calls.items()
            for _ in range(each)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def failures(self) -> Sequence[Failure]:
        """So far."""
        with self._changed:
            return tuple(self._failures)

    @property
    def done(self) -> Mapping[str, int]:
        """How often each call has come back so far, well or not."""
        with self._changed:
            return dict(self._done)

    def wait_for(self, count: int) -> None:
        """Return when every call has come back so many times more."""
        with self._changed:
            wanted = {name: done + count * self._each for name, done in self._done.items()}
            came = self._changed.wait_for(
                lambda: all(self._done[name] >= least for name, least in wanted.items()), 4 * SOON_S
            )
            assert came, f"calls do not come back: {self._done} of {wanted}"

    def _repeat(self, name: str, call: Call) -> None:
        while not self._stop.is_set():
            with self._changed:
                self._numbers += 1
                number = self._numbers
            try:
                call(number)
            except Exception as error:
                with self._changed:
                    self._failures.append(Failure(name, number, error))
            with self._changed:
                self._done[name] += 1
                self._changed.notify_all()
