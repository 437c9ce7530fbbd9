"""Keeps the embedded server alive: it starts again when it ended by itself, under the same DSNs.

The first time at once, then with a growing wait. Meanwhile a transaction raises `Unavailable`, and the pool finds the
new server by itself, since a broken connection is not kept.
"""

import threading
import time
from types import TracebackType
from typing import Self

from dari.adapters.postgres.embedded import EmbeddedPostgres
from dari.adapters.postgres.server_account import EmbeddedPostgresError
from dari.core.event_log import EventLog

_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 30.0
_HEALTHY_AFTER_S = 60.0
"""A server that ran for so long has paid for the deaths before it."""


class PostgresKeeper:
    """Starts `server`, keeps it alive, stops it. `start` and `stop` are called by its owner, `interrupt` by anyone."""

    def __init__(self, server: EmbeddedPostgres, log: EventLog) -> None:
        self._server = server
        self._log = log
        self._closing = threading.Event()
        # Guards starting and stopping the server.
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the server; raises EmbeddedPostgresError. From then on it is kept."""
        self._server.start()
        self._thread = threading.Thread(
            target=self._keep, args=(self._server.ended,), name="postgres-keeper", daemon=True
        )
        self._thread.start()

    def interrupt(self) -> None:
        """End a start that goes on, and let no other begin; `stop` must follow."""
        self._closing.set()
        self._server.interrupt()

    def stop(self) -> None:
        """Stop the server for good."""
        self.interrupt()
        with self._lock:
            self._server.stop()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _keep(self, ended: threading.Event) -> None:
        delay_s = 0.0
        while True:
            started_s = time.monotonic()
            ended.wait()
            if self._closing.is_set():
                return
            self._log.error("embedded_postgres_ended")
            if time.monotonic() - started_s >= _HEALTHY_AFTER_S:
                delay_s = 0.0
            while not self._closing.wait(delay_s):
                delay_s = min(max(2 * delay_s, _FIRST_DELAY_S), _LONGEST_DELAY_S)
                restarted = self._restart(delay_s)
                if restarted is not None:
                    ended = restarted
                    break
            else:
                return

    def _restart(self, next_delay_s: float) -> threading.Event | None:
        """Start the server again: what tells its next end, or None where it did not start."""
        with self._lock:
            if self._closing.is_set():
                return None
            self._server.stop()
            try:
                self._server.start()
            except EmbeddedPostgresError as error:
                self._log.error(
                    "embedded_postgres_not_restarted", error_type=type(error).__name__, next_try_s=next_delay_s
                )
                return None
            self._log.info("embedded_postgres_restarted", pid=self._server.pid)
            return self._server.ended
