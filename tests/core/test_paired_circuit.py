"""A server's circuit and a flow's, passed as one."""

import pytest

from dari.adapters.circuit import CircuitRules, WindowedCircuit
from dari.core.circuit import CircuitState, OperatedCircuit, Permit
from dari.core.paired_circuit import SERVER_FAILURES, PairedCircuit


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Two:
    """Two flows on one server."""

    def __init__(self) -> None:
        self.clock = Clock()
        rules = CircuitRules(consecutive_failures=2, open_s=5.0)
        self.server: OperatedCircuit = WindowedCircuit(rules, self.clock)
        self.flows = [WindowedCircuit(rules, self.clock) for _ in range(2)]
        self.one, self.other = (PairedCircuit(self.server, flow) for flow in self.flows)


@pytest.fixture
def two() -> Two:
    return Two()


def admitted(circuit: OperatedCircuit) -> Permit:
    permit = circuit.admit()
    assert permit is not None
    return permit


@pytest.mark.parametrize("code", sorted(SERVER_FAILURES))
def test_a_server_that_is_not_there_is_left_alone_for_all_its_flows(two: Two, code: str) -> None:
    """One failure through each flow are two of the server."""
    admitted(two.one).failed(code)
    admitted(two.other).failed(code)
    assert two.one.admit() is None
    assert two.other.admit() is None
    for flow in (two.one, two.other):
        assert (flow.state().state, flow.state().last_failure) == (CircuitState.OPEN, code)
    assert [flow.state().state for flow in two.flows] == [CircuitState.CLOSED] * 2


@pytest.mark.parametrize("code", ["first_token_timeout", "error_event", "stream_cut"])
def test_a_flow_that_fails_is_left_alone_by_itself(two: Two, code: str) -> None:
    """The other flow of the same server goes on."""
    for _ in range(2):
        admitted(two.one).failed(code)
    assert two.one.admit() is None
    assert two.one.state().state is CircuitState.OPEN
    admitted(two.other).succeeded()
    assert two.other.state().state is CircuitState.CLOSED


def test_an_open_flow_spends_no_probe_of_the_server(two: Two) -> None:
    """Half-open, the server's two probes are for flows that may be asked."""
    for _ in range(2):
        admitted(two.other).failed("connection_refused")
    two.clock.now_s += 3.0
    for _ in range(2):
        permit = two.flows[0].admit()
        assert permit is not None
        permit.failed("error_event")
    two.clock.now_s += 2.0
    assert [two.one.admit() for _ in range(10)] == [None] * 10
    assert two.server.state().state is CircuitState.HALF_OPEN
    probes = [admitted(two.other), admitted(two.other)]
    probes[0].succeeded()
    assert two.server.state().state is CircuitState.CLOSED


def test_a_probe_that_the_server_refuses_gives_the_flows_place_back(two: Two) -> None:
    """The flow is half-open, the server open: nobody passes, and the flow's probes are all there later."""
    for _ in range(2):
        admitted(two.one).failed("error_event")
    two.clock.now_s += 4.0
    for _ in range(2):
        admitted(two.other).failed("connection_refused")
    two.clock.now_s += 2.0
    assert [two.one.admit() for _ in range(10)] == [None] * 10
    two.clock.now_s += 3.0
    first, second = admitted(two.one), admitted(two.one)
    assert two.one.admit() is None
    first.succeeded()
    second.neutral()
    assert two.one.state().state is CircuitState.CLOSED


def test_a_drain_takes_out_the_flow_and_a_reset_brings_back_both(two: Two) -> None:
    """An operator's words about one model leave the others of its server alone, until they are good ones."""
    two.one.drain()
    assert two.one.admit() is None
    assert two.one.state().state is CircuitState.DRAINED
    for _ in range(2):
        admitted(two.other).failed("connection_refused")
    two.one.reset()
    admitted(two.one).succeeded()
    admitted(two.other).succeeded()


def test_leaving_the_with_statement_without_a_verdict_is_neutral_for_both(two: Two) -> None:
    """And a second verdict is a defect."""
    with admitted(two.one):
        pass
    permit = admitted(two.one)
    permit.failed("stream_cut")
    with pytest.raises(RuntimeError):
        permit.succeeded()
    assert (two.server.state().failures, two.flows[0].state().failures) == (0, 1)
