"""Alerts in memory: in order, counted where they repeat, bounded."""

import threading

from dari.core.alerts import Alert, AlertKind
from dari.core.waiting_alerts import WaitingAlerts

OPENED, CLOSED, MISCONFIGURED = AlertKind.CIRCUIT_OPENED, AlertKind.CIRCUIT_CLOSED, AlertKind.MODEL_MISCONFIGURED


def drained(waiting: WaitingAlerts) -> list[tuple[AlertKind, str, int]]:
    taken = []
    while (alert := waiting.oldest()) is not None:
        taken.append((alert.kind, alert.subject, alert.times))
        waiting.done()
    return taken


def filled(*alerts: tuple[AlertKind, str], max_waiting: int = 100) -> WaitingAlerts:
    waiting = WaitingAlerts(max_waiting)
    for kind, subject in alerts:
        waiting.put(Alert(kind, subject))
    return waiting


def test_what_repeats_itself_is_counted() -> None:
    waiting = filled((MISCONFIGURED, "a"), (MISCONFIGURED, "b"), (MISCONFIGURED, "a"), (MISCONFIGURED, "a"))
    assert drained(waiting) == [(MISCONFIGURED, "a", 3), (MISCONFIGURED, "b", 1)]


def test_what_ends_between_is_not_counted_together() -> None:
    """Or something that is open would seem closed."""
    waiting = filled((OPENED, "a"), (OPENED, "a"), (CLOSED, "a"), (OPENED, "a"), (MISCONFIGURED, "a"), (OPENED, "a"))
    assert drained(waiting) == [(OPENED, "a", 2), (CLOSED, "a", 1), (OPENED, "a", 2), (MISCONFIGURED, "a", 1)]


def test_tenants_are_told_apart() -> None:
    waiting = WaitingAlerts()
    for tenant in ("one", "other", "one"):
        waiting.put(Alert(MISCONFIGURED, "a", tenant=tenant))
    assert len(waiting) == 2


def test_one_that_is_being_stored_is_not_counted_up_any_more() -> None:
    """What came meanwhile would be lost with it."""
    waiting = filled((MISCONFIGURED, "a"))
    waiting.oldest()
    waiting.put(Alert(MISCONFIGURED, "a"))
    waiting.done()
    assert drained(waiting) == [(MISCONFIGURED, "a", 1)]


def test_beyond_the_bound_the_oldest_is_lost_and_counted() -> None:
    waiting = filled(*((OPENED, str(number)) for number in range(5)), max_waiting=3)
    assert [subject for _, subject, _ in drained(waiting)] == ["2", "3", "4"]
    assert (waiting.lost(), waiting.lost()) == (2, 0)


def test_one_that_is_lost_while_it_is_stored_takes_no_other_with_it() -> None:
    waiting = filled((OPENED, "a"), max_waiting=1)
    waiting.oldest()
    waiting.put(Alert(OPENED, "b"))
    waiting.done()
    assert drained(waiting) == [(OPENED, "b", 1)]


def test_many_may_put_at_once() -> None:
    waiting = WaitingAlerts()

    def put() -> None:
        for _ in range(200):
            waiting.put(Alert(OPENED, "a"))

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drained(waiting) == [(OPENED, "a", 800)]
