"""A circuit on the `circuitbreaker` package (2.1.3): opens by failures in a row or by rate, and closes by degrees.

The package keeps the state: closed, open for a time, half-open. When to open is decided here, from a sliding window of
outcomes, since the package counts failures in a row only and forgets them all at the first success (F F F F ok never
opens it). So is what else it does not do alone: half-open it lets every caller through (here as many as there are
probes), it takes any end but an expected exception for a success (here only what the caller says), it lets a result
from before the opening count (here a permit knows its era), it opens for the same time however often (here twice as
long each time), once closed it lets everyone through at once (here a growing share), and it has no lock.

The rules are those of Envoy's outlier detection where it has them:
https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from circuitbreaker import CircuitBreaker

from dari.core.circuit import CircuitSnapshot, CircuitState, Permit


@dataclass(frozen=True, slots=True)
class CircuitRules:
    """When a circuit opens, for how long, and how it closes. All above 0, but for the ramp."""

    consecutive_failures: int = 3
    """So many failures in a row open it."""
    failure_rate: float = 0.5
    """This share of failures opens it …"""
    min_outcomes: int = 10
    """… among at least so many outcomes …"""
    window_s: float = 60.0
    """… of the last seconds."""
    open_s: float = 5.0
    """For how long it opens first; each time it opens again before it has been well for `max_open_s`, twice as long."""
    max_open_s: float = 60.0
    """Longest time for which it opens; not below `open_s`, which wins."""
    probes: int = 2
    """Attempts that half-open go through at once. One that succeeds closes it, one that fails opens it again."""
    ramp_s: float = 5.0
    """Behind a close, until everyone goes through again; before that a share that grows evenly from a tenth. Or 0."""


_FIRST_SHARE = 0.1
_MAX_WINDOW = 1_000
"""Outcomes kept: a busy neighbour's rate is that of its latest ones."""


class WindowedCircuit:
    """A `Circuit` under `CircuitRules`."""

    def __init__(self, rules: CircuitRules | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rules = rules or CircuitRules()
        _check(self._rules)
        self._clock = clock
        self._lock = threading.Lock()  # guards all below
        self._breaker = _Breaker(self._rules.open_s, clock)
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=_MAX_WINDOW)
        """When an attempt ended, and whether it failed."""
        self._failures_in_a_row = 0
        self._openings = 0
        """Times it has opened since it was well for long."""
        self._ramp_from: float | None = None
        """When it closed, while not everyone goes through yet."""
        self._credit = 0.0
        """What the callers passed by on the ramp have left; a whole one lets the next one through."""
        self._era = 0
        """Grows whenever the circuit opens or closes; a permit's verdict counts in its own era only."""
        self._probing = 0
        self._last_failure: str | None = None
        self._is_drained = False

    def admit(self) -> Permit | None:
        """See Circuit."""
        with self._lock:
            if self._is_drained or self._breaker.opened:
                return None
            if self._breaker.closed:
                if not self._passes_ramp():
                    return None
            elif self._probing >= self._rules.probes:
                return None
            else:
                self._probing += 1
            return _Permit(self, self._era)

    def state(self) -> CircuitSnapshot:
        """See Circuit."""
        with self._lock:
            state = CircuitState.DRAINED if self._is_drained else CircuitState(self._breaker.state)
            in_state_s = self._clock() - self._breaker.changed_at
            if state is CircuitState.HALF_OPEN:
                in_state_s -= self._breaker.open_s
            open_remaining_s = max(self._breaker.open_remaining, 0.0) if state is CircuitState.OPEN else 0.0
            return CircuitSnapshot(
                state, in_state_s, self._failures_in_a_row, self._rate(), self._last_failure, open_remaining_s
            )

    def retry(self) -> None:
        """See Circuit."""
        with self._lock:
            if self._breaker.opened:
                self._breaker.changed_at = self._clock() - self._breaker.open_s
            elif self._ramp_from is not None:
                self._credit = 1.0

    def drain(self) -> None:
        """See Circuit."""
        with self._lock:
            if not self._is_drained:
                self._is_drained = True
                self._breaker.changed_at = self._clock()
                self._turn()

    def reset(self) -> None:
        """See Circuit."""
        with self._lock:
            self._is_drained = False
            self._close()
            self._ramp_from = None
            self._openings = 0

    def record_success(self, era: int) -> None:
        """A permit of this era says that its attempt succeeded."""
        with self._lock:
            if era != self._era:
                return
            self._failures_in_a_row = 0
            if self._breaker.closed:
                self._note(failed=False)
            else:
                self._close()
                self._ramp_from = self._breaker.changed_at if self._rules.ramp_s else None

    def record_failure(self, era: int, code: str) -> None:
        """A permit of this era says that its attempt failed."""
        with self._lock:
            if era != self._era:
                return
            self._last_failure = code
            self._failures_in_a_row += 1
            self._note(failed=True)
            if self._is_over():
                self._open()

    def record_nothing(self, era: int) -> None:
        """A permit of this era says that nothing was learnt."""
        with self._lock:
            if era == self._era and self._probing:
                self._probing -= 1

    def _passes_ramp(self) -> bool:
        if self._ramp_from is None:
            return True
        share = _FIRST_SHARE + (1 - _FIRST_SHARE) * (self._clock() - self._ramp_from) / self._rules.ramp_s
        if share >= 1:
            self._ramp_from = None
            return True
        self._credit += share
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    def _note(self, *, failed: bool) -> None:
        self._outcomes.append((self._clock(), failed))

    def _rate(self) -> float:
        """Share of failures in the window; 0 where it holds too few outcomes to tell."""
        oldest = self._clock() - self._rules.window_s
        while self._outcomes and self._outcomes[0][0] < oldest:
            self._outcomes.popleft()
        if len(self._outcomes) < self._rules.min_outcomes:
            return 0.0
        return sum(failed for _, failed in self._outcomes) / len(self._outcomes)

    def _is_over(self) -> bool:
        """Whether the failure that was just noted opens it."""
        return (
            not self._breaker.closed
            or self._failures_in_a_row >= self._rules.consecutive_failures
            or self._rate() >= self._rules.failure_rate
        )

    def _open(self) -> None:
        if self._breaker.closed and self._clock() - self._breaker.changed_at >= self._rules.max_open_s:
            self._openings = 0
        longest_s = max(self._rules.max_open_s, self._rules.open_s)
        self._breaker.open(min(self._rules.open_s * 2.0**self._openings, longest_s))
        self._openings = min(self._openings + 1, 32)  # 2 to the 32nd times any time is longer than the longest
        self._turn()

    def _close(self) -> None:
        self._breaker.close()
        self._failures_in_a_row = 0
        self._outcomes.clear()
        self._credit = 1 - _FIRST_SHARE  # The first caller behind a close goes through.
        self._turn()

    def _turn(self) -> None:
        self._era += 1
        self._probing = 0


