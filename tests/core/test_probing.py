"""Servers that come back, noticed by nobody's question."""

import threading

import pytest

from dari.adapters.circuit import CircuitRules, WindowedCircuit
from dari.core.circuit import CircuitState
from dari.core.paired_circuit import PairedCircuit
from dari.core.probing import ProbedServer, Prober
from tests.support.event_log import RecordedEvents

SOON_S = 30.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Server:
    """A server with two flows, behind circuits that open for ten minutes at their first failure."""

    def __init__(self, name: str = "http://flowise") -> None:
        self.clock = Clock()
        rules = CircuitRules(consecutive_failures=1, open_s=600.0)
        self.name = name
        self.circuit = WindowedCircuit(rules, self.clock)
        self.flows = [WindowedCircuit(rules, self.clock) for _ in range(2)]
        self.is_up = False
        self.hangs_until: threading.Event | None = None
        self.asked = 0

    def answers(self, timeout_s: float) -> bool:
        self.asked += 1
        if self.hangs_until is not None:
            assert self.hangs_until.wait(SOON_S)
        return self.is_up

    def fail(self, code: str = "connection_refused", flow: int = 0) -> None:
        """One attempt at a flow ends so."""
        permit = PairedCircuit(self.circuit, self.flows[flow]).admit()
        assert permit is not None
        permit.failed(code)

    def states(self) -> list[CircuitState]:
        """Of the server, then of its flows."""
        return [circuit.state().state for circuit in (self.circuit, *self.flows)]

    def probed(self) -> ProbedServer:
        return ProbedServer(self.name, self.circuit, self.flows, self.answers)


CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


@pytest.fixture
def server() -> Server:
    return Server()


def prober(*servers: Server, log: RecordedEvents | None = None) -> Prober:
    return Prober(lambda: [server.probed() for server in servers], 3_600.0, 1.0, log or RecordedEvents())


def probe(asking: Prober) -> None:
    """One round, to its end."""
    for thread in asking.begin_round():
        thread.join(SOON_S)
        assert not thread.is_alive()


def test_a_server_that_is_back_is_tried_by_the_next_turn(server: Server) -> None:
    """Not after the ten minutes; and until a turn has answered, by two at once and no more."""
    server.fail()
    asking = prober(server)
    probe(asking)
    assert server.circuit.admit() is None
    server.is_up = True
    probe(asking)
    assert server.circuit.state().state is HALF_OPEN
    trials = [server.circuit.admit(), server.circuit.admit()]
    assert server.circuit.admit() is None
    assert trials[0] is not None
    trials[0].succeeded()
    assert server.circuit.state().state is CLOSED


DOWN, UNSEEN = True, False
REFUSED, CUT, SLOW, STALLED = "connection_refused", "stream_cut", "first_token_timeout", "stall_timeout"

FAILURES: list[tuple[str, tuple[str, ...], list[CircuitState], bool, list[CircuitState]]] = [
    # how attempts at the first and the second flow end; what is open; whether a probe sees the server down;
    # what is to be tried when the next probe has an answer
    ("a refusal", (REFUSED,), [OPEN, CLOSED, CLOSED], DOWN, [HALF_OPEN, CLOSED, CLOSED]),
    ("a refusal, back at once", (REFUSED,), [OPEN, CLOSED, CLOSED], UNSEEN, [HALF_OPEN, CLOSED, CLOSED]),
    ("killed in mid-stream", (CUT,), [CLOSED, OPEN, CLOSED], DOWN, [CLOSED, HALF_OPEN, CLOSED]),
    ("frozen", (SLOW, STALLED), [CLOSED, OPEN, OPEN], DOWN, [CLOSED, HALF_OPEN, HALF_OPEN]),
    ("killed, then refused", (CUT, REFUSED), [OPEN, OPEN, CLOSED], DOWN, [HALF_OPEN, HALF_OPEN, CLOSED]),
    ("killed, refused, back at once", (CUT, REFUSED), [OPEN, OPEN, CLOSED], UNSEEN, [HALF_OPEN, HALF_OPEN, CLOSED]),
    ("a dead model behind it", (SLOW,), [CLOSED, OPEN, CLOSED], UNSEEN, [CLOSED, OPEN, CLOSED]),
]


@pytest.mark.parametrize(("name", "codes", "opened", "is_seen_down", "tried"), FAILURES)
def test_a_server_that_was_down_brings_its_flows_back(
    server: Server,
    name: str,
    codes: tuple[str, ...],
    opened: list[CircuitState],
    is_seen_down: bool,
    tried: list[CircuitState],
) -> None:
    for flow, code in enumerate(codes):
        server.fail(code, flow)
    assert server.states() == opened
    asking = prober(server)
    if is_seen_down:
        probe(asking)
        assert server.states() == opened
    server.is_up = True
    probe(asking)
    assert server.states() == tried


def test_a_flow_that_fails_on_a_server_that_answers_is_left_to_its_timer(server: Server) -> None:
    """However often the server is asked; and though it was down long before, for another flow's failure."""
    asking = prober(server)
    server.fail("stream_cut", flow=1)
    probe(asking)
    server.flows[1].reset()
    probe(asking)
    server.is_up = True
    server.fail("first_token_timeout")
    for _ in range(3):
        probe(asking)
    assert server.states() == [CLOSED, OPEN, CLOSED]
    server.clock.now_s += 600.0
    assert server.states() == [CLOSED, HALF_OPEN, CLOSED]


def test_down_and_back_are_logged_once_each(server: Server) -> None:
    log = RecordedEvents()
    asking = prober(server, log=log)
    server.fail("stream_cut")
    probe(asking)
    probe(asking)
    server.is_up = True
    probe(asking)
    probe(asking)
    assert log.names() == ["server_is_down", "server_is_back"]
    assert log.fields("server_is_back") == [{"server": "http://flowise"}]


@pytest.mark.parametrize("state", ["closed", "half-open", "drained"])
def test_only_servers_that_are_left_alone_are_asked(server: Server, state: str) -> None:
    """One in use needs no probe, and one that an operator took out is nobody's business."""
    if state != "closed":
        server.fail()
    if state == "half-open":
        server.clock.now_s += 600.0
    if state == "drained":
        server.circuit.drain()
    probe(prober(server))
    assert server.asked == 0


def test_a_server_that_swallows_everything_holds_up_nobody() -> None:
    """Its own probe is waited for and not doubled; the other's round comes and goes meanwhile."""
    mute, quick = Server("http://mute"), Server("http://quick")
    mute.hangs_until = threading.Event()
    asking = prober(mute, quick)
    mute.fail("stream_cut")
    quick.fail()
    first, second = asking.begin_round()
    second.join(SOON_S)
    quick.is_up = True
    (again,) = asking.begin_round()
    again.join(SOON_S)
    assert quick.states() == [HALF_OPEN, CLOSED, CLOSED]
    assert (mute.asked, quick.asked) == (1, 2)
    mute.hangs_until.set()
    first.join(SOON_S)
    mute.is_up = True
    probe(asking)
    assert mute.states() == [CLOSED, HALF_OPEN, CLOSED]


def test_a_stopped_prober_asks_nobody(server: Server) -> None:
    """Also in the middle of a round."""
    server.fail()
    stopped = prober(server)
    stopped.start()
    stopped.close()
    assert stopped.begin_round() == []
    assert server.asked == 0
