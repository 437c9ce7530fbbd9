"""Whether a quantity that was sampled over time stays flat: the judge of the soak."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through the samples behind the warm-up."""

    per_hour: float
    """By the median of all slopes between two samples (Theil-Sen): a peak now and then does not tilt it."""
    growth: float
    """By how much the line rises from its first sample to its last."""
    level: float
    """The median."""

    def is_flat(self, allowed_growth: float) -> bool:
        """Whether it rises by no more than this over the samples. To fall is flat."""
        return self.growth <= allowed_growth


_MOST_POINTS = 400
"""Pairs grow with the square; more samples than this are thinned by medians of neighbours."""


def slope_of(samples: Sequence[tuple[float, float]], warm_up_share: float = 0.25) -> Slope:
    """`samples` are (seconds, value) in order of time; the first share of the time is left out.

    Raises ValueError where fewer than three are left: of those nothing can be said.
    """
    if not samples:
        raise ValueError("no samples")
    begin_s, end_s = samples[0][0], samples[-1][0]
    kept = [one for one in samples if one[0] >= begin_s + warm_up_share * (end_s - begin_s)]
    if len(kept) < 3:
        raise ValueError(f"{len(kept)} samples behind the warm-up are too few")
    points = _thinned(kept)
    slopes = [
        (later - value) / (then_s - at_s)
        for place, (at_s, value) in enumerate(points)
        for then_s, later in points[place + 1 :]
        if then_s > at_s
    ]
    per_s = statistics.median(slopes)
    return Slope(3_600 * per_s, per_s * (kept[-1][0] - kept[0][0]), statistics.median(value for _, value in kept))


def _thinned(samples: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    size = -(-len(samples) // _MOST_POINTS)
    groups = [samples[at : at + size] for at in range(0, len(samples), size)]
    return [(statistics.median(at for at, _ in one), statistics.median(value for _, value in one)) for one in groups]
