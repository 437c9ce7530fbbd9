"""How much a fetch of a source may take: bytes in all, and time from its first packet to its last."""

import threading
import time
from dataclasses import dataclass
from typing import BinaryIO

from dari.core.sync import SourceFailed


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What a fetch may take."""

    max_bytes: int
    timeout_s: float
    """From its first packet to its last, however often it breaks and goes on."""


class FetchBounds:
    """One fetch under its limits, from now on. Used by the thread that fetches."""

    def __init__(self, limits: FetchLimits, stopped: threading.Event) -> None:
        self._max_bytes = limits.max_bytes
        self._ends_s = time.monotonic() + limits.timeout_s
        self._stopped = stopped

    def remaining_s(self) -> float:
        """How long it may still take. Raises SourceFailed where it may not go on."""
        if self._stopped.is_set():
            raise SourceFailed("stopped")
        remaining_s = self._ends_s - time.monotonic()
        if remaining_s <= 0:
            raise SourceFailed("timeout")
        return remaining_s

    def pause(self, pause_s: float) -> None:
        """Wait, no longer than it may take. Raises SourceFailed where it may not go on then."""
        self._stopped.wait(min(pause_s, self.remaining_s()))
        self.remaining_s()

    def take(self, piece: bytes, into: BinaryIO) -> None:
        """Write one more piece of the content. Raises SourceFailed where it may not go on."""
        self.remaining_s()
        if into.tell() + len(piece) > self._max_bytes:
            raise SourceFailed("too_large")
        into.write(piece)
