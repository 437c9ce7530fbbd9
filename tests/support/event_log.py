"""An event log that keeps what it is told, so that a test can wait for an event."""

import threading


class RecordedEvents:
    """An EventLog. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # its lock guards _events
        self._events: list[tuple[str, dict[str, object]]] = []

    def info(self, event: str, **fields: object) -> None:
        self._add(event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._add(event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._add(event, fields)

    def names(self) -> list[str]:
        """The events so far, in order."""
        with self._changed:
            return [name for name, _ in self._events]

    def fields(self, event: str) -> list[dict[str, object]]:
        """The fields of each event of this name."""
        with self._changed:
            return [fields for name, fields in self._events if name == event]

    def wait_for(self, event: str, count: int, timeout_s: float) -> bool:
        """Wait until the event has come so often; whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: sum(name == event for name, _ in self._events) >= count, timeout_s)

    def _add(self, event: str, fields: dict[str, object]) -> None:
        with self._changed:
            self._events.append((event, fields))
            self._changed.notify_all()
