"""How long a failure that may pass is waited for, and how long each pause in between is."""

import random
import time

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
"""Between these two the pause doubles. The pause taken is a random 50 to 100 % of it."""


class Outage:
    """Begins with a failure, ends with progress, and is given up after `give_up_after_s`. Of one thread."""

    def __init__(self, give_up_after_s: float) -> None:
        self._give_up_after_s = give_up_after_s
        self._began_s: float | None = None
        self._pause_s = FIRST_PAUSE_S

    @property
    def lasted_s(self) -> float:
        """Since its first failure; 0 where there is none."""
        return 0.0 if self._began_s is None else time.monotonic() - self._began_s

    def end(self) -> None:
        """There was progress: the next failure begins another outage."""
        self._began_s = None
        self._pause_s = FIRST_PAUSE_S

    def next_pause_s(self) -> float | None:
        """Count a failure. How long to wait before the next try; None where it has lasted too long."""
        if self._began_s is None:
            self._began_s = time.monotonic()
        left_s = self._give_up_after_s - self.lasted_s
        if left_s <= 0:
            return None
        pause_s = self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - it spreads reconnects
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)
        return min(left_s, pause_s)
