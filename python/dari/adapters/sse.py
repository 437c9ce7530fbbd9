"""Decodes a stream of server-sent events from bytes, however they are cut into chunks.

Follows the event stream interpretation of the HTML standard (WHATWG, section 9.2.6), except that `id` and `retry`
are of no use to a client that never reconnects and are skipped with the unknown fields. It works on bytes because a
line ends at LF, CR or CRLF *only*: text APIs also cut at U+0085, U+2028 and U+2029, which Flowise sends raw inside
`data:` (httpx 0.28 `iter_lines` does). It is ours because httpx-sse 0.4.3 decodes text and bounds nothing.

How it works: `_line` holds the bytes of the line that has not ended yet, `_data` the `data` lines of the event that
has not ended yet. Invariant: the two together never exceed `max_event_bytes`, and no byte is looked at twice.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One dispatched event: its `event` field (mostly empty) and its `data` lines, joined by LF."""

    name: str
    data: bytes


class EventTooLarge(Exception):
    """A line, or the data of one event, is longer than the decoder may hold."""


class SseDecoder:
    """Turns chunks into events; an event that the stream's end leaves unfinished is dropped. Not thread-safe."""

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self.blank_lines = 0
        """How many have come: each ends an event, or what would be one if it had data."""
        self._line = bytearray()
        self._name = ""
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._first_line = True
        self._after_cr = False

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """Yield the events that end in this chunk; consume them all before the next `feed`.

        Raises `EventTooLarge`; the decoder is of no use afterwards.
        """
        if not chunk:
            return
        start = 1 if self._after_cr and chunk.startswith(b"\n") else 0
        self._after_cr = chunk.endswith(b"\r")
        for line_end in _LINE_END.finditer(chunk, start):
            self._hold(chunk[start : line_end.start()])
            start = line_end.end()
            event = self._take_line()
            if event is not None:
                yield event
        self._hold(chunk[start:])

    def _hold(self, part: bytes) -> None:
        if len(self._line) + len(part) + self._data_bytes > self._max_event_bytes:
            raise EventTooLarge
        self._line += part

    def _take_line(self) -> ServerSentEvent | None:
        line = bytes(self._line)
        self._line.clear()
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            self.blank_lines += 1
            return self._dispatch()
        field, _, value = line.partition(b":")  # a comment (`:heartbeat`) is a field without a name
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        event = ServerSentEvent(self._name, b"\n".join(self._data)) if self._data else None
        self._name, self._data, self._data_bytes = "", [], 0
        return event
