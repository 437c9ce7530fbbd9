"""When a source is due."""

from datetime import UTC, datetime, timedelta

import pytest

from dari.core.schedules import Schedule, parse_cron


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "start", "due"),
    [
        ("* * * * *", "2026-11-23 06:10:58", "2026-11-23 06:11"),
        ("0 3 * * 1-5", "2026-11-20 03:00", "2026-11-23 03:00"),
        ("*/15 * * * *", "2026-11-23 06:46", "2026-11-23 07:00"),
        ("5/20 1 * * *", "2026-11-23 01:05", "2026-11-23 01:25"),
        ("0 0 29 2 *", "2096-03-01 00:00", "2104-02-29 00:00"),
        ("0 0 13 * 5", "2026-11-23 00:00", "2026-11-27 00:00"),
        ("0 0 */2 * 7", "2026-11-23 00:00", "2026-11-29 00:00"),
        ("59 23 31 12 *", "2026-12-31 23:59", "2027-12-31 23:59"),
        ("0,30 8-10/2 * * 0", "2026-11-22 08:30", "2026-11-22 10:00"),
    ],
)
def test_cron_is_due_at_the_first_minute_behind_that_fits(cron: str, start: str, due: str) -> None:
    assert parse_cron(cron).next_after(at(start)) == at(due)


@pytest.mark.parametrize(
    "cron",
    ["", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "5-1 * * * *", "*/0 * * * *",
     "a * * * *", "1,,2 * * * *", "-1 * * * *", "0 0 30 2 *", "@daily", "² * * * *"],
)  # fmt: skip
def test_what_is_no_cron_is_refused(cron: str) -> None:
    with pytest.raises(ValueError):
        parse_cron(cron)


def test_an_interval_counts_from_the_start_and_nothing_is_never_due() -> None:
    start = at("2026-11-23 06:00")
    assert Schedule(interval_s=60).next_after(start) == start + timedelta(minutes=1)
    assert Schedule().next_after(start) is None
