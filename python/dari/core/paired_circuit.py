"""Two circuits as one: that of a server, which many models share, and that of the one flow on it that a model asks.

A server that is not there is left alone for all its flows after the failures of any of them; a flow that fails on a
server that answers is left alone by itself.
"""

import threading
from types import TracebackType
from typing import Self

from dari.core.circuit import CircuitSnapshot, CircuitState, OperatedCircuit, Permit

SERVER_FAILURES = frozenset(
    {
        "connect_failed",
        "connect_timeout",
        "connection_closed",
        "connection_refused",
        "connection_reset",
        "first_event_timeout",
        "host_unreachable",
        "proxy_failed",
    }
)
"""Codes of failures before a word of an answer: of the server, whatever flow was asked."""


class PairedCircuit:
    """A `Circuit`: an attempt goes through where it passes both."""

    def __init__(self, server: OperatedCircuit, flow: OperatedCircuit) -> None:
        self._server = server
        self._flow = flow

    def admit(self) -> Permit | None:
        """See Circuit."""
        # The flow first: a probe of the server must not be spent on a flow that is left alone anyway.
        flow = self._flow.admit()
        if flow is None:
            return None
        server = self._server.admit()
        if server is None:
            flow.neutral()
            return None
        return _Permit(server, flow)

    def state(self) -> CircuitSnapshot:
        """See Circuit; of the one that lets less through, the server's where both are equal and not closed."""
        server, flow = self._server.state(), self._flow.state()
        return server if _STRICTNESS[server.state] > _STRICTNESS[flow.state] or _is_told(server, flow) else flow

    def retry(self) -> None:
        """See Circuit; both."""
        self._server.retry()
        self._flow.retry()

    def drain(self) -> None:
        """See Circuit; the flow only."""
        self._flow.drain()

    def reset(self) -> None:
        """See Circuit; both."""
        self._server.reset()
        self._flow.reset()


_STRICTNESS = {CircuitState.CLOSED: 0, CircuitState.HALF_OPEN: 1, CircuitState.OPEN: 2, CircuitState.DRAINED: 3}


def _is_told(server: CircuitSnapshot, flow: CircuitSnapshot) -> bool:
    """Whether of two equal states the server's says more."""
    return server.state is flow.state and (server.state is not CircuitState.CLOSED or server.failures > flow.failures)


class _Permit:
    """A `Permit` of a `PairedCircuit`; each of its two takes one verdict only, so that this one does too."""

    def __init__(self, server: Permit, flow: Permit) -> None:
        self._server = server
        self._flow = flow
        self._verdict_lock = threading.Lock()  # taken by the verdict and never given back

    def succeeded(self) -> None:
        self._take_verdict()
        self._server.succeeded()
        self._flow.succeeded()

    def failed(self, code: str) -> None:
        self._take_verdict()
        if code in SERVER_FAILURES:
            self._server.failed(code)
            self._flow.neutral()
        else:
            # A timer that rang, or a stream that was cut, may be either's fault: the flow answers for it.
            self._server.neutral()
            self._flow.failed(code)

    def neutral(self) -> None:
        self._take_verdict()
        self._server.neutral()
        self._flow.neutral()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._verdict_lock.acquire(blocking=False):
            self._server.neutral()
            self._flow.neutral()

    def _take_verdict(self) -> None:
        if not self._verdict_lock.acquire(blocking=False):
            raise RuntimeError("a permit is told once how its attempt ended")
