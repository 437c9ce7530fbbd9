"""Where alerts end in tests: a list; or operators as apprise reaches them, over HTTP on loopback."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from dari.core.alerts import Alert
from tests.support.running_dari import SOON_S


class RecordedAlerts:
    """An AlertSink that keeps what it is told, for tests of one thread."""

    def __init__(self) -> None:
        self.told: list[Alert] = []

    def tell(self, alert: Alert) -> None:
        self.told.append(alert)


class Operators:
    """An HTTP server that keeps what it is told, is down, or is slow. Use in a `with` statement. Thread-safe.

    `url` holds a secret, as those of real services do.
    """

    def __init__(self, canary: str = "t0ken") -> None:
        self._canary = canary
        self._changed = threading.Condition()  # its lock guards the three below
        self._messages: list[dict[str, Any]] = []
        self._refused = 0
        self._is_down = False
        self._may_answer = threading.Event()
        self._may_answer.set()
        self.is_asked = threading.Event()
        """Somebody waits for an answer, or has one."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        """For apprise; reading may take long, so that only the test ends a wait."""
        return f"json://user:{self._canary}@127.0.0.1:{self._server.server_address[1]}/{self._canary}?rto=30"

    def go_down(self) -> None:
        """Refuse what comes, with 503."""
        with self._changed:
            self._is_down = True

    def come_back(self) -> None:
        with self._changed:
            self._is_down = False

    def hold(self) -> None:
        """Take what comes, and let the sender wait for the answer until `release`."""
        self._may_answer.clear()

    def release(self) -> None:
        self._may_answer.set()

    def titles(self) -> list[str]:
        """Of the messages so far, without the name that all begin with."""
        with self._changed:
            return [message["title"].removeprefix("dari: ") for message in self._messages]

    def bodies(self) -> list[str]:
        with self._changed:
            return [message["message"] for message in self._messages]

    def types(self) -> list[str]:
        """What apprise calls their severity."""
        with self._changed:
            return [message["type"] for message in self._messages]

    def wait_for(self, count: int) -> list[str]:
        """The titles, once there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._messages) >= count, SOON_S), self._messages
        return self.titles()

    def wait_for_refused(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._refused >= count, SOON_S)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, message: dict[str, Any]) -> int:
        with self._changed:
            self.is_asked.set()
            if self._is_down:
                self._refused += 1
            else:
                self._messages.append(message)
            self._changed.notify_all()
            return 503 if self._is_down else 200

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        operators = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = operators._take(message)
                operators._may_answer.wait(SOON_S)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None: ...

        return Handler
