"""Stands between a client and PostgreSQL, and on command takes all bytes and gives none: a frozen neighbour."""

import socket
import threading
from types import TracebackType
from typing import Self

from psycopg2.extensions import make_dsn, parse_dsn


class SwallowingProxy:
    """A TCP port in front of a DSN's server. Use in a `with` statement."""

    def __init__(self, dsn: str) -> None:
        self._target = parse_dsn(dsn)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = str(self._listener.getsockname()[1])
        self.dsn = make_dsn(dsn, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable")
        """The same database, through this proxy."""
        self._flows = threading.Event()
        self._flows.set()
        self._swallows_new = False
        # Guards the three below.
        self._lock = threading.Lock()
        self.connections = 0
        """Connections so far."""
        self.most_at_once = 0
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._flows.set()
        with self._lock:
            for connection in self._open:
                connection.shutdown(socket.SHUT_RDWR)

    def swallow(self) -> None:
        """Forward nothing from now on, on any connection."""
        self._flows.clear()

    def swallow_new(self) -> None:
        """Answer nothing on connections that are still to come."""
        self._swallows_new = True

    def forward(self) -> None:
        """Go on; what was swallowed is delivered late."""
        self._flows.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = self._connected()
            with self._lock:
                self.connections += 1
                self._open |= {client, server}
                self.most_at_once = max(self.most_at_once, len(self._open) // 2)
            is_mute = self._swallows_new
            threading.Thread(target=self._pump, args=(client, server, is_mute), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, is_mute), daemon=True).start()

    def _connected(self) -> socket.socket:
        host, port = self._target.get("host", "127.0.0.1"), self._target.get("port", "5432")
        if not host.startswith("/"):
            return socket.create_connection((host, int(port)))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _pump(self, source: socket.socket, sink: socket.socket, is_mute: bool) -> None:
        try:
            while data := source.recv(65_536):
                if is_mute:
                    continue
                self._flows.wait()
                sink.sendall(data)
        except OSError:
            pass
        with self._lock:
            for connection in (source, sink):
                if connection in self._open:
                    self._open.discard(connection)
                    connection.close()
