"""The circuit: its table of rules, control runs on the bare package, and a random walk beside a sequential model."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import circuitbreaker
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from dari.adapters.circuit import CircuitRules, WindowedCircuit
from dari.core.circuit import CircuitState, OperatedCircuit, Permit


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> OperatedCircuit:
    return WindowedCircuit(CircuitRules(consecutive_failures=3, open_s=5.0), clock)


def admitted(circuit: OperatedCircuit) -> Permit:
    permit = circuit.admit()
    assert permit is not None
    return permit


def fail(circuit: OperatedCircuit, times: int) -> None:
    for _ in range(times):
        admitted(circuit).failed("connection_refused")


def test_it_opens_at_the_third_failure_in_a_row(circuit: OperatedCircuit) -> None:
    """Two failures leave it closed; the third opens it, and nobody is admitted."""
    fail(circuit, 2)
    assert circuit.state().state is CircuitState.CLOSED
    fail(circuit, 1)
    assert circuit.state().state is CircuitState.OPEN
    assert circuit.admit() is None


def test_a_success_begins_the_count_anew(circuit: OperatedCircuit) -> None:
    """Failures that a success divides are not in a row."""
    fail(circuit, 2)
    admitted(circuit).succeeded()
    fail(circuit, 2)
    assert circuit.state().state is CircuitState.CLOSED


def test_a_success_counts_at_the_end_of_a_stream_only(circuit: OperatedCircuit) -> None:
    """An attempt that was admitted and has not ended yet takes nothing off the count."""
    streaming = admitted(circuit)
    fail(circuit, 3)
    assert circuit.state().state is CircuitState.OPEN
    streaming.succeeded()
    assert circuit.state().state is CircuitState.OPEN


def test_a_neutral_end_changes_no_count(circuit: OperatedCircuit) -> None:
    """Neither does a caller's cancel end a row of failures, nor is it one."""
    fail(circuit, 2)
    admitted(circuit).neutral()
    assert circuit.state().failures == 2
    fail(circuit, 1)
    assert circuit.state().state is CircuitState.OPEN


def test_it_stays_open_to_the_fraction_of_a_second(circuit: OperatedCircuit, clock: Clock) -> None:
    """The package rounds to whole seconds; the time that an operator set is kept exactly."""
    fail(circuit, 3)
    clock.now_s += 4.99
    assert circuit.admit() is None
    assert circuit.state().open_remaining_s == pytest.approx(0.01)
    clock.now_s += 0.01
    assert circuit.state().state is CircuitState.HALF_OPEN
    admitted(circuit)


def test_half_open_admits_two_of_fifty_callers_at_once(circuit: OperatedCircuit, clock: Clock) -> None:
    """C8: two probes reach the neighbour, everyone else goes on at once."""
    fail(circuit, 3)
    clock.now_s += 5.0
    together = threading.Barrier(50)

    def call() -> bool:
        together.wait()
        return circuit.admit() is not None

    with ThreadPoolExecutor(50) as callers:
        assert sum(callers.map(lambda _: call(), range(50))) == 2


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


def test_the_bare_package_forgets_failures_for_an_exception_of_another_kind() -> None:
    """The control run: told to count refused connections, it takes a stream that was cut for a success, and resets."""
    breaker = circuitbreaker.CircuitBreaker(failure_threshold=2, expected_exception=ConnectionRefusedError)

    def fail(error: type[Exception]) -> None:
        raise error

    for _ in range(100):
        with pytest.raises(ConnectionRefusedError):
            breaker.decorate(fail)(ConnectionRefusedError)
        assert breaker.failure_count == 1
        with pytest.raises(EOFError):
            breaker.decorate(fail)(EOFError)
        assert breaker.failure_count == 0
    assert breaker.closed


def test_each_way_to_fail_counts_and_none_is_a_success(circuit: OperatedCircuit) -> None:
    """What the package gets wrong: the verdict is told, with its code, and no exception is looked at."""
    for code in ("connection_refused", "stream_cut", "first_token_timeout"):
        assert circuit.state().state is CircuitState.CLOSED
        admitted(circuit).failed(code)
    assert circuit.state().state is CircuitState.OPEN


