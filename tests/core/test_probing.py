"""Servers that come back, noticed by nobody's question."""

import pytest

from dari.adapters.circuit import CircuitRules, WindowedCircuit
from dari.core.circuit import CircuitState
from dari.core.probing import ProbedServer, Prober
from tests.support.event_log import RecordedEvents


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Server:
    """A server behind a circuit that opens for ten minutes at its first failure."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.circuit = WindowedCircuit(CircuitRules(consecutive_failures=1, open_s=600.0), self.clock)
        self.is_back = False
        self.asked = 0

    def answers(self, timeout_s: float) -> bool:
        self.asked += 1
        return self.is_back

    def fail(self) -> None:
        permit = self.circuit.admit()
        assert permit is not None
        permit.failed("connection_refused")

    def probed(self, name: str = "http://flowise") -> ProbedServer:
        return ProbedServer(name, self.circuit, self.answers)


@pytest.fixture
def server() -> Server:
    return Server()


def prober(*servers: Server, log: RecordedEvents | None = None) -> Prober:
    return Prober(lambda: [server.probed() for server in servers], 3_600.0, 1.0, log or RecordedEvents())


def test_a_server_that_is_back_is_tried_by_the_next_turn(server: Server) -> None:
    """Not after the ten minutes; and until a turn has answered, by two at once and no more."""
    server.fail()
    log = RecordedEvents()
    prober(server, log=log).run_once()
    assert server.circuit.admit() is None
    server.is_back = True
    prober(server, log=log).run_once()
    assert server.circuit.state().state is CircuitState.HALF_OPEN
    trials = [server.circuit.admit(), server.circuit.admit()]
    assert server.circuit.admit() is None
    assert trials[0] is not None
    trials[0].succeeded()
    assert server.circuit.state().state is CircuitState.CLOSED


@pytest.mark.parametrize("state", ["closed", "half-open", "drained"])
def test_only_servers_that_are_left_alone_are_asked(server: Server, state: str) -> None:
    """One in use needs no probe, and one that an operator took out is nobody's business."""
    if state != "closed":
        server.fail()
    if state == "half-open":
        server.clock.now_s += 600.0
    if state == "drained":
        server.circuit.drain()
    prober(server).run_once()
    assert server.asked == 0


def test_a_stopped_prober_asks_nobody(server: Server) -> None:
    """Also in the middle of a round."""
    server.fail()
    stopped = prober(server)
    stopped.start()
    stopped.close()
    stopped.run_once()
    assert server.asked == 0
