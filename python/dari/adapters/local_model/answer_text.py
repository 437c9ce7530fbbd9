"""Turns what an engine writes, piece by piece, into text that is fit to be shown.

Three things are held back: half of a character, the beginning of what may become a stop text, and an answer that
goes round in circles, which small models do.
"""

import codecs
import re

_CIRCLE = re.compile(r"(.{12,160}?)\1{3,}\Z", re.DOTALL)
"""The same 12 to 160 characters, four times in a row, at the end. Shorter ones occur in honest answers (dashes)."""
_CIRCLE_WINDOW_CHARS = 4 * 160
_CIRCLE_CHECK_EVERY_CHARS = 64


class AnswerText:
    """Collects one answer. Not thread-safe.

    Invariant: all text given out so far is a prefix of the answer that ends before the first stop text.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._held = ""
        self._tail = ""
        self._unchecked_chars = 0
        self.is_finished = False
        """A stop text came, or the answer repeats itself: nothing more will be given out."""

    def push_bytes(self, data: bytes) -> str:
        """The text that `data` makes certain; broken UTF-8 is left out."""
        return self.push(self._decoder.decode(data))

    def push(self, text: str) -> str:
        """The text that `text` makes certain, maybe none."""
        if self.is_finished:
            return ""
        # NUL too: PostgreSQL stores no text that holds one.
        self._held += text.replace("\ufffd", "").replace("\0", "")
        at = min((found for stop in self._stops if (found := self._held.find(stop)) >= 0), default=-1)
        if at >= 0:
            self.is_finished = True
            return self._give(at)
        return self._give(len(self._held) - self._undecided_chars())

    def flush(self) -> str:
        """What was held back, once the engine has ended by itself."""
        return "" if self.is_finished else self._give(len(self._held))

    def _undecided_chars(self) -> int:
        """Length of the longest end of the held text with which some stop text begins."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0

    def _give(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        self._tail = (self._tail + text)[-_CIRCLE_WINDOW_CHARS:]
        self._unchecked_chars += len(text)
        if self._unchecked_chars >= _CIRCLE_CHECK_EVERY_CHARS:
            self._unchecked_chars = 0
            self.is_finished = self.is_finished or _CIRCLE.search(self._tail) is not None
        return text