def test_the_bare_package_runs_no_fallback_for_the_call_that_fails() -> None:
    """The control run: it is for those who come when it is open; who opens it gets the exception. The chain is ours."""
    answers = []

    def refuse() -> str:
        raise ConnectionRefusedError

    breaker = circuitbreaker.CircuitBreaker(failure_threshold=2, fallback_function=lambda: "from another model")
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            answers.append(breaker.decorate(refuse)())
    answers.append(breaker.decorate(refuse)())
    assert answers == ["from another model"]


def test_a_probe_that_succeeds_closes_it(circuit: OperatedCircuit, clock: Clock) -> None:
    """One whole answer, and behind the ramp everyone is admitted again."""
    fail(circuit, 3)
    clock.now_s += 5.0
    admitted(circuit).succeeded()
    assert circuit.state().state is CircuitState.CLOSED
    assert circuit.state().failures == 0
    clock.now_s += 5.0
    assert all(circuit.admit() for _ in range(10))


def test_behind_a_close_one_caller_with_nobody_else_goes_through(clock: Clock) -> None:
    """Whoever the ramp would pass by; and then the share goes on as before."""
    circuit = WindowedCircuit(CircuitRules(ramp_s=10.0), clock)
    fail(circuit, 3)
    clock.now_s += 5.0
    admitted(circuit).succeeded()
    assert circuit.admit() is not None
    assert circuit.admit() is None
    circuit.retry()
    assert [circuit.admit() is not None for _ in range(5)] == [True] + [False] * 4


def test_behind_a_close_a_growing_share_goes_through(clock: Clock) -> None:
    """A neighbour that is just back meets no stampede: one caller, then a tenth of them, then more, then all."""
    circuit = WindowedCircuit(CircuitRules(ramp_s=10.0), clock)
    fail(circuit, 3)
    clock.now_s += 5.0
    admitted(circuit).succeeded()
    assert [circuit.admit() is not None for _ in range(9)] == [True] + [False] * 8
    shares = []
    for _ in range(10):
        shares.append(sum(circuit.admit() is not None for _ in range(100)))
        clock.now_s += 1.0
    assert shares == sorted(shares)
    assert shares[0] in range(9, 12)
    assert shares[5] in range(54, 57)
    assert sum(circuit.admit() is not None for _ in range(100)) == 100


def test_it_opens_by_rate_where_failures_are_not_in_a_row(clock: Clock) -> None:
    """C7: F F F F ok, again and again: four of five fail, and no five in a row."""
    circuit = WindowedCircuit(CircuitRules(consecutive_failures=5), clock)
    for _ in range(2):
        fail(circuit, 4)
        assert circuit.state().state is CircuitState.CLOSED
        admitted(circuit).succeeded()
    assert circuit.state().failure_rate == 0.8
    fail(circuit, 1)
    assert circuit.state().state is CircuitState.OPEN


def test_the_bare_package_never_opens_by_rate() -> None:
    """The control run of C7: each success forgets the four failures before it."""
    breaker = circuitbreaker.CircuitBreaker(failure_threshold=5)

    def call(fails: bool) -> None:
        if fails:
            raise ConnectionRefusedError

    for number in range(100):
        with contextlib.suppress(ConnectionRefusedError):
            breaker.decorate(call)(number % 5 != 4)
    assert breaker.closed


def test_failures_that_are_long_ago_open_nothing(clock: Clock) -> None:
    """The window slides: nine old failures and one new one are one of one."""
    circuit = WindowedCircuit(CircuitRules(consecutive_failures=100, window_s=60.0), clock)
    fail(circuit, 9)
    clock.now_s += 60.1
    fail(circuit, 1)
    assert circuit.state().state is CircuitState.CLOSED
    assert circuit.state().failure_rate == 0.0


