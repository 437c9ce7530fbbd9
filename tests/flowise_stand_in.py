"""A stand-in for Flowise, and for an OpenAI-compatible server: a real TCP server that sends what a test tells it to.

    with StandIn() as flowise:
        flowise.script(cut_after("Se"), answer("Seoul", "."))      # the first question, the second
        flowise.always(replay("13d-ratelimit-4-stream"), flow_id=OTHER_FLOW)
        ...                                                        # point dari at flowise.url
        assert flowise.questions[0].json["chatId"] != flowise.questions[1].json["chatId"]

What is sent is a *play*: a function of the `Wire` to one client. `replay` sends the bytes that a real Flowise 3.1.4
sent (tests/data/flowise), the others misbehave in one way each. Look-ups (`GET /api/v1/chatflows-streaming/…`) and
`ping` are answered as Flowise does and are no part of a script; a flow in `unknown_flows` is treated as one that
Flowise does not have, down to the silence, and one in `not_streaming_flows` is looked up as such. Loopback only, an
ephemeral port that stays the same over `stop`/`start`.
"""

import json
import re
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CAPTURES = Path(__file__).parent / "data" / "flowise"
FLOW_ID = "6dad48dd-6482-4fe5-904a-63caddb5f052"

Piece = str | threading.Event
"""A token to send, or an event to wait for before the next."""


@dataclass(frozen=True)
class ReceivedRequest:
    """What one client sent."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    connection: int
    """Counts the connections from 0: equal for requests that shared one."""
    hung_up: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)
    """Set when the client has closed the connection, with this request as its last."""

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value

    @property
    def flow_id(self) -> str:
        return self.path.rpartition("/")[2]


class Wire:
    """The connection to one client while one request of it is being answered."""

    def __init__(self, connected: socket.socket, request: ReceivedRequest, stopped: threading.Event) -> None:
        self._socket = connected
        self.request = request
        self._stopped = stopped
        self.send_at_most_bytes: int | None = None
        self.stays_open = True

    def send(self, data: bytes) -> None:
        """Send, in parts of `send_at_most_bytes` where that is set."""
        step = self.send_at_most_bytes or max(len(data), 1)
        for start in range(0, len(data), step):
            self._socket.sendall(data[start : start + step])

    def send_chunk(self, data: bytes) -> None:
        """Send one chunk of a chunked body."""
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def wait_for(self, event: threading.Event) -> None:
        while not event.wait(0.02):
            if self._stopped.is_set():
                raise ConnectionAbortedError

    def hold(self, timeout_s: float | None = None) -> None:
        """Say nothing until the client hangs up (`ConnectionError`), or for a while."""
        if select.select([self._socket], [], [], timeout_s)[0] and not self._socket.recv(65_536):
            raise ConnectionAbortedError

    def hang_up(self) -> None:
        """End the connection properly (FIN)."""
        self.stays_open = False

    def reset(self) -> None:
        """Break the connection off (RST)."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stays_open = False


Play = Callable[[Wire], None]


