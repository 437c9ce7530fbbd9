"""Which alerts are told now, which are held back, and which say nothing new.

Once a kind of alert was told about a subject, its like are held back for the quiet period. What was held back is told
behind it, as one: so nothing that lasts stays untold, and nothing that flaps is told more than twice in a period, as
begun and as over. That something is over is told only where operators believe that it goes on.

All of it is arithmetic over `Known`; whoever keeps that keeps it under a lock.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from dari.core.alerts import ENDS, LASTING, Alert

_STALE_PERIODS = 2
"""A lasting alert is said again each period as long as it goes on. One that was not, for so many, has ended while its
server was down: the next one is news."""


@dataclass(frozen=True, slots=True)
class Known:
    """What operators know of one kind of alert about one subject."""

    quiet_until: datetime | None = None
    """None: they were never told."""
    heard_time: datetime | None = None
    """When it was last reported, told or not."""
    goes_on: bool = False
    """They were told that it began, and not that it is over."""
    is_held: bool = False
    """An alert waits for the end of the quiet period."""
    held_back: int = 0
    """How often it happened since they were last told."""


class Verdict(Enum):
    """What becomes of an alert."""

    TELL = "TELL"
    HOLD = "HOLD"
    """In place of the one that was held before it."""
    DROP = "DROP"


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict, and what is known behind it."""

    verdict: Verdict
    known: Known
    held_back: int = 0
    """With TELL: how many that were not told stand behind this one."""


def decide(known: Known, alert: Alert, quiet: timedelta, now: datetime) -> Decision:
    """About an alert that says that something happened, or began. `known` is of its kind and subject."""
    known, heard_time = replace(known, heard_time=now), known.heard_time
    if known.goes_on and heard_time is not None and now < heard_time + _STALE_PERIODS * quiet:
        return Decision(Verdict.DROP, known)
    if known.quiet_until is not None and alert.happen_time < known.quiet_until:
        return Decision(Verdict.HOLD, replace(known, is_held=True, held_back=known.held_back + alert.times))
    return _told(known, alert, known.held_back + alert.times, alert.happen_time + quiet)


def decide_held(known: Known, alert: Alert, quiet: timedelta, now: datetime) -> Decision:
    """About the alert that is held, at any later time."""
    if known.quiet_until is not None and now < known.quiet_until:
        return Decision(Verdict.HOLD, known)
    return _told(known, alert, known.held_back, now + quiet)


def decide_end(known: Known, now: datetime) -> Decision:
    """About one of ENDS; `known` is of one of the kinds that it ends."""
    over = replace(known, heard_time=now, goes_on=False, is_held=False)
    return Decision(Verdict.TELL if known.goes_on else Verdict.DROP, over)


def is_end(alert: Alert) -> bool:
    """Whether it says that something is over."""
    return alert.kind in ENDS


def _told(known: Known, alert: Alert, times: int, quiet_until: datetime) -> Decision:
    told = replace(known, quiet_until=quiet_until, goes_on=alert.kind in LASTING, is_held=False, held_back=0)
    return Decision(Verdict.TELL, told, max(0, times - 1))
