"""A circuit on the `circuitbreaker` package (2.1.3), which opens after so many failures in a row.

The package keeps the count and the state. What it does not do alone is done here: it lets every caller through while
half-open (here one permit at a time), takes any end but an expected exception for a success (here only what the
caller says), lets a result from before the opening count (here a permit knows its era), and has no lock.
"""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from circuitbreaker import CircuitBreaker

from dari.core.circuit import CircuitSnapshot, CircuitState, Permit

FAILURES_TO_OPEN = 3
OPEN_S = 5.0


class _Failed(Exception):
    """What the package takes for a failure."""


class _Breaker(CircuitBreaker):  # type: ignore[misc]
    """The package's breaker on a clock of ours, to the fraction of a second.

    It reads `time.monotonic` through a name of its own module when it opens, and rounds what is left to whole
    seconds. Both stand in `open_remaining` only, on which its `state` is built: overriding that replaces the clock.
    """

    def __init__(self, failures_to_open: int, open_s: float, clock: Callable[[], float]) -> None:
        super().__init__(failure_threshold=failures_to_open, recovery_timeout=open_s)
        self.clock = clock
        self.open_s = open_s
        self.changed_at = clock()

    @property
    def open_remaining(self) -> float:
        return self.changed_at + self.open_s - self.clock()

    def close(self) -> None:
        self.reset()
        self.changed_at = self.clock()

    def record_failure(self) -> bool:
        """Whether the circuit opened by it, for the first time or again."""
        # The package records what leaves its `with` block; calling `__exit__` spares raising to catch again.
        self.__exit__(_Failed, _Failed(), None)
        opened = not self.closed
        if opened:
            self.changed_at = self.clock()
        return opened


class ConsecutiveFailuresCircuit:
    """A `Circuit`: open for `open_s` after `failures_to_open` failures in a row, then one probe at a time."""

    def __init__(
        self,
        failures_to_open: int = FAILURES_TO_OPEN,
        open_s: float = OPEN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if failures_to_open < 1 or open_s <= 0:  # the package would take its own defaults for 0
            raise ValueError("failures_to_open must be at least 1, open_s above 0")
        self._lock = threading.Lock()  # guards all below
        self._breaker = _Breaker(failures_to_open, open_s, clock)
        self._clock = clock
        self._era = 0
        """Grows whenever the circuit opens or closes; a permit's verdict counts in its own era only."""
        self._probing = False
        self._last_failure: str | None = None

    def admit(self) -> Permit | None:
        with self._lock:
            if self._breaker.opened:
                return None
            if not self._breaker.closed:
                if self._probing:
                    return None
                self._probing = True
            return _Permit(self, self._era)

    def state(self) -> CircuitSnapshot:
        with self._lock:
            state = CircuitState(self._breaker.state)
            in_state_s = self._clock() - self._breaker.changed_at
            if state is CircuitState.HALF_OPEN:
                in_state_s -= self._breaker.open_s
            open_remaining_s = max(self._breaker.open_remaining, 0.0) if state is CircuitState.OPEN else 0.0
            return CircuitSnapshot(state, in_state_s, self._breaker.failure_count, self._last_failure, open_remaining_s)

    def record_success(self, era: int) -> None:
        with self._lock:
            if era != self._era:
                return
            if self._breaker.closed:
                self._breaker.reset()
            else:
                self._breaker.close()
                self._turn()

    def record_failure(self, era: int, code: str) -> None:
        with self._lock:
            if era != self._era:
                return
            self._last_failure = code
            if self._breaker.record_failure():
                self._turn()

    def record_nothing(self, era: int) -> None:
        with self._lock:
            if era == self._era:
                self._probing = False

    def _turn(self) -> None:
        self._era += 1
        self._probing = False


class _Permit:
    """A `Permit` of a `ConsecutiveFailuresCircuit`."""

    def __init__(self, circuit: ConsecutiveFailuresCircuit, era: int) -> None:
        self._circuit = circuit
        self._era = era
        self._verdict_lock = threading.Lock()  # taken by the verdict and never given back

    def succeeded(self) -> None:
        self._take_verdict()
        self._circuit.record_success(self._era)

    def failed(self, code: str) -> None:
        self._take_verdict()
        self._circuit.record_failure(self._era, code)

    def neutral(self) -> None:
        self._take_verdict()
        self._circuit.record_nothing(self._era)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._verdict_lock.acquire(blocking=False):
            self._circuit.record_nothing(self._era)

    def _take_verdict(self) -> None:
        if not self._verdict_lock.acquire(blocking=False):
            raise RuntimeError("a permit is told once how its attempt ended")