class StandIn:
    """The server. Close it, or use it in a `with` statement. What tests call is thread-safe.

    `port` is 0 for one that is free, or one that another socket of `reserved_port` keeps free for it.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._ssl_context = ssl_context
        self._reserved = reserved_port(port)  # keeps the port ours while nothing listens: connecting is refused
        self.port: int = self._reserved.getsockname()[1]
        self._changed = threading.Condition()  # guards all below
        self._requests: list[ReceivedRequest] = []
        self._scripts: dict[str | None, list[Play]] = {}
        self._always: dict[str | None, Play] = {None: answer("Hello", " there")}
        self._open: set[socket.socket] = set()
        self._connections = 0
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self._stopped = threading.Event()
        self.unknown_flows: set[str] = set()
        self.not_streaming_flows: set[str] = set()
        self.start()

    @property
    def url(self) -> str:
        return f"{'https' if self._ssl_context else 'http'}://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[ReceivedRequest]:
        """All requests so far, oldest first."""
        with self._changed:
            return list(self._requests)

    @property
    def questions(self) -> list[ReceivedRequest]:
        """The requests that asked for an answer."""
        return [request for request in self.requests if request.method == "POST"]

    def script(self, *plays: Play, flow_id: str | None = None) -> None:
        """Answer the next questions (of this flow) by these plays, one each; then as `always` says."""
        with self._changed:
            self._scripts.setdefault(flow_id, []).extend(plays)

    def always(self, play: Play, flow_id: str | None = None) -> None:
        """Answer every question (of this flow) that no script is left for by this play."""
        with self._changed:
            self._always[flow_id] = play

    def wait_for_questions(self, count: int, timeout_s: float = 10.0) -> ReceivedRequest:
        """Wait until so many questions have come in all; the last of them."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._questions()) >= count, timeout_s):
                raise AssertionError(f"{len(self._questions())} of {count} questions came")
            return self._questions()[count - 1]

    def stop(self) -> None:
        """Die: refuse connections from now on, close those that are open. `start` brings it back, same port."""
        with self._changed:
            self._stopped.set()
            if self._listener is not None:
                _shut_down(self._listener)
            for connected in self._open:
                _shut_down(connected)
            threads = self._threads
            self._threads, self._listener = [], None
        for thread in threads:
            thread.join(10.0)

    def start(self) -> None:
        """Listen (again)."""
        with self._changed:
            self._stopped = threading.Event()
            self._listener = reserved_port(self.port)
            self._listener.listen(1_024)
            self._run(self._accept, self._listener, self._stopped)

    def close(self) -> None:
        self.stop()
        self._reserved.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _questions(self) -> list[ReceivedRequest]:
        return [request for request in self._requests if request.method == "POST"]

    def _run(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, name="stand-in", daemon=True)
        self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        thread.start()

    def _accept(self, listener: socket.socket, stopped: threading.Event) -> None:
        with listener:
            while not stopped.is_set():
                try:
                    connected, _ = listener.accept()
                except OSError:
                    return
                with self._changed:
                    if stopped.is_set():
                        connected.close()
                        return
                    self._open.add(connected)
                    self._connections += 1
                    self._run(self._serve, connected, self._connections - 1, stopped)

    def _serve(self, connected: socket.socket, number: int, stopped: threading.Event) -> None:
        request: ReceivedRequest | None = None
        served = connected
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._ssl_context is not None:
                served = self._ssl_context.wrap_socket(connected, server_side=True)
                with self._changed:
                    self._open.add(served)
            stays_open = True
            while stays_open:
                received = _read_request(served, number)
                if received is None:
                    break
                request = received
                wire = Wire(served, request, stopped)
                self._play_for(request)(wire)
                stays_open = wire.stays_open
        except OSError:
            pass
        finally:
            with self._changed:
                self._open -= {connected, served}
            served.close()
            if request is not None and not stopped.is_set():
                request.hung_up.set()

    def _play_for(self, request: ReceivedRequest) -> Play:
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()
            flow_id = request.flow_id
            if request.method == "GET":
                return (
                    _lookup(flow_id in self.unknown_flows, flow_id not in self.not_streaming_flows)
                    if "/chatflows-streaming/" in request.path
                    else _ping
                )
            if flow_id in self.unknown_flows:
                return never_answer()
            for key in (flow_id, None):
                if self._scripts.get(key):
                    return self._scripts[key].pop(0)
                if key in self._always:
                    return self._always[key]
            raise AssertionError("unreachable: there is always a play for all flows")


def replay(capture: str, *, then: str = "") -> Play:
    """Send the bytes of tests/data/flowise/{capture}.raw.

    `then` says how it goes on: "keep" the connection for the next request, "close", "reset", or "hold" it silently.
    By default a whole response is kept, and an empty or unfinished one held.
    """
    return raw((CAPTURES / f"{capture}.raw").read_bytes(), then=then)


def raw(data: bytes, *, then: str = "") -> Play:
    """Send these bytes; see `replay`."""
    then = then or ("keep" if _is_whole_response(data) else "hold")

    def play(wire: Wire) -> None:
        wire.send(data)
        match then:
            case "close":
                wire.hang_up()
            case "reset":
                wire.reset()
            case "hold":
                wire.hold()

    return play


def trickled(play: Play, at_most_bytes: int = 1) -> Play:
    """The same play, sent byte by byte."""

    def trickle(wire: Wire) -> None:
        wire.send_at_most_bytes = at_most_bytes
        play(wire)

    return trickle


