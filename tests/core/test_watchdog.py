"""The watchdog, on a clock that the test turns."""

import random
import threading
import time
from collections.abc import Iterator

import pytest

from dari.core.watchdog import NEVER, Watchdog
from tests.support.running_dari import SOON_S


class Clock:
    """A clock that stands still, and a watchdog that looks at it whenever the test turns it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.watchdog = Watchdog(lambda: self.now_s)

    def turn(self, now_s: float) -> None:
        """Set the time, and wait until the watchdog has dealt with all that was due by then."""
        self.now_s = now_s
        looked = threading.Event()
        # Due last of all: everything before it in the heap is done when it rings.
        self.watchdog.alarm(looked.set).set(now_s)
        self.watchdog.alarm(lambda: None).set(-1.0)  # Due first of all: the watchdog wakes, and looks at the clock.
        assert looked.wait(SOON_S)


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    clock.watchdog.close()


def test_an_alarm_rings_once_when_its_time_has_come(clock: Clock) -> None:
    rung: list[float] = []
    clock.watchdog.alarm(lambda: rung.append(clock.now_s)).set(10)
    clock.turn(9)
    assert rung == []
    clock.turn(10)
    assert rung == [10]
    clock.turn(100)
    assert rung == [10]


def test_an_alarm_that_is_put_off_rings_at_the_later_time_only(clock: Clock) -> None:
    rung: list[float] = []
    alarm = clock.watchdog.alarm(lambda: rung.append(clock.now_s))
    for due in (10, 20, 30):
        alarm.set(due)
    clock.turn(29)
    assert rung == []
    clock.turn(30)
    assert rung == [30]


def test_an_alarm_that_is_brought_forward_rings_at_the_earlier_time_only(clock: Clock) -> None:
    rung: list[float] = []
    alarm = clock.watchdog.alarm(lambda: rung.append(clock.now_s))
    alarm.set(30)
    alarm.set(10)
    clock.turn(10)
    clock.turn(30)
    assert rung == [10]


def test_a_stopped_alarm_is_silent_and_can_be_set_again(clock: Clock) -> None:
    rung: list[float] = []
    alarm = clock.watchdog.alarm(lambda: rung.append(clock.now_s))
    alarm.set(10)
    alarm.stop()
    clock.turn(20)
    assert rung == []
    alarm.set(30)
    clock.turn(30)
    alarm.set(40)
    clock.turn(40)
    alarm.set(NEVER)
    clock.turn(1_000)
    assert rung == [30, 40]


def test_alarms_ring_in_the_order_of_their_times(clock: Clock) -> None:
    rung: list[int] = []
    for due in (3, 1, 2):
        clock.watchdog.alarm(lambda due=due: rung.append(due)).set(due)  # type: ignore[misc]
    clock.turn(10)
    assert rung == [1, 2, 3]


def test_an_alarm_may_be_set_by_its_own_ring(clock: Clock) -> None:
    rung: list[float] = []

    def ring() -> None:
        rung.append(clock.now_s)
        if len(rung) < 3:
            alarm.set(clock.now_s + 10)

    alarm = clock.watchdog.alarm(ring)
    alarm.set(10)
    for now_s in (10, 20, 30, 40):
        clock.turn(now_s)
    assert rung == [10, 20, 30]


def test_nothing_rings_after_close() -> None:
    rung = threading.Event()
    watchdog = Watchdog()
    alarm = watchdog.alarm(rung.set)
    watchdog.close()
    alarm.set(0.0)
    assert not rung.is_set()


def test_no_setting_is_lost_between_many_threads() -> None:
    """Each alarm is moved while the watchdog looks at it; the last setting counts."""
    watchdog = Watchdog()
    problems: list[BaseException] = []

    def move(seed: int) -> None:
        chance = random.Random(seed)
        rung = threading.Event()
        alarm = watchdog.alarm(rung.set)
        try:
            for _ in range(2_000):
                alarm.set(time.monotonic() + chance.choice([0.0, 0.0001, 60.0]))
                if chance.random() < 0.1:
                    alarm.stop()
            rung.clear()
            alarm.set(time.monotonic())
            assert rung.wait(SOON_S)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=move, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    watchdog.close()
    assert problems == []
