"""Thread pools for whose end one can wait, and one that counts the work that it has."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class EndingPool(ThreadPoolExecutor):
    """A pool for whose end one can wait with a limit."""

    def __init__(self, size: int, name: str) -> None:
        self._started: list[threading.Thread] = []
        super().__init__(size, name, initializer=lambda: self._started.append(threading.current_thread()))
        self.name = name
        self.size = size

    def has_ended_within(self, timeout_s: float) -> bool:
        """Take no more work; whether all threads have ended, at the latest after `timeout_s`."""
        self.shutdown(wait=False)
        deadline_s = time.monotonic() + timeout_s
        for thread in tuple(self._started):
            thread.join(max(0.0, deadline_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._started)


class Lane(EndingPool):
    """The threads of one kind of calls, and the limit of how many of these may be under way: running or waiting.

    Whoever submits asks `has_room` before. Where one thread alone submits, as gRPC's serving thread does, nothing comes
    between the question and the work. A place is taken by `submit` and freed when the work has ended, also where it was
    cancelled before it began: so none can be lost on the way.
    """

    def __init__(self, limit: int, limit_name: str, *, threads: int | None = None, remedy: str = "") -> None:
        """`limit_name` is the setting that holds it; `remedy` what a caller who is refused can do but wait."""
        super().__init__(limit if threads is None else min(threads, limit), limit_name)
        self.limit = limit
        self.limit_name = limit_name
        self.remedy = remedy
        self._lock = threading.Lock()  # guards the two below
        self._under_way = 0
        self._refused = 0

    @property
    def under_way(self) -> int:
        """Calls that run or wait for a thread."""
        return self._under_way

    @property
    def refused(self) -> int:
        """Calls since the start that found no room."""
        return self._refused

    def has_room(self) -> bool:
        """Whether one more may be submitted."""
        return self._under_way < self.limit

    def count_refusal(self) -> None:
        """Somebody asked, and there was no room."""
        with self._lock:
            self._refused += 1

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See Executor."""
        future = super().submit(fn, *args, **kwargs)
        with self._lock:
            self._under_way += 1
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Future[Any]) -> None:
        del future
        with self._lock:
            self._under_way -= 1


class SameThread(ThreadPoolExecutor):
    """A pool without threads: what is submitted is done at once by whoever submits it. For work that never waits."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See Executor."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - the future carries it, as that of any pool
            future.set_exception(error)
        return future
