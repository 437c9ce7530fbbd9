"""Waiting for what is bound to happen, without a guess at how long it takes."""

import time
from collections.abc import Callable

from tests.support.running_dari import SOON_S


def until(condition: Callable[[], bool], timeout_s: float = SOON_S) -> None:
    """Look again and again until it is so; fails after the timeout."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come about"
        time.sleep(0.01)
