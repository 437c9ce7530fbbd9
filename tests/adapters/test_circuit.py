"""The circuit: its table of rules, control runs on the bare package, and a random walk beside a sequential model."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import circuitbreaker
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from dari.adapters.circuit import ConsecutiveFailuresCircuit
from dari.core.circuit import Circuit, CircuitState, Permit


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    return ConsecutiveFailuresCircuit(failures_to_open=3, open_s=5.0, clock=clock)


def admitted(circuit: Circuit) -> Permit:
    permit = circuit.admit()
    assert permit is not None
    return permit


def fail(circuit: Circuit, times: int) -> None:
    for _ in range(times):
        admitted(circuit).failed("connection_refused")


def test_it_opens_at_the_third_failure_in_a_row(circuit: Circuit) -> None:
    """Two failures leave it closed; the third opens it, and nobody is admitted."""
    fail(circuit, 2)
    assert circuit.state().state is CircuitState.CLOSED
    fail(circuit, 1)
    assert circuit.state().state is CircuitState.OPEN
    assert circuit.admit() is None


def test_a_success_begins_the_count_anew(circuit: Circuit) -> None:
    """Failures that a success divides are not in a row."""
    fail(circuit, 2)
    admitted(circuit).succeeded()
    fail(circuit, 2)
    assert circuit.state().state is CircuitState.CLOSED


def test_a_success_counts_at_the_end_of_a_stream_only(circuit: Circuit) -> None:
    """An attempt that was admitted and has not ended yet takes nothing off the count."""
    streaming = admitted(circuit)
    fail(circuit, 3)
    assert circuit.state().state is CircuitState.OPEN
    streaming.succeeded()
    assert circuit.state().state is CircuitState.OPEN


def test_a_neutral_end_changes_no_count(circuit: Circuit) -> None:
    """Neither does a caller's cancel end a row of failures, nor is it one."""
    fail(circuit, 2)
    admitted(circuit).neutral()
    assert circuit.state().failures == 2
    fail(circuit, 1)
    assert circuit.state().state is CircuitState.OPEN


def test_it_stays_open_to_the_fraction_of_a_second(circuit: Circuit, clock: Clock) -> None:
    """The package rounds to whole seconds; the time that an operator set is kept exactly."""
    fail(circuit, 3)
    clock.now_s += 4.99
    assert circuit.admit() is None
    assert circuit.state().open_remaining_s == pytest.approx(0.01)
    clock.now_s += 0.01
    assert circuit.state().state is CircuitState.HALF_OPEN
    admitted(circuit)


def test_half_open_admits_one_of_fifty_callers_at_once(circuit: Circuit, clock: Clock) -> None:
    """C8: one probe reaches the neighbour, everyone else goes on at once."""
    fail(circuit, 3)
    clock.now_s += 5.0
    together = threading.Barrier(50)

    def call() -> bool:
        together.wait()
        return circuit.admit() is not None

    with ThreadPoolExecutor(50) as callers:
        assert sum(callers.map(lambda _: call(), range(50))) == 1


def test_the_bare_package_admits_all_fifty() -> None:
    """The control run: half-open, its fifty callers are all inside at the same time."""
    breaker = circuitbreaker.CircuitBreaker(failure_threshold=1, recovery_timeout=0.001)
    all_inside = threading.Barrier(50)

    def refuse() -> None:
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        breaker.decorate(refuse)()
    while breaker.opened:
        pass
    assert breaker.state == circuitbreaker.STATE_HALF_OPEN
    with ThreadPoolExecutor(50) as callers:
        # The barrier lets nobody out (and breaks after a while) unless the package let all of them in.
        list(callers.map(lambda _: breaker.decorate(all_inside.wait)(30.0), range(50)))


def test_the_bare_package_takes_an_abandoned_stream_for_a_success() -> None:
    """The control run: why a success is told and not inferred."""
    breaker = circuitbreaker.CircuitBreaker(failure_threshold=2)

    def refuse() -> None:
        raise ConnectionRefusedError

    def stream() -> Iterator[str]:
        yield "a"
        yield "b"

    with pytest.raises(ConnectionRefusedError):
        breaker.decorate(refuse)()
    assert breaker.failure_count == 1
    abandoned = breaker.decorate(stream)()
    next(abandoned)
    abandoned.close()
    assert breaker.failure_count == 0


def test_a_probe_that_succeeds_closes_it(circuit: Circuit, clock: Clock) -> None:
    """One whole answer, and everyone is admitted again."""
    fail(circuit, 3)
    clock.now_s += 5.0
    admitted(circuit).succeeded()
    assert circuit.state().state is CircuitState.CLOSED
    assert circuit.state().failures == 0
    assert all(circuit.admit() for _ in range(10))


def test_a_probe_that_fails_opens_it_for_the_whole_time_again(circuit: Circuit, clock: Clock) -> None:
    """One failure is enough, and the time runs from it."""
    fail(circuit, 3)
    clock.now_s += 7.0
    fail(circuit, 1)
    clock.now_s += 4.9
    assert circuit.admit() is None
    clock.now_s += 0.1
    admitted(circuit)


def test_a_neutral_probe_gives_its_place_back(circuit: Circuit, clock: Clock) -> None:
    """A caller who cancels during the probe must not leave the circuit half-open for ever."""
    fail(circuit, 3)
    clock.now_s += 5.0
    probe = admitted(circuit)
    assert circuit.admit() is None
    probe.neutral()
    assert circuit.state().state is CircuitState.HALF_OPEN
    admitted(circuit).succeeded()
    assert circuit.state().state is CircuitState.CLOSED


