"""How long a thread waits for a neighbour that it could do without, and who ends the wait early.

A chat has something better to do than to wait for its database: models answer without it. What it asks of the database
passes through modules that know no callers, so the limit goes along with the thread: whoever can do without says so by
a `with` statement, and the adapter that waits asks `patience_of_this_thread`.
"""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

_threads = threading.local()


class Patience:
    """For one thread, from its creation on, inside a `with` statement; such statements are not nested.

    `end` may come from any thread, also before and behind the wait.
    """

    def __init__(self, limit_s: float) -> None:
        self._due = time.monotonic() + limit_s
        self._lock = threading.Lock()  # guards the two below
        self._is_over = False
        self._cut: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        _threads.patience = self
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _threads.patience = None

    @property
    def is_over(self) -> bool:
        """Whether `end` was called: nobody waits for the result any more."""
        with self._lock:
            return self._is_over

    def remaining_s(self) -> float:
        """How much longer the thread may wait; not below 0."""
        return max(0.0, self._due - time.monotonic())

    def end(self) -> None:
        """Cut the wait that is under way, and each to come."""
        with self._lock:
            self._is_over = True
            if self._cut is not None:
                self._cut()

    def cut_by(self, cut: Callable[[], None] | None) -> None:
        """What ends the wait that now begins, called at once where nobody waits any more; None when the wait is over.

        `cut` must not block, and is not called any more once this has returned for another.
        """
        with self._lock:
            self._cut = cut
            if self._is_over and cut is not None:
                cut()


def patience_of_this_thread() -> Patience | None:
    """None where the thread waits as long as the adapter thinks fit."""
    patience: Patience | None = getattr(_threads, "patience", None)
    return patience
