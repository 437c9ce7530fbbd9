"""When to leave a neighbour alone: the port through which the chain asks before each attempt.

A *circuit* is closed (attempts go through), open (none does), half-open (so few go through as are needed to learn
whether the neighbour is back), or drained (an operator took the neighbour out). The chain asks `admit` and goes on to
the next model at once where it gets None; a permit is told how its attempt ended, a success only at the *end* of the
stream.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Protocol, Self, TypeVar

from dari.core.errors import Cancelled, DariError, Unavailable

Result = TypeVar("Result")


class CircuitState(Enum):
    """Whether attempts go through: all, none, or a few to learn by."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    DRAINED = "drained"
    """None, until an operator resets it."""


@dataclass(frozen=True, slots=True)
class CircuitSnapshot:
    """What a circuit looked like at one moment."""

    state: CircuitState
    in_state_s: float
    """For how long it has been in this state."""
    failures: int
    """Failures in a row: since the last success, 0 after one."""
    failure_rate: float
    """Share of failures among the latest outcomes; 0 where they are too few to tell."""
    last_failure: str | None
    """The code of the newest failure that counted, also after the circuit closed again; None before the first."""
    open_remaining_s: float
    """How long it will stay open; 0 unless it is open."""


class Permit(Protocol):
    """The right to one attempt. Tell it once how the attempt ended; a second verdict is a `RuntimeError`.

    Use it in a `with` statement: leaving without a verdict is neutral, so no path can keep the place of a probe.
    A verdict on an attempt that began before the circuit last opened or closed changes nothing. Thread-safe.
    """

    def succeeded(self) -> None:
        """The whole answer came."""
        ...

    def failed(self, code: str) -> None:
        """The neighbour failed (`FailureKind.UPSTREAM`)."""
        ...

    def neutral(self) -> None:
        """Nothing was learnt: the caller left, the neighbour was busy, the fault is ours or the caller's."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Circuit(Protocol):
    """The memory of how one neighbour did, as the chain asks it. Thread-safe; no call blocks."""

    def admit(self) -> Permit | None:
        """A permit for one attempt, or None: leave the neighbour alone for now."""
        ...

    def retry(self) -> None:
        """If it is open, be half-open from now on, and if it closed a moment ago, let the next one through.

        For where there is reason to think that the neighbour is back, or nobody else to ask. A drained one stays so.
        """
        ...


class OperatedCircuit(Circuit, Protocol):
    """A circuit as operators see and set it."""

    def state(self) -> CircuitSnapshot: ...

    def drain(self) -> None:
        """Let no attempt through until `reset`; those under way go on, and their verdicts change nothing."""
        ...

    def reset(self) -> None:
        """Close it, and forget all outcomes."""
        ...


def call_through(circuit: Circuit, neighbour: str, call: Callable[[], Result]) -> Result:
    """What `call` returns; its `Unavailable` is a failure of the neighbour, `Cancelled` the caller's, others an answer.

    Raises Unavailable at once where the circuit lets nothing through.
    """
    permit = circuit.admit()
    if permit is None:
        raise Unavailable.of(neighbour)
    with permit:
        try:
            result = call()
        except Unavailable:
            permit.failed("unavailable")
            raise
        except Cancelled:
            raise  # Nothing was learnt; leaving without a verdict says so.
        except DariError:
            permit.succeeded()
            raise
        permit.succeeded()
    return result
