"""A stand-in for Flowise that answers at a set pace, for hundreds of streams from one thread.

    python -m bench.chat_flowise [PORT]         prints its port, serves until it is killed

What it sends are the frames of an answer that a real Flowise 3.1.4 sent (tests/data/flowise/03-predict-stream.raw), its
tokens again and again. Each token ends with the time at which it was sent, by the monotonic clock, which all processes
of a machine share: whoever takes it can tell how long it was on its way. The path before `/api/v1` says how to answer:

    /30-tokens/33-ms        so many tokens, with so many milliseconds between two
    /silent                 nothing at all, not even headers, on a connection that stays open

`GET /hang-ups` tells when connections were closed in the middle of an answer: a JSON list of the same clock.
"""

import argparse
import asyncio
import json
import re
import time
from pathlib import Path

CAPTURE = Path(__file__).parent.parent / "tests" / "data" / "flowise" / "03-predict-stream.raw"
FLOW_ID = "6dad48dd-6482-4fe5-904a-63caddb5f052"
STAMP = "@"
"""Stands before the time in a token."""
_PACE = re.compile(rb" /(\d+)-tokens/(\d+)-ms/api/v1/")
_CONTENT_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_LONGEST_REQUEST_BYTES = 1024 * 1024


class Capture:
    """A captured answer in its parts: each a list of whole HTTP chunks."""

    def __init__(self, raw: bytes) -> None:
        head, _, body = raw.partition(b"\r\n\r\n")
        self.head = head + b"\r\n\r\n"
        frames = list(_frames(body))
        tokens = [number for number, frame in enumerate(frames) if b'"event":"token"' in frame]
        self.before = b"".join(map(_chunk, frames[: tokens[0]]))
        self.tokens = [_token_text(frames[number]) for number in tokens]
        self.after = b"".join(map(_chunk, frames[tokens[-1] + 1 :])) + b"0\r\n\r\n"

    def token(self, number: int, now_s: float) -> bytes:
        """The chunk of one token, stamped."""
        text = json.dumps(f"{self.tokens[number % len(self.tokens)]}{STAMP}{now_s:.6f}")
        return _chunk(b'message:\ndata:{"event":"token","data":%s}\n\n' % text.encode())


def _frames(body: bytes) -> list[bytes]:
    """The data of each chunk of a chunked body, but for the empty last one."""
    frames = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if length:
            frames.append(rest[:length])
        body = rest[length + 2 :]
    return frames


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _token_text(frame: bytes) -> str:
    text: str = json.loads(frame.partition(b"data:")[2])["data"]
    return text


class Answering(asyncio.Protocol):
    """One connection."""

    def __init__(self, capture: Capture, hang_ups: list[float]) -> None:
        self._capture = capture
        self._hang_ups = hang_ups
        self._received = b""
        self._next: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._next is not None:
            self._next.cancel()
            self._hang_ups.append(time.monotonic())

    def data_received(self, data: bytes) -> None:
        """Answer when a request is whole; the client sends the next one behind the answer."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _CONTENT_LENGTH.search(head)
        if len(self._received) > _LONGEST_REQUEST_BYTES:
            self._transport.abort()
        elif end and len(body) >= (int(length[1]) if length else 0):
            self._received = b""
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        line = head.partition(b"\r\n")[0]
        pace = _PACE.search(line)
        if line.startswith(b"GET /hang-ups"):
            self._send_json(self._hang_ups)
        elif line.startswith(b"GET"):
            self._send_json({"isStreaming": True})
        elif pace is not None:
            self._transport.write(self._capture.head + self._capture.before)
            self._send_token(0, int(pace[1]), asyncio.get_running_loop().time(), int(pace[2]) / 1_000)

    def _send_json(self, value: object) -> None:
        body = json.dumps(value).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)

    def _send_token(self, number: int, count: int, due_s: float, gap_s: float) -> None:
        if number == count:
            self._next = None
            self._transport.write(self._capture.after)
            return
        self._transport.write(self._capture.token(number, time.monotonic()))
        due_s += gap_s
        loop = asyncio.get_running_loop()
        self._next = loop.call_at(due_s, self._send_token, number + 1, count, due_s, gap_s)


async def serve(port: int) -> None:
    """Print the port, and answer until the end of the process."""
    capture = Capture(CAPTURE.read_bytes())
    hang_ups: list[float] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answering(capture, hang_ups), "127.0.0.1", port, backlog=1_024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description="Serve as Flowise, at a set pace.")
    parser.add_argument("port", type=int, nargs="?", default=0)
    asyncio.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
