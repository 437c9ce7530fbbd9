"""Where operators read what happened: names, ids, codes and numbers, never content."""

from typing import Protocol


class EventLog(Protocol):
    """Takes one event with its fields. Thread-safe."""

    def info(self, event: str, **fields: object) -> object: ...
    def warning(self, event: str, **fields: object) -> object: ...
    def error(self, event: str, **fields: object) -> object: ...
