"""Serves the metrics over HTTP to whoever scrapes. Apart from the calls: on an address and on threads of its own.

A scraper that stays away costs nothing, and one that connects and says nothing is left after some seconds.
"""

import socket
import socketserver
import threading
from types import TracebackType
from typing import Self, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

_SILENCE_S = 5.0
"""How long a connection may say nothing, or take nothing."""
_POLL_INTERVAL_S = 0.1


class MetricsEndpoint:
    """Serves `/metrics`. Use in a `with` statement. Raises OSError where the address cannot be bound."""

    def __init__(self, registry: CollectorRegistry, address: str, *, silence_s: float = _SILENCE_S) -> None:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        kind = _V6Server if ":" in host else _Server
        self._server = kind((host, int(port)), _Handler)
        self._server.silence_s = silence_s
        self._server.set_app(make_wsgi_app(registry))
        self.address = f"{address.rpartition(':')[0]}:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_INTERVAL_S,), name="metrics", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    silence_s = _SILENCE_S
    block_on_close = False
    """A scrape under way is not waited for."""

    def server_bind(self) -> None:
        """Bind without what `http.server` does besides: it asks the name service who we are, which may take long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "dari", self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """A scraper that left, or was too slow. The library would print a traceback."""


class _V6Server(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    def setup(self) -> None:
        """Whoever says or takes nothing for so long is left."""
        cast(socket.socket, self.request).settimeout(cast(_Server, self.server).silence_s)
        super().setup()

    def log_message(self, format: str, *args: object) -> None:
        """Nobody wants a line a scrape, with what the scraper sent in it."""
