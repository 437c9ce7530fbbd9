"""Where operators read what happened: names, ids, codes and numbers, never content."""

import traceback
from types import TracebackType
from typing import Protocol


class EventLog(Protocol):
    """Takes one event with its fields. Thread-safe."""

    def info(self, event: str, **fields: object) -> object: ...
    def warning(self, event: str, **fields: object) -> object: ...
    def error(self, event: str, **fields: object) -> object: ...


def failure_fields(kind: type[BaseException] | None, trace: TracebackType | None) -> dict[str, object]:
    """The type of an exception and the way it came, as fields of an event. Its text is left out: it may hold values."""
    return {
        "error_type": kind.__qualname__ if kind else None,
        "raised_at": places_of(traceback.extract_tb(trace)),
    }


def places_of(frames: traceback.StackSummary) -> list[str]:
    """Where each frame stands, without the text of its line."""
    return [
        f"{frame.filename.rpartition('/python/')[2].rpartition('/site-packages/')[2]}:{frame.lineno} {frame.name}"
        for frame in frames
    ]
