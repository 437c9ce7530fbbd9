"""The dispatcher over an outbox that may be gone, and targets that may fail in every way."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from dari.core.alert_dispatch import DATABASE_GONE_AFTER, AlertDispatcher, Delivery, retry_delay
from dari.core.alerts import Alert, AlertKind, Message
from dari.core.errors import Exhausted, InternalError, Unavailable
from tests.support.event_log import RecordedEvents
from tests.support.running_dari import SOON_S
from tests.support.waiting import until

QUIET = timedelta(minutes=15)
GONE, BACK = "the database does not answer", "the database answers again"
NOT_THERE = Unavailable.of("database")


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class MemoryOutbox:
    """An Outbox that tells everything once, to one target. `fails` is what the next calls raise."""

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.fails_for: str | None = None
        self.alerts: list[Alert] = []
        self.claimed = 0
        self.settled: list[tuple[int, bool, datetime]] = []
        self.sweeps: list[tuple[datetime, int]] = []

    def add(self, alert: Alert) -> None:
        self._answer()
        if alert.subject == self.fails_for:
            raise InternalError("no")
        self.alerts.append(alert)

    def decide(self, targets: Sequence[str], quiet: timedelta, now: datetime) -> None:
        self._answer()

    def claim(self, targets: Sequence[str], now: datetime, lease: timedelta) -> list[Delivery]:
        self._answer()
        if not targets or self.claimed == len(self.alerts):
            return []
        self.claimed += 1
        return [Delivery(self.claimed, targets[0], 1, self.alerts[self.claimed - 1], 0)]

    def settle(self, delivery: Delivery, *, delivered_time: datetime | None, retry_time: datetime) -> None:
        self._answer()
        self.settled.append((delivery.number, delivered_time is not None, retry_time))

    def sweep(self, before: datetime, most: int) -> int:
        self._answer()
        self.sweeps.append((before, most))
        return 0

    def _answer(self) -> None:
        if self.fails is not None:
            raise self.fails


class Pager:
    """A Target that does at each message what its script says next; then takes what comes."""

    name = "pager"

    def __init__(self, *script: bool | Exception) -> None:
        self._script = list(script)
        self._changed = threading.Condition()  # its lock guards the two below
        self._seen: list[str] = []
        self._arrived: list[str] = []

    def send(self, message: Message) -> bool:
        with self._changed:
            title = message.title.removeprefix("dari: ")
            self._seen.append(title)
            step = self._script.pop(0) if self._script else True
            if step is True:
                self._arrived.append(title)
            self._changed.notify_all()
        if isinstance(step, Exception):
            raise step
        return step

    def wait_for_seen(self, count: int) -> list[str]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._seen) >= count, SOON_S)
            return list(self._seen)

    @property
    def arrived(self) -> list[str]:
        with self._changed:
            return list(self._arrived)


class Rounds:
    """A dispatcher whose rounds the test does."""

    def __init__(self, pager: Pager, max_waiting: int = 100) -> None:
        self.pager, self.outbox, self.clock, self.log = pager, MemoryOutbox(), Clock(), RecordedEvents()
        self.dispatcher = AlertDispatcher(
            self.outbox, [pager], self.log, quiet=QUIET, clock=self.clock, max_waiting=max_waiting
        )

    def tell(self, *subjects: str) -> None:
        for subject in subjects:
            self.dispatcher.tell(Alert(AlertKind.CIRCUIT_OPENED, subject, happen_time=self.clock()))

    def round(self, after: timedelta = timedelta()) -> None:
        self.clock.now += after
        self.dispatcher.run_once()

    def rounds_until_arrived(self, count: int) -> list[str]:
        def is_there() -> bool:
            self.round()
            return len(self.pager.arrived) >= count

        until(is_there)
        return self.pager.arrived

    def has_settled(self) -> bool:
        """Whether behind another round something is settled."""
        self.round()
        return bool(self.outbox.settled)

    def be_gone(self, for_: timedelta = DATABASE_GONE_AFTER) -> None:
        self.outbox.fails = NOT_THERE
        self.round()
        self.round(after=for_)

    def come_back(self) -> None:
        self.outbox.fails = None
        self.round()


@contextmanager
def rounds(pager: Pager, max_waiting: int = 100) -> Iterator[Rounds]:
    made = Rounds(pager, max_waiting)
    try:
        yield made
    finally:
        for sender in made.dispatcher._senders.values():
            sender.close(time.monotonic() + SOON_S)


def test_a_message_that_arrived_is_settled_so() -> None:
    with rounds(Pager()) as made:
        made.tell("a")
        assert made.rounds_until_arrived(1) == ["a fails"]
        until(made.has_settled)
        assert made.outbox.settled[0][:2] == (1, True)


@pytest.mark.parametrize("failure", [False, ConnectionError("canary"), KeyError("canary")], ids=repr)
def test_a_message_that_did_not_is_to_be_tried_again_later(failure: bool | Exception) -> None:
    """Whatever a hundred services raise; and the text of that is told nobody."""
    with rounds(Pager(failure)) as made:
        made.tell("a")
        made.round()
        made.pager.wait_for_seen(1)
        until(made.has_settled)
        assert made.outbox.settled == [(1, False, made.clock() + retry_delay(1))]
        made.tell("b")
        assert made.rounds_until_arrived(1) == ["b fails"], "its thread goes on"
        events = str([made.log.fields(event) for event in made.log.names()])
        assert "canary" not in events
        assert "alert_not_sent" in made.log.names()


def test_an_outage_shorter_than_a_restart_calls_nobody() -> None:
    with rounds(Pager()) as made:
        made.be_gone(for_=DATABASE_GONE_AFTER - timedelta(seconds=1))
        made.come_back()
        made.be_gone(for_=DATABASE_GONE_AFTER - timedelta(seconds=1))
        made.come_back()
        made.tell("a")
        assert made.rounds_until_arrived(1) == ["a fails"]


def test_an_outage_is_told_once_and_so_is_its_end() -> None:
    with rounds(Pager()) as made:
        made.be_gone()
        for _ in range(5):
            made.round(after=timedelta(minutes=20))
        made.come_back()
        assert made.rounds_until_arrived(2) == [GONE, BACK]


def test_a_flapping_database_is_told_as_anything_that_flaps() -> None:
    """Twice in a period, and behind it what lasts."""
    with rounds(Pager()) as made:
        for _ in range(4):
            made.be_gone()
            made.come_back()
        made.be_gone()
        assert made.rounds_until_arrived(2) == [GONE, BACK]
        made.round(after=QUIET)
        assert made.rounds_until_arrived(3)[2:] == [GONE]


def test_what_is_told_past_the_outbox_waits_too_for_a_target_that_is_down() -> None:
    with rounds(Pager(False, False)) as made:
        made.be_gone()
        assert made.pager.wait_for_seen(1) == [GONE]
        made.come_back()
        for attempt in (1, 2):
            until(lambda: made.dispatcher._senders["pager"].is_free(made.clock()))
            made.round(after=retry_delay(attempt))
            made.pager.wait_for_seen(1 + attempt)
        assert made.rounds_until_arrived(2) == [GONE, BACK]


def test_alerts_wait_in_memory_while_the_database_is_gone() -> None:
    with rounds(Pager(), max_waiting=2) as made:
        made.outbox.fails = NOT_THERE
        made.tell("a", "b", "c")
        made.round()
        made.come_back()
        assert made.rounds_until_arrived(2) == ["b fails", "c fails"]
        assert made.log.fields("alerts_lost") == [{"alerts": 1}]


def test_a_database_that_has_no_room_is_not_gone() -> None:
    """It answers; and what waits is stored when there is room."""
    with rounds(Pager()) as made:
        made.outbox.fails = Exhausted("full")
        made.tell("a")
        made.round()
        made.round(after=2 * DATABASE_GONE_AFTER)
        made.outbox.fails = None
        assert made.rounds_until_arrived(1) == ["a fails"]
        assert "alerts_wait" in made.log.names()


def test_an_alert_that_cannot_be_stored_holds_up_no_other() -> None:
    with rounds(Pager()) as made:
        made.outbox.fails_for = "a"
        made.tell("a", "b")
        assert made.rounds_until_arrived(1) == ["b fails"]
        assert made.log.fields("alert_not_stored")[0]["kind"] == "CIRCUIT_OPENED"


def test_the_outbox_is_swept_now_and_then() -> None:
    with rounds(Pager()) as made:
        for _ in range(100):
            made.round(after=timedelta(minutes=1))
        assert len(made.outbox.sweeps) == 2
        assert all(most > 0 for _, most in made.outbox.sweeps)


def test_a_defect_in_a_round_ends_no_later_one() -> None:
    outbox, log, pager = MemoryOutbox(), RecordedEvents(), Pager()
    dispatcher = AlertDispatcher(outbox, [pager], log, quiet=QUIET, interval_s=0.01)
    outbox.fails = ZeroDivisionError("canary")
    dispatcher.start()
    with closing(dispatcher):
        dispatcher.tell(Alert(AlertKind.CIRCUIT_OPENED, "a"))
        assert log.wait_for("alerts_failed", 2, SOON_S)
        outbox.fails = None
        assert pager.wait_for_seen(1) == ["a fails"]
    assert "canary" not in str(log.fields("alerts_failed"))


def test_alerts_that_are_lost_when_a_server_stops_are_counted() -> None:
    outbox, log = MemoryOutbox(), RecordedEvents()
    dispatcher = AlertDispatcher(outbox, [], log, quiet=QUIET, interval_s=SOON_S)
    outbox.fails = NOT_THERE
    dispatcher.start()
    dispatcher.tell(Alert(AlertKind.CIRCUIT_OPENED, "a"))
    dispatcher.close()
    assert log.fields("alerts_lost") == [{"alerts": 1}]


def test_a_message_that_arrives_as_its_server_stops_is_settled() -> None:
    """Or it would come once more."""
    outbox = MemoryOutbox()
    is_sending, may_arrive = threading.Event(), threading.Event()

    class SlowPager(Pager):
        def send(self, message: Message) -> bool:
            is_sending.set()
            return may_arrive.wait(SOON_S) and super().send(message)

    pager = SlowPager()
    dispatcher = AlertDispatcher(outbox, [pager], RecordedEvents(), quiet=QUIET, interval_s=0.01)
    dispatcher.start()
    dispatcher.tell(Alert(AlertKind.CIRCUIT_OPENED, "a"))
    assert is_sending.wait(SOON_S)
    closing_it = threading.Thread(target=dispatcher.close)
    closing_it.start()
    may_arrive.set()
    closing_it.join()
    assert [has_arrived for _, has_arrived, _ in outbox.settled] == [True]
