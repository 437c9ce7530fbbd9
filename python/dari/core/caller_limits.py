"""How much one caller may ask of this server: calls at once, and calls in a time.

The rate is a token bucket, kept as the one time at which it would be full (GCRA, as ATM's traffic contracts define it):
no timer fills it, and a caller costs one float. Each server has its own; behind a gateway that spreads calls evenly a
caller has as many times the rate as there are servers.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dari.core.callers import Caller
from dari.core.errors import RETRY_DELAY_S, CallRateExceeded, TooManyCalls

MAX_REMEMBERED = 10_000
"""Callers whose bucket is kept; beyond, those are forgotten whose bucket is full, which is the same as to know them."""

_Key = tuple[str, str]


class CallerLimits:
    """Lets calls begin, or refuses them. Thread-safe; waits for nothing."""

    def __init__(
        self,
        *,
        at_once: int | None,
        per_s: float | None,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """None is no limit."""
        self._at_once = at_once
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._lock = threading.Lock()  # guards all below
        self._under_way: dict[_Key, int] = {}
        self._full_at: dict[_Key, float] = {}
        self._refused = 0

    @property
    def refused(self) -> int:
        """Calls since the start that were beyond a limit of their caller."""
        return self._refused

    @contextmanager
    def call_of(self, caller: Caller) -> Iterator[None]:
        """For as long as a call of this caller is under way. Raises TooManyCalls, CallRateExceeded."""
        if self._at_once is None and self._per_s is None:
            yield
            return
        key = (caller.tenant, caller.name)
        with self._lock:
            self._check(key)
            self._under_way[key] = self._under_way.get(key, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                left = self._under_way.pop(key) - 1
                if left:
                    self._under_way[key] = left

    def _check(self, key: _Key) -> None:
        if self._at_once is not None and self._under_way.get(key, 0) >= self._at_once:
            self._refused += 1
            raise TooManyCalls.of(
                "caller_calls_at_once", self._at_once, "wait until one of yours has ended", RETRY_DELAY_S
            )
        if self._per_s is not None:
            self._take(key, self._per_s)

    def _take(self, key: _Key, per_s: float) -> None:
        now = self._clock()
        full_at = max(now, self._full_at.get(key, now))
        lacking_s = full_at - now - (self._burst - 1) / per_s
        if lacking_s > 0:
            self._refused += 1
            raise CallRateExceeded.of("caller_calls_per_s", per_s, lacking_s)
        self._full_at[key] = full_at + 1 / per_s
        if len(self._full_at) > MAX_REMEMBERED:
            self._full_at = {known: at for known, at in self._full_at.items() if at > now}