def answer(*pieces: Piece) -> Play:
    """Stream these tokens as Flowise does: start, tokens, metadata, end."""

    def play(wire: Wire) -> None:
        _begin(wire, pieces)
        asked = wire.request.json
        metadata = {
            "chatId": asked.get("chatId"),
            "question": asked.get("question"),
            "sessionId": asked.get("overrideConfig", {}).get("sessionId"),
            "memoryType": "Buffer Memory",
        }
        wire.send_chunk(event("metadata", metadata))
        wire.send_chunk(event("end", "[DONE]"))
        wire.send_chunk(b"")

    return play


def cut_after(*pieces: Piece) -> Play:
    """Send these tokens, then die: the connection ends without `end`."""

    def play(wire: Wire) -> None:
        _begin(wire, pieces)
        wire.hang_up()

    return play


def cut_inside(*pieces: Piece, sent: bytes, of: bytes) -> Play:
    """Send these tokens and the first bytes of one more event (`sent`, of the whole `of`), then die."""

    def play(wire: Wire) -> None:
        _begin(wire, pieces)
        wire.send(b"%x\r\n%s" % (len(of), sent))
        wire.hang_up()

    return play


def reset_after(*pieces: Piece) -> Play:
    """Send these tokens, then break the connection off (RST); give an event last to know that they were read."""

    def play(wire: Wire) -> None:
        _begin(wire, pieces)
        wire.reset()

    return play


def stall_after(*pieces: Piece) -> Play:
    """Send these tokens, then nothing more."""

    def play(wire: Wire) -> None:
        _begin(wire, pieces)
        wire.hold()

    return play


def fail_after(*pieces: Piece, text: str = "Error: predictionsServices.buildChatflow - terminated") -> Play:
    """Send these tokens, then an `error` event and `end`."""

    def play(wire: Wire) -> None:
        if pieces:
            _begin(wire, pieces)
        else:
            wire.send(EVENT_STREAM_HEAD)
        wire.send_chunk(event("error", text))
        wire.send_chunk(event("end", "[DONE]"))
        wire.send_chunk(b"")

    return play


def never_answer() -> Play:
    """Take the request and send no byte."""
    return Wire.hold


def headers_only() -> Play:
    """Send the headers of a stream and nothing else."""
    return raw(EVENT_STREAM_HEAD, then="hold")


def heartbeats_only(every_s: float = 0.02) -> Play:
    """Send the headers, then heartbeats for ever."""

    def play(wire: Wire) -> None:
        wire.send(EVENT_STREAM_HEAD)
        while True:
            wire.send_chunk(b":heartbeat\n\n")
            wire.hold(every_s)

    return play


def never_end(every_s: float = 0.02) -> Play:
    """Send a token, and one more, and one more."""

    def play(wire: Wire) -> None:
        _begin(wire, ())
        while True:
            wire.send_chunk(event("token", "more "))
            wire.hold(every_s)

    return play


def refuse_flow() -> Play:
    """Answer a wrong key as Flowise does: an `error` event under 200."""
    return fail_after(text="Error: predictionsServices.buildChatflow - Unauthorized")


def json_answer(text: str) -> Play:
    """Answer as a flow that cannot stream."""
    return response(200, json.dumps({"text": text, "chatId": "x", "isStreamValid": False}))


def web_page() -> Play:
    """Answer with a web page, under 200."""
    return response(200, "<!DOCTYPE html><html></html>", content_type="text/html; charset=utf-8")


