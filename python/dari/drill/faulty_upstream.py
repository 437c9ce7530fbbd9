"""A Flowise that fails as it is told to, on an address of this process.

Each fault has a path, and so a base URL, of its own: a server's circuit goes by that. What is sent has the form of
Flowise 3.1: headers at once, events without a name that carry one in their data, errors under HTTP 200.
"""

import json
import select
import socket
import threading
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

_LOOK_S = 0.2
"""How often a request that is left waiting looks whether anybody still waits."""


class Fault(Enum):
    """What the test upstream does when it is asked. The value is its path."""

    NONE = "answers"
    """It answers: whether the server reaches it at all."""
    REFUSES = "refuses"
    """Nobody listens: a server that is down."""
    STALLS = "stalls"
    """It takes the question, and says nothing: a model that hangs."""
    CUTS = "cuts"
    """It dies in the middle of its answer."""
    FAILS = "fails"
    """It tells an error instead of an answer."""


class FaultyUpstream:
    """Listens from its creation on. Close it, or use it in a `with` statement. Thread-safe.

    `host` is where it listens, `port` may be 0 for any that is free, and `called` is what the server calls that host.
    Raises OSError where it cannot listen.
    """

    def __init__(self, host: str, port: int, called: str, marker: str) -> None:
        self.flow_id = str(uuid4())
        self._called = called
        self._marker = marker
        self._asked: set[Fault] = set()
        self._lock = threading.Lock()  # guards _asked
        self._over = threading.Event()
        # Bound and not listening: connecting to it is refused, and nobody else gets its port.
        self._dead = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._dead.bind((host, 0))
        try:
            self._server = _Server((host, port), self._handler(), self._dead.family)
        except OSError:
            self._dead.close()
            raise
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="drill-upstream", daemon=True
        )
        self._thread.start()

    def base_url(self, fault: Fault) -> str:
        """Where an AI model finds the Flowise that has this fault."""
        port = (self._dead if fault is Fault.REFUSES else self._server.socket).getsockname()[1]
        host = f"[{self._called}]" if ":" in self._called else self._called
        return f"http://{host}:{port}/{fault.value}"

    def was_asked(self, fault: Fault) -> bool:
        """Whether a question came to it. None ever comes to one that refuses."""
        with self._lock:
            return fault in self._asked

    def close(self) -> None:
        """End what still waits, and listen no more."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._dead.close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, request: BaseHTTPRequestHandler, fault: Fault) -> None:
        with self._lock:
            self._asked.add(fault)
        wire = _Events(request)
        wire.begin()
        match fault:
            case Fault.NONE:
                wire.tell("token", f"{self._marker} answers.")
                wire.tell("metadata", {"chatId": str(uuid4())})
                wire.end()
            case Fault.CUTS:
                for word in (self._marker, " is about", " to be"):
                    wire.tell("token", word)
            case Fault.FAILS:
                wire.tell("error", f"Error: {self._marker} fails")
                wire.end()
            case _:
                self._wait(request)

    def _wait(self, request: BaseHTTPRequestHandler) -> None:
        """Say nothing until the server hangs up, or the drill is over."""
        while not self._over.is_set():
            if select.select([request.connection], [], [], _LOOK_S)[0] and not request.connection.recv(1):
                return

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                """The look-up of the flow, which all of them know."""
                body = json.dumps({"isStreaming": True}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                """The question. Its body holds what an operator's chatbot is told; nothing of it is kept."""
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.close_connection = True
                upstream._answer(self, _fault_at(self.path))

            def log_message(self, format: str, *arguments: Any) -> None:
                """Nothing: paths and addresses are known."""

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], family: int) -> None:
        self.address_family = family
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A server that hangs up in the middle is no news here."""


class _Events:
    """A stream of Flowise's events, in chunks."""

    def __init__(self, request: BaseHTTPRequestHandler) -> None:
        self._request = request

    def begin(self) -> None:
        self._request.send_response(200)
        self._request.send_header("Content-Type", "text/event-stream")
        self._request.send_header("Transfer-Encoding", "chunked")
        self._request.end_headers()
        self.tell("start", "")

    def tell(self, name: str, data: object) -> None:
        text = json.dumps({"event": name, "data": data}, ensure_ascii=False)
        self._chunk(f"message:\ndata:{text}\n\n".encode())

    def end(self) -> None:
        self.tell("end", "[DONE]")
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self._request.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self._request.wfile.flush()


def _fault_at(path: str) -> Fault:
    name = path.split("/")[1]
    return next((fault for fault in Fault if fault.value == name), Fault.STALLS)
