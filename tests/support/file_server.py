"""An http or https server of one file on loopback, which breaks its responses on command."""

import ssl
import threading
from collections import deque
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class FileServer:
    """Serves `content` at `url`. A context manager.

    What it does may be changed between two requests; what is asked for stands in `ranges` and `asked`.
    """

    def __init__(self, content: bytes, *, knows_ranges: bool = True, tls: ssl.SSLContext | None = None) -> None:
        self.content = content
        self.knows_ranges = knows_ranges
        self.etag: str | None = '"1"'
        self.last_modified: str | None = None
        self.encoding: str | None = None
        self.says_length = True
        self.cuts: deque[int] = deque()
        """Each response ends after so many bytes of its body, until there are no more of these."""
        self.statuses: deque[int] = deque()
        """Each request gets the next of these and no file, 0 for a closed connection, until there are no more."""
        self.ranges: list[str | None] = []
        """The Range of each request."""
        self.asked: list[dict[str, str]] = []
        """All headers of each request."""
        self.sent_bytes = 0
        file_server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                file_server._answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_port
        self.url = f"http{'' if tls is None else 's'}://127.0.0.1:{self.port}/data/sales.csv"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.ranges.append(handler.headers.get("Range"))
        self.asked.append(dict(handler.headers.items()))
        if self.statuses:
            self._refuse(handler, self.statuses.popleft())
            return
        if self._is_known(handler):
            handler.send_response(304)
            handler.end_headers()
            return
        wanted = handler.headers.get("Range")
        is_same = handler.headers.get("If-Range") in (None, self.etag)
        first = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.knows_ranges and is_same else 0
        if first > len(self.content):
            self._refuse(handler, 416)
            return
        body = self.content[first:]
        handler.send_response(206 if first else 200)
        if first:
            handler.send_header("Content-Range", f"bytes {first}-{len(self.content) - 1}/{len(self.content)}")
        if self.etag is not None:
            handler.send_header("ETag", self.etag)
        if self.last_modified is not None:
            handler.send_header("Last-Modified", self.last_modified)
        if self.encoding is not None:
            handler.send_header("Content-Encoding", self.encoding)
        handler.send_header(*(("Content-Length", str(len(body))) if self.says_length else ("Connection", "close")))
        handler.end_headers()
        if self.cuts:
            body = body[: self.cuts.popleft()]
            handler.close_connection = True
        # Before the client has them all: it may ask how many there were.
        self.sent_bytes += len(body)
        with suppress(ConnectionError):  # a client that has enough
            handler.wfile.write(body)

    def _is_known(self, handler: BaseHTTPRequestHandler) -> bool:
        """RFC 9110, 13.2.2: If-Modified-Since counts only where there is no If-None-Match."""
        known = handler.headers.get("If-None-Match")
        if known is not None:
            return known == self.etag
        since = handler.headers.get("If-Modified-Since")
        return since is not None and since == self.last_modified

    @staticmethod
    def _refuse(handler: BaseHTTPRequestHandler, status: int) -> None:
        handler.close_connection = True
        if status:
            handler.send_response(status)
            handler.send_header("Content-Length", "0")
            handler.end_headers()


class _Server(ThreadingHTTPServer):
    """A client that refuses the certificate, or leaves, is no failure of it."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass
