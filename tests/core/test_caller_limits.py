"""What one caller may ask of a server."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dari.core.caller_limits import MAX_REMEMBERED, CallerLimits
from dari.core.callers import Caller, Role
from dari.core.errors import CallRateExceeded, TooManyCalls

ANN, BOB = Caller("ann", "acme", Role.READER), Caller("bob", "acme", Role.READER)
ANN_ELSEWHERE = Caller("ann", "other", Role.ADMIN)


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def limits(clock: Clock, *, per_s: float | None = None, burst: int = 1, at_once: int | None = None) -> CallerLimits:
    return CallerLimits(at_once=at_once, per_s=per_s, burst=burst, clock=clock)


def is_let_in(limited: CallerLimits, caller: Caller = ANN) -> bool:
    try:
        with limited.call_of(caller):
            return True
    except CallRateExceeded:
        return False


def test_a_silent_caller_has_a_burst_and_then_the_rate() -> None:
    clock = Clock()
    limited = limits(clock, per_s=2.0, burst=3)
    assert [is_let_in(limited) for _ in range(4)] == [True, True, True, False]
    clock.now_s += 0.5
    assert [is_let_in(limited) for _ in range(2)] == [True, False]
    clock.now_s += 100.0
    assert [is_let_in(limited) for _ in range(4)] == [True, True, True, False]
    assert limited.refused == 3


def test_a_caller_who_comes_again_when_told_to_is_let_in_and_not_before() -> None:
    clock = Clock()
    limited = limits(clock, per_s=4.0, burst=1)
    assert is_let_in(limited)
    with pytest.raises(CallRateExceeded) as caught, limited.call_of(ANN):
        pass
    assert caught.value.metadata == {"limit": "caller_calls_per_s", "value": "4"}
    delay_s = caught.value.retry_delay_s
    assert delay_s == pytest.approx(0.25)
    clock.now_s += delay_s * 0.9
    assert not is_let_in(limited)
    clock.now_s += delay_s * 0.11
    assert is_let_in(limited)


@given(
    st.floats(0.1, 1_000.0),
    st.integers(1, 50),
    st.lists(st.floats(0.0, 3.0), min_size=1, max_size=200),
)
def test_no_more_calls_pass_in_any_time_than_the_burst_and_the_rate_allow(
    per_s: float, burst: int, pauses_s: list[float]
) -> None:
    clock, passed = Clock(), []
    limited = limits(clock, per_s=per_s, burst=burst)
    for pause_s in pauses_s:
        clock.now_s += pause_s
        if is_let_in(limited):
            passed.append(clock.now_s)
    for first, start_s in enumerate(passed):
        for count, end_s in enumerate(passed[first:], start=1):
            assert count <= burst + per_s * (end_s - start_s) + 1e-3


def test_callers_do_not_spend_what_is_anothers() -> None:
    """Nor do two of one name in two tenants."""
    limited = limits(Clock(), per_s=1.0)
    assert [is_let_in(limited, caller) for caller in (ANN, BOB, ANN_ELSEWHERE)] == [True] * 3
    assert [is_let_in(limited, caller) for caller in (ANN, BOB, ANN_ELSEWHERE)] == [False] * 3


def test_so_many_calls_of_a_caller_are_under_way_and_each_makes_room_at_its_end() -> None:
    limited = limits(Clock(), at_once=2)
    with ExitStack() as calls:
        calls.enter_context(limited.call_of(ANN))
        with limited.call_of(ANN), pytest.raises(TooManyCalls) as caught:
            calls.enter_context(limited.call_of(ANN))
        assert caught.value.metadata == {"limit": "caller_calls_at_once", "value": "2"}
        calls.enter_context(limited.call_of(BOB))
        with pytest.raises(ZeroDivisionError), limited.call_of(ANN):
            raise ZeroDivisionError
        calls.enter_context(limited.call_of(ANN))
    with limited.call_of(ANN), limited.call_of(ANN):
        pass


def test_threads_share_one_count() -> None:
    limited, begun = limits(Clock(), at_once=5), threading.Barrier(20)

    def call() -> int:
        begun.wait()
        try:
            with limited.call_of(ANN):
                ended.wait()
                return 1
        except TooManyCalls:
            ended.wait()
            return 0

    ended = threading.Barrier(20)
    with ThreadPoolExecutor(20) as pool:
        assert sum(future.result() for future in [pool.submit(call) for _ in range(20)]) == 5


def test_what_is_remembered_of_callers_is_bounded() -> None:
    """Those whose bucket is full again need no memory."""
    clock = Clock()
    limited = limits(clock, per_s=1.0)
    for number in range(3 * MAX_REMEMBERED):
        clock.now_s += 0.001
        assert is_let_in(limited, Caller(f"caller-{number}", "acme", Role.READER))
        assert len(limited._full_at) <= MAX_REMEMBERED + 1