def test_it_opens_twice_as_long_each_time_and_forgets_that_when_well(clock: Clock) -> None:
    """5, 10, 20, 40, then 60 s and no longer; after a minute of health 5 s again."""
    circuit = WindowedCircuit(CircuitRules(open_s=5.0, max_open_s=60.0), clock)
    fail(circuit, 3)
    open_s = []
    for _ in range(6):
        open_s.append(circuit.state().open_remaining_s)
        clock.now_s += open_s[-1]
        fail(circuit, 1)
    assert open_s == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    clock.now_s += 60.0
    admitted(circuit).succeeded()
    clock.now_s += 60.0
    fail(circuit, 3)
    assert circuit.state().open_remaining_s == 5.0


def test_a_drained_circuit_lets_nothing_through_until_it_is_reset(circuit: OperatedCircuit, clock: Clock) -> None:
    """What an operator took out comes back by an operator only, and then at once for everyone."""
    streaming = admitted(circuit)
    circuit.drain()
    assert circuit.state().state is CircuitState.DRAINED
    streaming.failed("stream_cut")
    clock.now_s += 1_000.0
    assert circuit.admit() is None
    circuit.reset()
    state = circuit.state()
    assert (state.state, state.failures, state.failure_rate) == (CircuitState.CLOSED, 0, 0.0)
    assert all(circuit.admit() for _ in range(10))


def test_a_reset_closes_an_open_circuit_for_everyone(circuit: OperatedCircuit) -> None:
    """An operator who knows better need not wait."""
    fail(circuit, 3)
    circuit.reset()
    assert all(circuit.admit() for _ in range(10))


def test_a_probe_that_fails_opens_it_for_the_whole_time_again(circuit: OperatedCircuit, clock: Clock) -> None:
    """One failure is enough, and the time runs from it."""
    fail(circuit, 3)
    clock.now_s += 7.0
    fail(circuit, 1)
    clock.now_s += 9.9
    assert circuit.admit() is None
    clock.now_s += 0.1
    admitted(circuit)


def test_a_neutral_probe_gives_its_place_back(circuit: OperatedCircuit, clock: Clock) -> None:
    """A caller who cancels during the probe must not leave the circuit half-open for ever."""
    fail(circuit, 3)
    clock.now_s += 5.0
    probe, other = admitted(circuit), admitted(circuit)
    assert circuit.admit() is None
    other.neutral()
    probe.neutral()
    assert circuit.state().state is CircuitState.HALF_OPEN
    admitted(circuit).succeeded()
    assert circuit.state().state is CircuitState.CLOSED


def test_leaving_the_with_statement_without_a_verdict_is_neutral(circuit: OperatedCircuit, clock: Clock) -> None:
    """Not even a defect in between keeps the place of the probe."""
    fail(circuit, 3)
    clock.now_s += 5.0
    with pytest.raises(ZeroDivisionError), admitted(circuit):
        1 / 0  # noqa: B018
    with admitted(circuit) as probe:
        probe.succeeded()
    assert circuit.state().state is CircuitState.CLOSED


def test_a_second_verdict_is_a_defect(circuit: OperatedCircuit) -> None:
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
    circuit: OperatedCircuit, clock: Clock, moment: str, verdict: str
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
        admitted(circuit)
        assert circuit.admit() is None


def test_the_snapshot_tells_operators_what_happened(circuit: OperatedCircuit, clock: Clock) -> None:
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


@pytest.mark.parametrize(
    "rules",
    [
        CircuitRules(consecutive_failures=0),
        CircuitRules(min_outcomes=0),
        CircuitRules(probes=0),
        CircuitRules(open_s=0.0),
        CircuitRules(max_open_s=-1.0),
        CircuitRules(window_s=0.0),
        CircuitRules(ramp_s=-1.0),
        CircuitRules(failure_rate=0.0),
        CircuitRules(failure_rate=1.1),
    ],
)
def test_rules_by_which_nothing_would_open_or_close_are_refused(rules: CircuitRules) -> None:
    """The package takes its own defaults for zeros."""
    with pytest.raises(ValueError, match="must be"):
        WindowedCircuit(rules)


