"""The frames between the supervisor and its child: a four-byte big-endian length, then one JSON object in UTF-8.

Supervisor to child: `load` once, then `ask` and `cancel`. Child to supervisor: `ready` or `failed` once, then for
every `ask` any number of `piece` and exactly one of `done`, `error`. A `ping`, at any time, is answered by a `pong`.
The field "type" names the frame.
"""

import json
import struct
from collections.abc import Iterator
from typing import Any

MAX_FRAME_BYTES = 8 * 1024 * 1024
"""Longer frames are a defect or an attack: a prompt is bounded long before."""

EXIT_NO_MEMORY = 5
"""Exit status of a child whose allocation failed: the one death that it can explain."""

_LENGTH = struct.Struct(">I")

Frame = dict[str, Any]


class ProtocolError(Exception):
    """The other side sent what is no frame; the connection is of no more use."""


def encode(frame: Frame) -> bytes:
    """The bytes of one frame. Raises `ProtocolError` beyond `MAX_FRAME_BYTES`."""
    body = json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode("utf-8", errors="replace")
    if len(body) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {len(body)} bytes is longer than {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


class FrameDecoder:
    """Collects received bytes and gives whole frames. Not thread-safe."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield every frame that `data` completes. Raises `ProtocolError` for what is no frame."""
        self._received += data
        while len(self._received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received)
            if length > MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame announces {length} bytes, more than {MAX_FRAME_BYTES}")
            end = _LENGTH.size + length
            if len(self._received) < end:
                return
            body = bytes(self._received[_LENGTH.size : end])
            del self._received[:end]
            yield _parse(body)


def _parse(body: bytes) -> Frame:
    try:
        frame = json.loads(body)
    except ValueError as error:
        raise ProtocolError("a frame is not JSON") from error
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise ProtocolError("a frame is not an object with a type")
    return frame
