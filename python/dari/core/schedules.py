"""When something is due: at an interval, or by the five fields of cron in UTC.

Cron as POSIX has it (crontab, XCU): minute, hour, day of the month, month, day of the week, each `*`, a number, a
range, a step or a list of these. Where both days are restricted, either makes a day fit. Names and `@daily` are not
read.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of the month", 1, 31), ("month", 1, 12), ("day of the week", 0, 7))
_MAX_CHARS = 100
_HORIZON_DAYS = 8 * 366 + 1
"""29 February may be eight years away, as from 2096 to 2104."""


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed line of five fields; make it with `parse_cron`."""

    minutes: frozenset[int]
    hours: frozenset[int]
    month_days: frozenset[int]
    months: frozenset[int]
    week_days: frozenset[int]
    """0 is Sunday."""
    any_month_day: bool
    any_week_day: bool

    def next_after(self, time: datetime) -> datetime | None:
        """The first fitting minute behind `time`; None where no day of a calendar fits (30 February)."""
        start = time.astimezone(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
        for days in range(_HORIZON_DAYS):
            day = start.date() + timedelta(days=days)
            if not self._fits(datetime(day.year, day.month, day.day, tzinfo=UTC)):
                continue
            for hour in sorted(self.hours):
                for minute in sorted(self.minutes):
                    found = datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)
                    if found >= start:
                        return found
        return None

    def _fits(self, day: datetime) -> bool:
        if day.month not in self.months:
            return False
        in_month, in_week = day.day in self.month_days, day.isoweekday() % 7 in self.week_days
        return in_month and in_week if self.any_month_day or self.any_week_day else in_month or in_week


def parse_cron(text: str) -> Cron:
    """Read five fields. Raises ValueError that says which of them is wrong."""
    parts = text.split()
    if len(parts) != len(_FIELDS) or len(text) > _MAX_CHARS:
        raise ValueError("must be the five fields of cron: minute hour day-of-month month day-of-week")
    minutes, hours, month_days, months, week_days = (
        _numbers(part, *field) for part, field in zip(parts, _FIELDS, strict=True)
    )
    cron = Cron(
        minutes,
        hours,
        month_days,
        months,
        frozenset(day % 7 for day in week_days),
        any_month_day=parts[2].startswith("*"),
        any_week_day=parts[4].startswith("*"),
    )
    if cron.next_after(datetime(2000, 1, 1, tzinfo=UTC)) is None:
        raise ValueError("must fit some day of the calendar")
    return cron


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a source is looked at; with neither, only when somebody asks."""

    interval_s: float = 0.0
    """0: none."""
    cron: str = ""
    """Valid for `parse_cron`, or empty."""

    def next_after(self, start: datetime) -> datetime | None:
        """When the look behind the one that started at `start` is due."""
        if self.cron:
            return parse_cron(self.cron).next_after(start)
        return start + timedelta(seconds=self.interval_s) if self.interval_s else None


NEVER = Schedule()
"""Only when somebody asks."""


def _numbers(text: str, name: str, least: int, most: int) -> frozenset[int]:
    found: set[int] = set()
    for item in text.split(","):
        span, has_step, step_text = item.partition("/")
        first, last = _span(span, name, least, most)
        if has_step and first == last and "-" not in span and span != "*":
            last = most
        step = _number(step_text, name, 1, most) if has_step else 1
        found.update(range(first, last + 1, step))
    return frozenset(found)


def _span(text: str, name: str, least: int, most: int) -> tuple[int, int]:
    if text == "*":
        return least, most
    first_text, is_range, last_text = text.partition("-")
    first = _number(first_text, name, least, most)
    last = _number(last_text, name, least, most) if is_range else first
    if last < first:
        raise ValueError(f"has a {name} range that runs backwards")
    return first, last


def _number(text: str, name: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 2 and least <= int(text) <= most):
        raise ValueError(f"has a {name} that is not {least} to {most}")
    return int(text)