def response(status: int, body: str, *, content_type: str = "application/json; charset=utf-8", **headers: str) -> Play:
    """Answer with a whole body; header names have `_` for `-`."""
    lines = [f"HTTP/1.1 {status} Anything", f"Content-Type: {content_type}", f"Content-Length: {len(body.encode())}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return raw("\r\n".join([*lines, "", body]).encode(), then="keep")


def huge_line(size_bytes: int) -> Play:
    """Send one `data:` line of this size that never ends properly."""

    def play(wire: Wire) -> None:
        wire.send(EVENT_STREAM_HEAD)
        part = b"x" * 65_536
        wire.send_chunk(b"data:")
        for _ in range(size_bytes // len(part)):
            wire.send_chunk(part)
        wire.hold()

    return play


def openai_answer(*pieces: Piece) -> Play:
    """Stream these tokens as OpenAI does: a role, the tokens, a finish reason, `[DONE]`."""

    def play(wire: Wire) -> None:
        _begin_openai(wire, pieces)
        wire.send_chunk(openai_chunk({}, "stop"))
        wire.send_chunk(b"data: [DONE]\n\n")
        wire.send_chunk(b"")

    return play


def openai_stall_after(*pieces: Piece) -> Play:
    """Stream these tokens as OpenAI does, then nothing more."""

    def play(wire: Wire) -> None:
        _begin_openai(wire, pieces)
        wire.hold()

    return play


def event_stream(*events: bytes, whole: bool = True) -> Play:
    """Stream these events, made by `event` or `openai_chunk` or by hand; end the body properly, or cut it."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in events if one)
    return raw(EVENT_STREAM_HEAD + body + (b"0\r\n\r\n" if whole else b""), then="keep" if whole else "close")


def event(name: str, data: object) -> bytes:
    """One event in Flowise's form."""
    return b"message:\ndata:" + _json({"event": name, "data": data}) + b"\n\n"


def openai_chunk(delta: dict[str, object], finish_reason: str | None = None) -> bytes:
    """One event in OpenAI's form."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return b"data: " + _json({"object": "chat.completion.chunk", "choices": [choice]}) + b"\n\n"


EVENT_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nConnection: keep-alive\r\n"
    b"X-Accel-Buffering: no\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@contextmanager
def black_hole() -> Iterator[str]:
    """The URL of a port where connecting neither works nor fails: its queue of connections is full."""
    with reserved_port() as listener:
        listener.listen(0)
        address = listener.getsockname()
        waiting: list[socket.socket] = []
        try:
            for _ in range(8):
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(address)
            yield f"http://127.0.0.1:{address[1]}"
        finally:
            for one in waiting:
                one.close()


def _begin(wire: Wire, pieces: tuple[Piece, ...]) -> None:
    wire.send(EVENT_STREAM_HEAD)
    wire.send_chunk(event("start", ""))
    for piece in pieces:
        if isinstance(piece, str):
            wire.send_chunk(event("token", piece))
        else:
            wire.wait_for(piece)


def _begin_openai(wire: Wire, pieces: tuple[Piece, ...]) -> None:
    wire.send(EVENT_STREAM_HEAD)
    wire.send_chunk(openai_chunk({"role": "assistant", "content": ""}))
    for piece in pieces:
        if isinstance(piece, str):
            wire.send_chunk(openai_chunk({"content": piece}))
        else:
            wire.wait_for(piece)


def _json(value: object) -> bytes:
    """JSON as JavaScript writes it: no character beyond ASCII is escaped, except a lone surrogate."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text).encode()


def _lookup(unknown: bool, streams: bool) -> Play:
    if not unknown and not streams:
        return response(200, '{"isStreaming":false}')
    return replay("21d-chatflows-streaming-unknown" if unknown else "21b-chatflows-streaming")


def _ping(wire: Wire) -> None:
    response(200, "pong", content_type="text/html; charset=utf-8")(wire)


def _is_whole_response(data: bytes) -> bool:
    head, separator, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return bool(separator) and (len(body) == int(length[1]) if length else body.endswith(b"0\r\n\r\n"))


def _read_request(connected: socket.socket, number: int) -> ReceivedRequest | None:
    received = bytearray()
    while b"\r\n\r\n" not in received:
        part = connected.recv(65_536)
        if not part:
            return None
        received += part
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    missing = int(headers.get("content-length", "0")) - len(body)
    while missing > 0:
        part = connected.recv(missing)
        if not part:
            return None
        body += part
        missing -= len(part)
    method, path, _ = first.split(" ")
    return ReceivedRequest(method, path, headers, body, number)


def reserved_port(port: int = 0) -> socket.socket:
    """A socket of loopback that does not listen: connecting is refused, and only who knows the port can bind it."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def _shut_down(connected: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(connected, socket.SHUT_RDWR)
