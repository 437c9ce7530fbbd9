"""Which threads of this process are at work in dari, for tests that want none to be left behind."""

import sys
from types import FrameType

from tests.support.waiting import until

_SERVING = ("dari/rpc/", "dari/core/chat.py", "dari/core/chain.py")
"""Code that only a thread which answers a call is in."""


def threads_at_calls() -> int:
    """How many threads are inside a handler of a call, or inside of what it asked for."""
    return sum(map(_is_serving, sys._current_frames().values()))


def wait_until_no_call_is_served() -> None:
    """Return when no handler holds a thread any more."""
    until(lambda: threads_at_calls() == 0)


def _is_serving(frame: FrameType | None) -> bool:
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in _SERVING):
            return True
        frame = frame.f_back
    return False
