"""Which threads of this process are at work in dari, for tests that want none to be left behind."""

import sys
from types import FrameType

from tests.support.waiting import until

_SERVING = ("dari/rpc/", "dari/core/chat.py", "dari/core/chain.py")
"""Code that only a thread which answers a call is in."""


def threads_in(*files: str) -> int:
    """How many threads are inside of a function of these files, each named by a part of its path."""
    return sum(_is_in(files, frame) for frame in sys._current_frames().values())


def wait_until_no_call_is_served() -> None:
    """Return when no handler of a call, nor what it asked for, holds a thread any more."""
    until(lambda: threads_in(*_SERVING) == 0)


def _is_in(files: tuple[str, ...], frame: FrameType | None) -> bool:
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in files):
            return True
        frame = frame.f_back
    return False
