"""Strikes at chosen moments of an upload, and looks whether the client was told the truth until then."""

import random
import threading
from collections.abc import Callable

import psycopg2.extensions

from dari.client import Progress

MOST_KILLS = 3


class Killer:
    """Calls `kill` at chosen moments of an upload: a number of answers after the last kill, and a bit later.

    With `committed`, which reads the committed offset, each answer is compared with what the database has.
    """

    def __init__(
        self, chance: random.Random, kill: Callable[[], None], committed: Callable[[], int] | None = None
    ) -> None:
        self._left = [chance.randrange(1, 12) for _ in range(chance.randrange(1, MOST_KILLS + 1))]
        self._delay_s = [chance.choice([0.0, 0.002, 0.01, 0.05]) for _ in self._left]
        self._kill = kill
        self._committed = committed
        self._answers = 0
        self._running: threading.Thread | None = None
        self.kills = 0

    def on_progress(self, progress: Progress) -> None:
        if progress.pause_cause is not None:
            return
        if self._committed is not None:
            assert self._committed() >= progress.committed_bytes, "the client was told more than is safe"
        if not self._left or (self._running and self._running.is_alive()):
            return
        self._answers += 1
        if self._answers >= self._left[-1]:
            self._answers = 0
            self._left.pop()
            self.kills += 1
            timer = threading.Timer(self._delay_s.pop(), self._kill)
            timer.start()
            self._running = timer

    def join(self) -> None:
        if self._running is not None:
            self._running.join()


def committed_offset(session: psycopg2.extensions.connection, upload_id: str) -> int:
    with session.cursor() as cursor:
        cursor.execute("SELECT committed_offset_bytes FROM dari.uploads WHERE id = %s", (upload_id,))
        ((offset,),) = cursor.fetchall()
    assert isinstance(offset, int)
    return offset
