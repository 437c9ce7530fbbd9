"""Ids go along with the work, onto its other threads too, and no further."""

import threading
from collections.abc import Generator
from contextvars import copy_context

from dari.core.event_context import carried, event_fields, new_work, note, part_of_work


def test_events_have_the_ids_of_the_work_and_of_what_it_is_a_part_of() -> None:
    """And what was noted meanwhile, inside too, is seen by who opened the work."""
    with new_work(request_id="r") as ids:
        note(caller="c")
        with part_of_work(attempt="a"):
            assert event_fields() == {"request_id": "r", "caller": "c", "attempt": "a"}
            note(code="inner")
        assert event_fields() == ids == {"request_id": "r", "caller": "c"}
    assert event_fields() == {}


def test_what_nobody_opened_keeps_no_note() -> None:
    """A thread between two calls would hand it to the next."""
    note(caller="nobody")
    assert event_fields() == {}


def test_another_thread_works_under_the_same_ids() -> None:
    """Only what was carried there; and what it notes stands in the same work."""
    seen: list[dict[str, str]] = []

    def work() -> None:
        note(upload="u")
        seen.append(dict(event_fields()))

    with new_work(request_id="r") as ids:
        for function in (carried(work), work):
            thread = threading.Thread(target=function)
            thread.start()
            thread.join()
    assert seen == [{"request_id": "r", "upload": "u"}, {}]
    assert ids == {"request_id": "r", "upload": "u"}


def test_a_generator_that_is_closed_elsewhere_leaves_that_thread_alone() -> None:
    """Whoever drops the answers of a caller who left may be in the middle of another call."""

    def answers() -> Generator[None]:
        with new_work(request_id="left"):
            yield

    left = answers()
    # As on the thread that it began on, which is not this one: what it began stays open there.
    copy_context().run(next, left)
    seen: list[dict[str, str]] = []

    def close() -> None:
        with new_work(request_id="other"):
            left.close()
            seen.append(dict(event_fields()))

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert seen == [{"request_id": "other"}]
    with new_work(request_id="next"):
        assert event_fields() == {"request_id": "next"}
