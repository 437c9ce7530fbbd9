"""Where the rows of a knowledge base come from by themselves, as an operator says it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

from dari.core.errors import FieldViolation
from dari.core.schedules import NEVER, Schedule, parse_cron

DEFAULT_MAX_SHRINK_SHARE = 0.5
_MIN_INTERVAL_S = 10
_MAX_INTERVAL_S = 366 * 86_400
_URI = re.compile(r"[a-z][a-z0-9+.-]*://[^\x00-\x20\x7f]+")
_SECRET_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class OnShrink(Enum):
    """What is done when a source has lost many of its rows."""

    HOLD = "HOLD"
    ACCEPT = "ACCEPT"


@dataclass(frozen=True, slots=True)
class KnowledgeBaseSource:
    """The source of a knowledge base."""

    uri: str
    credentials_secret: str = ""
    """Name of a secret of the settings, or empty."""
    schedule: Schedule = NEVER
    on_shrink: OnShrink = OnShrink.HOLD
    max_shrink_share: float = DEFAULT_MAX_SHRINK_SHARE
    """Share of the rows before that may go without being many, 0 to 1."""
    key_columns: tuple[str, ...] = ()
    """Name a row; empty: the whole row does."""
    paused: bool = False

    def violations(self) -> Iterator[FieldViolation]:
        """Every field that is out of range, by its path in a KnowledgeBase message."""
        if not _is_usable(self.uri):
            yield FieldViolation(
                "source.uri", "must be file:///…, https://…, http://… or another URI of one file, without a password"
            )
        if self.credentials_secret and not _SECRET_NAME.fullmatch(self.credentials_secret):
            yield FieldViolation("source.credentials_secret", "must be the name of a secret in the server's settings")
        yield from self._schedule_violations()
        if not 0 <= self.max_shrink_share <= 1:
            yield FieldViolation("source.max_shrink_share", "must be 0 to 1")
        if len(self.key_columns) != len(set(self.key_columns)) or any("\0" in name for name in self.key_columns):
            yield FieldViolation("source.key_columns", "must be names of columns, each once")

    def holds(self, rows_before: int, rows_found: int) -> bool:
        """Whether so few rows wait for a person."""
        return self.on_shrink is OnShrink.HOLD and rows_found < rows_before * (1 - self.max_shrink_share)

    def _schedule_violations(self) -> Iterator[FieldViolation]:
        schedule = self.schedule
        if schedule.interval_s and schedule.cron:
            yield FieldViolation("source.cron", "must not be set beside an interval")
        if schedule.interval_s and not _MIN_INTERVAL_S <= schedule.interval_s <= _MAX_INTERVAL_S:
            yield FieldViolation("source.interval", "must be 10 s to 366 days")
        if schedule.cron:
            try:
                parse_cron(schedule.cron)
            except ValueError as error:
                yield FieldViolation("source.cron", str(error))


def _is_usable(uri: str) -> bool:
    if not 1 <= len(uri) <= 2_048 or not _URI.fullmatch(uri):
        return False
    try:
        parts = urlsplit(uri)
        is_open = parts.username is None and parts.password is None and parts.port != 0
    except ValueError:
        return False
    return is_open and "*" not in parts.path and not uri.endswith("/")
