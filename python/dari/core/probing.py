"""Finds out that a server is back before a turn has to.

What failed is left alone for longer and longer, and the first turns behind that time would be the ones to try it. So
the servers behind open circuits are asked at a short interval, each by a thread of its own, whether they answer at all.
One that was down and answers is tried by the next turn, and so is every flow on it: a server that dies takes its flows
with it, and a flow whose stream it cut has a circuit of its own to show for it. A flow that fails on a server which
answers all the while is left to its own timer: what is dead there stands behind the server, and only a turn finds out
whether it lives again. For the same reason a circuit is half-open, not closed, until a turn has been answered.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dari.core.circuit import CircuitState, OperatedCircuit
from dari.core.event_log import EventLog, failure_fields
from dari.core.telemetry import NO_TELEMETRY, Telemetry

_STOP_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class ProbedServer:
    """A server that models stand on."""

    name: str
    """Fit for logs: scheme, host and port."""
    circuit: OperatedCircuit
    """The server's own. It also tells one server from another."""
    flows: Sequence[OperatedCircuit]
    """Those of the models on it."""
    answers: Callable[[float], bool]
    """Whether it answers anything within so many seconds. Raises nothing.

    It asks what a turn asks first (the same client, flow and key), and not a question: that would cost tokens and
    minutes, stand in the logs and memories of others, and say no more of the server.
    """


class Prober:
    """Asks the servers that have open circuits. `start`, then `close`."""

    def __init__(
        self,
        servers: Callable[[], Sequence[ProbedServer]],
        interval_s: float,
        timeout_s: float,
        log: EventLog,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self._servers = servers
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._log = log
        self._telemetry = telemetry
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # guards _down
        self._down: set[OperatedCircuit] = set()
        """The servers, by their circuits, that did not answer when they were asked last."""
        self._probes: dict[OperatedCircuit, threading.Thread] = {}
        """The latest of each server that is asked; touched by the thread that runs the rounds only."""
        self._thread = threading.Thread(target=self._work, name="prober", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Ask no further server; waits for those that are being asked."""
        self._stopping.set()
        self._thread.join(_STOP_TIMEOUT_S)
        for probe in self._probes.values():
            probe.join(self._timeout_s + _STOP_TIMEOUT_S)

    def begin_round(self) -> list[threading.Thread]:
        """Begin to ask each server in need, but for those that still owe an answer; the threads that ask.

        None waits for another: a server that swallows everything holds up its own thread only.
        """
        watched = [server for server in self._servers() if _is_in_need(server)]
        with self._lock:
            self._down &= {server.circuit for server in watched}
        busy = {circuit: probe for circuit, probe in self._probes.items() if probe.is_alive()}
        begun: dict[OperatedCircuit, threading.Thread] = {}
        for server in watched:
            if server.circuit not in busy and not self._stopping.is_set():
                probe = threading.Thread(target=self._probe, args=(server,), name="probe", daemon=True)
                probe.start()
                begun[server.circuit] = probe
        self._probes = busy | begun
        return list(begun.values())

    def _probe(self, server: ProbedServer) -> None:
        answers = server.answers(self._timeout_s)
        self._telemetry.probed(answers=answers)
        with self._lock:
            was_down = server.circuit in self._down
            if answers:
                self._down.discard(server.circuit)
            else:
                self._down.add(server.circuit)
        if not answers:
            if not was_down:
                self._log.warning("server_is_down", server=server.name)
        # Its own circuit opens by failures to reach it: it was down, though perhaps no probe has seen it.
        elif was_down or server.circuit.state().state is CircuitState.OPEN:
            self._log.info("server_is_back", server=server.name)
            for circuit in (server.circuit, *server.flows):
                circuit.retry()

    def _work(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                self.begin_round()
            except Exception as error:  # noqa: BLE001 - a defect here must not leave the servers alone for long
                self._log.error("probe_failed", **failure_fields(type(error), error.__traceback__))


def _is_in_need(server: ProbedServer) -> bool:
    """Whether turns pass it or any model on it by."""
    return any(circuit.state().state is CircuitState.OPEN for circuit in (server.circuit, *server.flows))