class _Opens(Exception):
    """What the package takes for the failure that opens it."""


class _Breaker(CircuitBreaker):  # type: ignore[misc]
    """The package's state machine on a clock of ours, to the fraction of a second; opens when it is told to.

    It reads `time.monotonic` through a name of its own module when it opens, and rounds what is left to whole
    seconds. Both stand in `open_remaining` only, on which its `state` is built: overriding that replaces the clock.
    """

    def __init__(self, open_s: float, clock: Callable[[], float]) -> None:
        super().__init__(failure_threshold=1, recovery_timeout=open_s)
        self.clock = clock
        self.open_s = open_s
        self.changed_at = clock()

    @property
    def open_remaining(self) -> float:
        return self.changed_at + self.open_s - self.clock()

    def open(self, open_s: float) -> None:
        """Open it, for the first time or again."""
        self.open_s = open_s
        self.changed_at = self.clock()
        # The package records what leaves its `with` block; calling `__exit__` spares raising to catch again.
        self.__exit__(_Opens, _Opens(), None)

    def close(self) -> None:
        """Close it."""
        self.reset()
        self.changed_at = self.clock()


class _Permit:
    """A `Permit` of a `WindowedCircuit`."""

    def __init__(self, circuit: WindowedCircuit, era: int) -> None:
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


def _check(rules: CircuitRules) -> None:
    """Raise ValueError for rules by which nothing would ever open, or close."""
    if rules.consecutive_failures < 1 or rules.min_outcomes < 1 or rules.probes < 1:
        raise ValueError("consecutive_failures, min_outcomes and probes must be at least 1")
    if min(rules.window_s, rules.open_s, rules.max_open_s) <= 0 or rules.ramp_s < 0:
        raise ValueError("window_s, open_s and max_open_s must be above 0, ramp_s not below")
    if not 0 < rules.failure_rate <= 1:
        raise ValueError("failure_rate must be above 0, and 1 at most")
