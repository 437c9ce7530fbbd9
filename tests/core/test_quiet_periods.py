"""What is told now, held back, or dropped: at most two messages a period, and the truth at its end."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dari.core.alerts import ENDS, LASTING, Alert, AlertKind
from dari.core.quiet_periods import Known, Verdict, decide, decide_end, decide_held, is_end

QUIET = timedelta(seconds=900)
START = datetime(2026, 1, 1, tzinfo=UTC)
OPENED, CLOSED = AlertKind.CIRCUIT_OPENED, AlertKind.CIRCUIT_CLOSED
UPLOAD = AlertKind.UPLOAD_FAILED
DIED, CANNOT_LOAD, READY = (
    AlertKind.LOCAL_MODEL_DIED,
    AlertKind.LOCAL_MODEL_CANNOT_LOAD,
    AlertKind.LOCAL_MODEL_READY,
)

Told = tuple[float, AlertKind, int]
"""When, what, and how often that had happened untold."""


@dataclass
class Matter:
    """One subject, and all that its operators are told; the bookkeeping of an outbox without the outbox."""

    known: dict[AlertKind, Known] = field(default_factory=dict)
    held: dict[AlertKind, Alert] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)

    def hear(self, at_s: float, kind: AlertKind, times: int = 1) -> None:
        now = START + timedelta(seconds=at_s)
        alert = Alert(kind, "s", times=times, happen_time=now)
        if is_end(alert):
            verdicts = []
            for ended in ENDS[kind]:
                decision = decide_end(self.known.get(ended, Known()), now)
                self.known[ended] = decision.known
                self.held.pop(ended, None)
                verdicts.append(decision.verdict)
            if Verdict.TELL in verdicts:
                self.told.append((at_s, kind, 0))
            return
        decision = decide(self.known.get(kind, Known()), alert, QUIET, now)
        self.known[kind] = decision.known
        if decision.verdict is Verdict.TELL:
            self.held.pop(kind, None)
            self.told.append((at_s, kind, decision.held_back))
        elif decision.verdict is Verdict.HOLD:
            self.held[kind] = alert

    def pass_time(self, at_s: float) -> None:
        """A round in which nothing new came."""
        now = START + timedelta(seconds=at_s)
        for kind, alert in list(self.held.items()):
            decision = decide_held(self.known[kind], alert, QUIET, now)
            self.known[kind] = decision.known
            if decision.verdict is Verdict.TELL:
                del self.held[kind]
                self.told.append((at_s, kind, decision.held_back))


STORIES: list[tuple[str, list[tuple[float, AlertKind | None, int]], list[Told]]] = [
    # what happens, (when, kind or nothing new, times), what is told
    ("once", [(0, UPLOAD, 1)], [(0, UPLOAD, 0)]),
    (
        "again in the quiet period, then told as one",
        [(0, UPLOAD, 1), (10, UPLOAD, 1), (20, UPLOAD, 3), (899, None, 0), (900, None, 0)],
        [(0, UPLOAD, 0), (900, UPLOAD, 3)],
    ),
    ("again behind it", [(0, UPLOAD, 1), (901, UPLOAD, 1)], [(0, UPLOAD, 0), (901, UPLOAD, 0)]),
    (
        "again behind it, with some held that no round saw",
        [(0, UPLOAD, 1), (10, UPLOAD, 1), (901, UPLOAD, 1)],
        [(0, UPLOAD, 0), (901, UPLOAD, 1)],
    ),
    ("counted before it was told", [(0, UPLOAD, 5)], [(0, UPLOAD, 4)]),
    ("opens and closes", [(0, OPENED, 1), (5, CLOSED, 1)], [(0, OPENED, 0), (5, CLOSED, 0)]),
    ("closes without a word of opening", [(0, CLOSED, 1)], []),
    (
        "flaps and ends closed",
        [(0, OPENED, 1), (5, CLOSED, 1), (10, OPENED, 1), (15, CLOSED, 1), (900, None, 0)],
        [(0, OPENED, 0), (5, CLOSED, 0)],
    ),
    (
        "flaps and stays open",
        [(0, OPENED, 1), (5, CLOSED, 1), (10, OPENED, 1), (15, CLOSED, 1), (20, OPENED, 1), (900, None, 0)],
        [(0, OPENED, 0), (5, CLOSED, 0), (900, OPENED, 1)],
    ),
    (
        "two servers see it open, one of them sees it close and the other not",
        [(0, OPENED, 1), (1, OPENED, 1), (60, CLOSED, 1), (901, OPENED, 0)],
        [(0, OPENED, 0), (60, CLOSED, 0), (901, OPENED, 0)],
    ),
    (
        "open for hours, as is said each period",
        [(0, OPENED, 1), *((900 * n, OPENED, 0) for n in range(1, 20)), (20_000, CLOSED, 1)],
        [(0, OPENED, 0), (20_000, CLOSED, 0)],
    ),
    (
        "its server went down while it was open, and it opens again on another day",
        [(0, OPENED, 1), (86_400, OPENED, 1)],
        [(0, OPENED, 0), (86_400, OPENED, 0)],
    ),
    (
        "two troubles with one end",
        [(0, DIED, 1), (1, CANNOT_LOAD, 1), (60, READY, 1), (61, READY, 1)],
        [(0, DIED, 0), (1, CANNOT_LOAD, 0), (60, READY, 0)],
    ),
]


@pytest.mark.parametrize(("story", "told"), [story[1:] for story in STORIES], ids=[story[0] for story in STORIES])
def test_what_operators_are_told(story: list[tuple[float, AlertKind | None, int]], told: list[Told]) -> None:
    matter = Matter()
    for at_s, kind, times in story:
        if kind is None:
            matter.pass_time(at_s)
        else:
            matter.hear(at_s, kind, times)
    assert matter.told == told


@given(st.lists(st.tuples(st.floats(0, 120), st.sampled_from([OPENED, CLOSED])), max_size=60))
def test_nothing_flaps_into_more_than_two_messages_a_period_and_the_last_word_is_true(
    steps: list[tuple[float, AlertKind]],
) -> None:
    matter, now_s = Matter(), 0.0
    for pause_s, kind in steps:
        now_s += pause_s
        matter.pass_time(now_s)
        matter.hear(now_s, kind)
    matter.pass_time(now_s + QUIET.total_seconds())
    openings = [at_s for at_s, kind, _ in matter.told if kind is OPENED]
    assert all(later - earlier >= QUIET.total_seconds() - 1e-3 for earlier, later in pairwise(openings))
    kinds = [kind for _, kind, _ in matter.told]
    assert all(one is not other for one, other in pairwise(kinds)), "begun and over by turns"
    was_open = bool(steps) and steps[-1][1] is OPENED
    assert (bool(kinds) and kinds[-1] is OPENED) == was_open


@given(st.lists(st.tuples(st.floats(0, 2_000), st.integers(1, 5)), min_size=1, max_size=40))
def test_nothing_that_happened_stays_untold_or_is_counted_twice(steps: list[tuple[float, int]]) -> None:
    matter, now_s = Matter(), 0.0
    for pause_s, times in steps:
        now_s += pause_s
        matter.pass_time(now_s)
        matter.hear(now_s, UPLOAD, times)
    matter.pass_time(now_s + QUIET.total_seconds())
    assert sum(1 + held_back for _, _, held_back in matter.told) == sum(times for _, times in steps)


def test_what_lasts_has_an_end_and_what_ends_something_does_not_last() -> None:
    assert not LASTING & set(ENDS)
