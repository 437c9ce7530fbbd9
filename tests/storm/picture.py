"""The timeline of one run as an SVG: who answered, which neighbour failed, what the circuits said, how long it took."""

import math
from collections import Counter
from collections.abc import Iterator
from html import escape
from itertools import pairwise

from tests.storm.report import answerer_of
from tests.storm.storm import Outcome

_WIDTH, _LEFT, _RIGHT = 1_400, 110, 20
_PLOT = _WIDTH - _LEFT - _RIGHT
_BUCKETS = 130
_LANE = 22
_COLOURS = {
    "first": "#2f6fb3",
    "second": "#7fb2e5",
    "local": "#e0a030",
    "rows": "#6aa84f",
    "incomplete": "#9b7fc7",
    "cancelled": "#bdbdbd",
    "refused": "#555555",
    "late": "#222222",
    "wrong": "#d62728",
}
_FAULTS = {"killed": "#333333", "restarted": "#7a5230", "frozen": "#5aa0c8"}
_OF_MODEL = "#d98880"
"""Faults of the model behind Flowise."""
_STATES = {"closed": "#cfe8cf", "open": "#d9534f", "half_open": "#f0ad4e", "drained": "#999999"}
_FASTEST_S, _SLOWEST_S = 0.01, 30.0


def picture(outcome: Outcome) -> str:
    """The whole picture."""
    begin_s = min(one.seen.begin_s for one in outcome.judged)
    end_s = max(one.seen.end_s for one in outcome.judged)
    drawn = _Drawing(outcome, begin_s, end_s)
    body = "\n".join(drawn.panels())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {drawn.height}" font-family="sans-serif"'
        f' font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


class _Drawing:
    """Draws the panels one below the other; `height` is known when all are drawn."""

    def __init__(self, outcome: Outcome, begin_s: float, end_s: float) -> None:
        self._outcome = outcome
        self._begin_s = begin_s
        self._end_s = end_s
        self.height = 0

    def panels(self) -> Iterator[str]:
        yield from self._title()
        yield from self._answerers(160)
        yield from self._faults()
        yield from self._circuits()
        yield from self._latencies(260)
        yield from self._seconds()

    def _title(self) -> Iterator[str]:
        size = self._outcome.size
        yield _text(
            _LEFT,
            22,
            f"{size.turns} turns, {size.at_once} at once, {len(self._outcome.faults)} faults, seed"
            f" {self._outcome.seed}: {len(self._outcome.wrong)} wrong",
            size=16,
        )
        for place, (name, colour) in enumerate(_COLOURS.items()):
            yield _box(_LEFT + 90 * place, 34, 10, 10, colour, "")
            yield _text(_LEFT + 90 * place + 14, 43, name)
        self.height = 56

    def _answerers(self, height: float) -> Iterator[str]:
        """Calls that ended in each slice of time, stacked by who answered."""
        step_s = (self._end_s - self._begin_s) / _BUCKETS
        slices = [Counter[str]() for _ in range(_BUCKETS)]
        for one in self._outcome.judged:
            place = min(int((one.seen.end_s - self._begin_s) / step_s), _BUCKETS - 1)
            slices[place]["wrong" if one.complaints else answerer_of(one)] += 1
        most = max(counts.total() for counts in slices)
        bottom = self.height + height
        yield _text(4, self.height + 14, "calls ended")
        for place, counts in enumerate(slices):
            top = bottom
            for name, colour in _COLOURS.items():
                part = counts[name] / most * height
                top -= part
                if part:
                    yield _box(_LEFT + place * _PLOT / _BUCKETS, top, _PLOT / _BUCKETS - 1, part, colour, name)
        self.height = round(bottom) + 14

    def _faults(self) -> Iterator[str]:
        yield _text(4, self.height + 12, "faults")
        for place, (name, colour) in enumerate({**_FAULTS, "model": _OF_MODEL}.items()):
            yield _box(_LEFT + 90 * place, self.height + 2, 10, 10, colour, "")
            yield _text(_LEFT + 90 * place + 14, self.height + 12, name)
        self.height += 18
        for neighbour in sorted({fault.neighbour for fault in self._outcome.faults}):
            yield _text(4, self.height + 15, neighbour)
            for fault in self._outcome.faults:
                if fault.neighbour == neighbour:
                    colour = _FAULTS.get(fault.name, _OF_MODEL)
                    yield self._bar(fault.begin_s, fault.end_s, colour, f"{neighbour} {fault.name}")
            self.height += _LANE
        self.height += 10

    def _circuits(self) -> Iterator[str]:
        yield _text(4, self.height + 12, "circuits")
        for place, (name, colour) in enumerate(_STATES.items()):
            yield _box(_LEFT + 90 * place, self.height + 2, 10, 10, colour, "")
            yield _text(_LEFT + 90 * place + 14, self.height + 12, name)
        self.height += 18
        for model in sorted({seen.ai_model for seen in self._outcome.circuits}):
            yield _text(4, self.height + 15, model)
            looks = [seen for seen in self._outcome.circuits if seen.ai_model == model and seen.at_s <= self._end_s]
            turns = [looks[0], *(seen for before, seen in pairwise(looks) if before.state != seen.state)]
            for seen, then in pairwise([*turns, looks[-1]]):
                yield self._bar(seen.at_s, then.at_s, _STATES[seen.state], f"{model} {seen.state}")
            self.height += _LANE
        self.height += 10

    def _latencies(self, height: float) -> Iterator[str]:
        """One dot a call, at its end; the scale is logarithmic."""
        yield _text(4, self.height + 14, "seconds a call")
        for value_s in (0.01, 0.1, 1.0, 10.0):
            y = self.height + height - _share(value_s) * height
            yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e5e5"/>'
            yield _text(_LEFT - 34, y + 4, f"{value_s:g}")
        for one in self._outcome.judged:
            y = self.height + height - _share(one.seen.end_s - one.seen.begin_s) * height
            colour = _COLOURS["wrong"] if one.complaints else _COLOURS[answerer_of(one)]
            radius = 4 if one.complaints else 1.6
            yield f'<circle cx="{self._x(one.seen.end_s):.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>'
        self.height = round(self.height + height) + 6

    def _seconds(self) -> Iterator[str]:
        step_s = 10 ** math.floor(math.log10(max(self._end_s - self._begin_s, 1.0)))
        for place in range(int((self._end_s - self._begin_s) / step_s) + 1):
            yield _text(self._x(self._begin_s + place * step_s), self.height + 14, f"{place * step_s} s")
        self.height += 24

    def _bar(self, begin_s: float, end_s: float, colour: str, title: str) -> str:
        left, right = self._x(begin_s), self._x(min(end_s, self._end_s))
        return _box(left, self.height, max(right - left, 1.0), _LANE - 4, colour, title)

    def _x(self, at_s: float) -> float:
        return _LEFT + (at_s - self._begin_s) / (self._end_s - self._begin_s) * _PLOT


def _share(value_s: float) -> float:
    clipped_s = min(max(value_s, _FASTEST_S), _SLOWEST_S)
    return math.log(clipped_s / _FASTEST_S) / math.log(_SLOWEST_S / _FASTEST_S)


def _box(x: float, y: float, width: float, height: float, colour: str, title: str) -> str:
    told = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}">{told}</rect>'


def _text(x: float, y: float, text: str, *, size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}">{escape(text)}</text>'
