"""How much the fault tests do: little in CI, more by hand.

DARI_TEST_SEEDS=200 pytest tests/faults              as many seeds a test; 12 by default
DARI_TEST_BIG_BYTES=10000000000 pytest tests/faults  the size of the largest file; 64 MB by default
"""

import os
import random
from collections.abc import Sequence
from typing import TypeVar

FULL_SEEDS = 200
"""From so many seeds on nothing is left out."""

SEEDS = int(os.environ.get("DARI_TEST_SEEDS", "12"))
BIG_BYTES = int(os.environ.get("DARI_TEST_BIG_BYTES", "64000000"))

One = TypeVar("One")


def sampled(cases: Sequence[One], size: int = SEEDS) -> list[One]:
    """All cases where the run is a full one, else `size` of them, in order: the same in every run."""
    if SEEDS >= FULL_SEEDS or len(cases) <= size:
        return list(cases)
    places = random.Random(len(cases)).sample(range(len(cases)), size)
    return [cases[place] for place in sorted(places)]