def test_leaving_the_with_statement_without_a_verdict_is_neutral(circuit: Circuit, clock: Clock) -> None:
    """Not even a defect in between keeps the place of the probe."""
    fail(circuit, 3)
    clock.now_s += 5.0
    with pytest.raises(ZeroDivisionError), admitted(circuit):
        1 / 0  # noqa: B018
    with admitted(circuit) as probe:
        probe.succeeded()
    assert circuit.state().state is CircuitState.CLOSED


def test_a_second_verdict_is_a_defect(circuit: Circuit) -> None:
    """A permit speaks once."""
    permit = admitted(circuit)
    permit.failed("stream_cut")
    for verdict in (permit.succeeded, permit.neutral, lambda: permit.failed("stream_cut")):
        with pytest.raises(RuntimeError):
            verdict()
    assert circuit.state().failures == 1


@pytest.mark.parametrize("verdict", ["succeeded", "failed", "neutral"])
@pytest.mark.parametrize("moment", ["open", "probing", "closed again"])
def test_a_result_from_before_the_opening_changes_nothing(
    circuit: Circuit, clock: Clock, moment: str, verdict: str
) -> None:
    """A stream that began before the circuit opened may end much later, in any way."""
    late = admitted(circuit)
    fail(circuit, 3)
    if moment != "open":
        clock.now_s += 5.0
        probe = admitted(circuit)
        if moment == "closed again":
            probe.succeeded()
    before = circuit.state()
    late.failed("stream_cut") if verdict == "failed" else getattr(late, verdict)()
    assert circuit.state() == before
    if moment == "probing":
        assert circuit.admit() is None


def test_the_snapshot_tells_operators_what_happened(circuit: Circuit, clock: Clock) -> None:
    """State, for how long, how many failures, the last reason, how much longer: in each state."""
    clock.now_s += 2.0
    state = circuit.state()
    assert (state.state, state.in_state_s, state.failures, state.last_failure) == (CircuitState.CLOSED, 2.0, 0, None)
    fail(circuit, 3)
    clock.now_s += 2.0
    state = circuit.state()
    assert (state.state, state.in_state_s, state.failures) == (CircuitState.OPEN, 2.0, 3)
    assert (state.last_failure, state.open_remaining_s) == ("connection_refused", 3.0)
    clock.now_s += 4.0
    state = circuit.state()
    assert (state.state, state.in_state_s, state.open_remaining_s) == (CircuitState.HALF_OPEN, 1.0, 0.0)
    admitted(circuit).succeeded()
    state = circuit.state()
    assert (state.in_state_s, state.failures, state.last_failure) == (0.0, 0, "connection_refused")


@pytest.mark.parametrize(("failures", "open_s"), [(0, 5.0), (-1, 5.0), (3, 0.0), (3, -1.0)])
def test_settings_that_the_package_would_replace_are_refused(failures: int, open_s: float) -> None:
    """The package takes its own defaults, 5 and 30 s, for zeros."""
    with pytest.raises(ValueError, match="at least 1"):
        ConsecutiveFailuresCircuit(failures, open_s)


class CircuitBesideAModel(RuleBasedStateMachine):
    """Any order of admissions, verdicts and time gives what a few lines of sequential rules say."""

    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.circuit: Circuit = ConsecutiveFailuresCircuit(failures_to_open=2, open_s=4.0, clock=self.clock)
        self.failures = 0
        self.opened_at: float | None = None
        self.era: object = object()
        self.probe: object = None

    def open_remaining_s(self) -> float:
        return 0.0 if self.opened_at is None else max(self.opened_at + 4.0 - self.clock.now_s, 0.0)

    @rule(target=permits)
    def admit(self) -> tuple[Permit, object] | None:
        permit = self.circuit.admit()
        half_open = self.opened_at is not None and not self.open_remaining_s()
        expected = self.open_remaining_s() == 0 and not (half_open and self.probe)
        assert (permit is not None) == expected
        if permit is None:
            return None
        if half_open:
            self.probe = permit
        return permit, self.era

    @rule(held=consumes(permits))
    def succeed(self, held: tuple[Permit, object] | None) -> None:
        if held is None:
            return
        held[0].succeeded()
        if held[1] is self.era:
            self.failures = 0
            if self.opened_at is not None:
                self.opened_at, self.era, self.probe = None, object(), None

    @rule(held=consumes(permits))
    def fail(self, held: tuple[Permit, object] | None) -> None:
        if held is None:
            return
        held[0].failed("x")
        if held[1] is self.era:
            self.failures += 1
            if self.failures >= 2:
                self.opened_at, self.era, self.probe = self.clock.now_s, object(), None

    @rule(held=consumes(permits))
    def leave(self, held: tuple[Permit, object] | None) -> None:
        if held is None:
            return
        held[0].neutral()
        if held[0] is self.probe:
            self.probe = None

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @invariant()
    def the_snapshot_agrees(self) -> None:
        state = self.circuit.state()
        expected = CircuitState.CLOSED
        if self.opened_at is not None:
            expected = CircuitState.OPEN if self.open_remaining_s() else CircuitState.HALF_OPEN
        assert (state.state, state.failures) == (expected, self.failures)
        assert state.open_remaining_s == self.open_remaining_s()


TestCircuitBesideAModel = CircuitBesideAModel.TestCase