MODEL_RULES = CircuitRules(
    consecutive_failures=2, failure_rate=0.6, min_outcomes=4, window_s=8.0, open_s=4.0, max_open_s=10.0, ramp_s=0.0
)


class CircuitBesideAModel(RuleBasedStateMachine):
    """Any order of admissions, verdicts, time, drains and resets gives what a few lines of sequential rules say."""

    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.circuit: OperatedCircuit = WindowedCircuit(MODEL_RULES, self.clock)
        self.outcomes: list[tuple[float, bool]] = []
        self.failures = 0
        self.open_from: float | None = None
        self.closed_from = self.clock.now_s
        self.open_s = 0.0
        self.drained = False
        self.era: object = object()
        self.probes: list[Permit] = []

    def open_remaining_s(self) -> float:
        return 0.0 if self.open_from is None else max(self.open_from + self.open_s - self.clock.now_s, 0.0)

    def rate(self) -> float:
        recent = [failed for at, failed in self.outcomes if at >= self.clock.now_s - 8.0]
        return sum(recent) / len(recent) if len(recent) >= 4 else 0.0

    def begin_era(self) -> None:
        self.era, self.probes = object(), []

    def close(self) -> None:
        self.open_from, self.closed_from = None, self.clock.now_s
        self.failures, self.outcomes = 0, []
        self.begin_era()

    @rule(target=permits)
    def admit(self) -> tuple[Permit, object] | None:
        permit = self.circuit.admit()
        half_open = self.open_from is not None and not self.open_remaining_s()
        expected = not self.drained and self.open_remaining_s() == 0 and not (half_open and len(self.probes) == 2)
        assert (permit is not None) == expected
        if permit is None:
            return None
        if half_open:
            self.probes.append(permit)
        return permit, self.era

    @rule(held=consumes(permits))
    def succeed(self, held: tuple[Permit, object] | None) -> None:
        if held is None:
            return
        held[0].succeeded()
        if held[1] is not self.era:
            return
        self.failures = 0
        if self.open_from is None:
            self.outcomes.append((self.clock.now_s, False))
        else:
            self.close()

    @rule(held=consumes(permits))
    def fail(self, held: tuple[Permit, object] | None) -> None:
        if held is None:
            return
        held[0].failed("x")
        if held[1] is not self.era:
            return
        self.failures += 1
        self.outcomes.append((self.clock.now_s, True))
        if self.open_from is None and self.failures < 2 and self.rate() < 0.6:
            return
        was_well = self.open_from is None and self.clock.now_s - self.closed_from >= 10.0
        self.open_s = 4.0 if was_well or not self.open_s else min(self.open_s * 2, 10.0)
        self.open_from = self.clock.now_s
        self.begin_era()

    @rule(held=consumes(permits))
    def leave(self, held: tuple[Permit, object] | None) -> None:
        if held is None:
            return
        held[0].neutral()
        if held[0] in self.probes:
            self.probes.remove(held[0])

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @rule()
    def drain(self) -> None:
        self.circuit.drain()
        if not self.drained:
            self.drained = True
            self.begin_era()

    @rule()
    def reset(self) -> None:
        self.circuit.reset()
        self.drained, self.open_s = False, 0.0
        self.close()

    @invariant()
    def the_snapshot_agrees(self) -> None:
        state = self.circuit.state()
        expected = CircuitState.CLOSED
        if self.drained:
            expected = CircuitState.DRAINED
        elif self.open_from is not None:
            expected = CircuitState.OPEN if self.open_remaining_s() else CircuitState.HALF_OPEN
        assert (state.state, state.failures, state.failure_rate) == (expected, self.failures, self.rate())
        if not self.drained:
            assert state.open_remaining_s == pytest.approx(self.open_remaining_s())


TestCircuitBesideAModel = CircuitBesideAModel.TestCase
