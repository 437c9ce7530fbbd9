"""Finds out that a server is back before a turn has to.

A server that was not there is left alone for longer and longer, and the first turns behind that time would be the ones
to try it. Here its address is asked at a short interval, cheaply, by a thread of its own; one that answers is tried by
the next turn. Whether it can answer questions again only a turn can tell: its circuit stays half-open until one has.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dari.core.circuit import CircuitState, OperatedCircuit
from dari.core.event_log import EventLog, failure_fields

_STOP_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class ProbedServer:
    """A server that models stand on."""

    name: str
    """Fit for logs: scheme, host and port."""
    circuit: OperatedCircuit
    answers: Callable[[float], bool]
    """Whether it answers anything within so many seconds; needs no key and no model. Raises nothing."""


class Prober:
    """Asks the servers whose circuits are open. `start`, then `close`."""

    def __init__(
        self, servers: Callable[[], Sequence[ProbedServer]], interval_s: float, timeout_s: float, log: EventLog
    ) -> None:
        self._servers = servers
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._log = log
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="prober", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Ask no further server; waits for the one that is being asked."""
        self._stopping.set()
        self._thread.join(self._timeout_s + _STOP_TIMEOUT_S)

    def run_once(self) -> None:
        """Ask each server whose circuit is open."""
        for server in self._servers():
            if self._stopping.is_set():
                return
            if server.circuit.state().state is CircuitState.OPEN and server.answers(self._timeout_s):
                self._log.info("server_is_back", server=server.name)
                server.circuit.retry()

    def _work(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                self.run_once()
            except Exception as error:  # noqa: BLE001 - a defect here must not leave the servers alone for long
                self._log.error("probe_failed", **failure_fields(type(error), error.__traceback__))
