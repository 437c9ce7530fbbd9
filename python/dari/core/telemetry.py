"""What is counted, timed and traced: the port through which the core tells of its work.

`Step` is the list of what takes time. Each step is timed, and where somebody traces, it is a span under the one that
the thread is in; `carried` (`core.event_context`) takes that along to another thread. Nothing here blocks or raises. A
step costs some microseconds: what is done a thousand times a second for one call is no step.

Attributes are ids, names of closed lists, and numbers; never content.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from dari.core.conversations import AttemptRecord, DegradedReason

Attribute = str | int | float | bool
"""A value that a span can hold."""


class Step(Enum):
    """What takes time: the label and name of its spans, and what it is."""

    MAPPING = "mapping", "A turn's look at what its chat may ask and see."
    BEGIN_TURN = "begin_turn", "The question is stored, and what came before it is read."
    RETRIEVAL = "retrieval", "The rows that fit a question are found."
    ATTEMPT = "attempt", "One AI model is asked, until its answer ends."
    COMPLETE_TURN = "complete_turn", "The answer is stored."
    BATCH = "batch", "A batch of rows is stored: its turn, COPY, ledger and COMMIT."
    COPY = "copy", "PostgreSQL takes the rows of a batch; a part of `batch`."
    PUBLISH = "publish", "An upload gets its index and becomes a version."
    SYNC = "sync", "A source is looked at, fetched and stored."
    HOUSEKEEPING = "housekeeping", "A round of it."

    def __init__(self, label: str, meaning: str) -> None:
        self.label = label
        self.meaning = meaning


class Span(Protocol):
    """A step that is under way."""

    @property
    def traceparent(self) -> str:
        """What tells a neighbour that its work is a part of this (W3C Trace Context); empty where nobody traces."""
        ...

    def tell(self, **attributes: Attribute) -> None:
        """Add what has been found out."""
        ...


@dataclass(frozen=True, slots=True)
class EndedTurn:
    """A turn that was begun and is over."""

    answered_by: str
    """Who answered, by the values of `Answerer`; empty where nobody did."""
    reason: str
    """Why nobody answered, by the reasons of `core.errors`; empty where somebody did."""
    degraded: Sequence[DegradedReason]
    attempts: Sequence[AttemptRecord]
    first_token_s: float | None
    """From the question to the first text that the caller saw."""


class Call(Protocol):
    """A call that is being served."""

    def ended(self, code: str, reason: str, ids: Mapping[str, str]) -> float:
        """How long it took, in seconds. It ended by this gRPC status, and this reason of its error or none ("")."""
        ...


class Telemetry(Protocol):
    """Takes what happens. Thread-safe; no method blocks or raises."""

    def call(self, method: str, traceparent: str) -> Call:
        """A call begins. `traceparent` is the caller's, or empty: what is no W3C Trace Context counts as empty."""
        ...

    def step(self, step: Step, **attributes: Attribute) -> AbstractContextManager[Span]:
        """Time the body; it failed where an exception leaves it."""
        ...

    def turn_ended(self, turn: EndedTurn) -> None: ...

    def batch_stored(self, size_bytes: int, rows: int, rejected: int) -> None:
        """Bytes, rows and rejected rows of an upload are safe."""
        ...

    def parsed(self, duration_s: float) -> None:
        """The parser has worked so long for a batch."""
        ...

    def sync_ended(self, state: str) -> None:
        """By the values of `SyncState`."""
        ...

    def housekeeping_done(self, counts: dict[str, int]) -> None:
        """By the fields of `housekeeping.Done`."""
        ...

    def probed(self, *, answers: bool) -> None:
        """A server behind an open circuit was asked whether it is back."""
        ...

    def alert_sent(self, kind: str, *, has_arrived: bool) -> None:
        """A message was handed to a target of the operators."""
        ...


class _NoSpan:
    traceparent = ""

    def tell(self, **attributes: Attribute) -> None: ...


class _UncountedCall:
    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def ended(self, code: str, reason: str, ids: Mapping[str, str]) -> float:
        return time.monotonic() - self._began_s


class NoTelemetry:
    """A Telemetry that nobody reads."""

    def call(self, method: str, traceparent: str) -> Call:
        return _UncountedCall()

    @contextmanager
    def step(self, step: Step, **attributes: Attribute) -> Iterator[Span]:
        yield _NO_SPAN

    def turn_ended(self, turn: EndedTurn) -> None: ...
    def batch_stored(self, size_bytes: int, rows: int, rejected: int) -> None: ...
    def parsed(self, duration_s: float) -> None: ...
    def sync_ended(self, state: str) -> None: ...
    def housekeeping_done(self, counts: dict[str, int]) -> None: ...
    def probed(self, *, answers: bool) -> None: ...
    def alert_sent(self, kind: str, *, has_arrived: bool) -> None: ...


_NO_SPAN = _NoSpan()
NO_TELEMETRY = NoTelemetry()
OnWait = Callable[[float], None]
"""Is told how long somebody has waited, in seconds."""
