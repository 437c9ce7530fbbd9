"""Lets callers watch what changes, each on the thread of its call, and none after the server's end."""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

from dari.core.errors import Unavailable

LOOK_INTERVAL_S = 0.5


class Watching:
    """Gives watchers their rhythm. Thread-safe."""

    def __init__(self, interval_s: float = LOOK_INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._lock = threading.Lock()  # guards both below
        self._wake_ups: set[threading.Event] = set()
        """One for each watcher: set when it is to look up, because its caller left or the server stops."""
        self._is_stopping = False

    def looks(self, on_caller_left: Callable[[Callable[[], None]], object]) -> Generator[None]:
        """Give the word to look at once, then after each interval, until the caller has left.

        `on_caller_left` is given a function to call, from any thread, when the caller goes away: whoever waits here for
        the next look is free at once. Raises Unavailable where this server stops.
        """
        with self._place() as wake_up:
            on_caller_left(wake_up.set)
            while not wake_up.is_set():
                yield
                wake_up.wait(self._interval_s)
            if self._is_stopping:
                raise Unavailable("This server is stopping; watch again.", {"neighbour": "server"})

    def stop(self) -> None:
        """Let all who watch go, and nobody begin."""
        with self._lock:
            self._is_stopping = True
            for wake_up in self._wake_ups:
                wake_up.set()

    @contextmanager
    def _place(self) -> Iterator[threading.Event]:
        wake_up = threading.Event()
        with self._lock:
            self._wake_ups.add(wake_up)
            if self._is_stopping:
                wake_up.set()
        try:
            yield wake_up
        finally:
            with self._lock:
                self._wake_ups.discard(wake_up)
