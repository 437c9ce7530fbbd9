"""A TCP proxy on loopback that does to the bytes between two neighbours what a test says, in each direction apart.

    with FaultProxy(("127.0.0.1", port)) as proxy:
        proxy.to_target.set(Fault(bytes_per_s=1e6))

A fault holds for all connections of the proxy, those that are open and those to come.
"""

import math
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

from psycopg2.extensions import make_dsn, parse_dsn

Target = tuple[str, int] | str
"""Host and port, or the path of a Unix socket."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER on, for 0 s: close(2) then sends RST instead of FIN."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the bytes of one direction. The default lets them pass."""

    latency_s: float = 0.0
    """Each piece of a connection waits so long, one behind the other: it costs throughput as well."""
    bytes_per_s: float = math.inf
    """Bandwidth of all connections together."""
    piece_bytes: int = 65_536
    """Most bytes forwarded at once."""
    swallows: bool = False
    """A black hole: bytes are taken, and delivered late, when another fault takes the place of this one."""
    resets_in_bytes: int | None = None
    """After so many more bytes the connection that carries them is reset on both sides, once."""
    ends_in_bytes: int | None = None
    """So many more bytes arrive, and behind the last of them the connection that carried it is closed on both sides,
    once; 0 closes it in place of the next byte."""

    @classmethod
    def drawn(cls, chance: random.Random, most_bytes: int) -> "Fault":
        """One that an upload gets over: slow, sliced, or cut by a reset within the next `most_bytes`."""
        return chance.choice(
            (
                cls(),
                cls(latency_s=chance.uniform(0.0, 0.003)),
                cls(bytes_per_s=chance.uniform(2e6, 2e7)),
                cls(piece_bytes=chance.randrange(100, 5_000)),
                cls(resets_in_bytes=chance.randrange(most_bytes)),
                cls(resets_in_bytes=chance.randrange(most_bytes), piece_bytes=chance.randrange(100, 5_000)),
            )
        )


class Direction:
    """The bytes that go one way, and what happens to them. Thread-safe."""

    def __init__(self) -> None:
        # Guards all below.
        self._changed = threading.Condition()
        self._fault = Fault()
        self._passed_bytes = 0
        self._free_from_s = 0.0
        self._is_closed = False

    @property
    def fault(self) -> Fault:
        """The fault that holds now."""
        with self._changed:
            return self._fault

    @property
    def passed_bytes(self) -> int:
        """Bytes that went through so far, on all connections."""
        with self._changed:
            return self._passed_bytes

    def set(self, fault: Fault) -> None:
        """From now on this happens, and nothing else."""
        with self._changed:
            self._fault = fault
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait here any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def let_pass(self, size_bytes: int) -> tuple[int, bool]:
        """Return when the bytes may go on: how many of them, and whether the connection ends behind these.

        Raises ConnectionResetError where they are to be lost.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or not self._fault.swallows)
            fault, now_s, is_end = self._fault, time.monotonic(), False
            if fault.resets_in_bytes is not None:
                left = fault.resets_in_bytes - size_bytes
                self._fault = replace(fault, resets_in_bytes=left if left > 0 else None)
                if left <= 0:
                    raise ConnectionResetError
            if fault.ends_in_bytes is not None:
                is_end = size_bytes >= fault.ends_in_bytes
                size_bytes = min(size_bytes, fault.ends_in_bytes)
                self._fault = replace(fault, ends_in_bytes=None if is_end else fault.ends_in_bytes - size_bytes)
            self._passed_bytes += size_bytes
            self._free_from_s = max(now_s, self._free_from_s) + size_bytes / fault.bytes_per_s
            until_s = self._free_from_s + fault.latency_s
            self._changed.wait_for(lambda: self._is_closed, max(0.0, until_s - now_s))
            return size_bytes, is_end


class FaultProxy:
    """A port in front of `target`. Use in a `with` statement. Thread-safe."""

    def __init__(self, target: Target) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.to_target, self.to_caller = Direction(), Direction()
        # Guards all below.
        self._lock = threading.Lock()
        self._target = target
        self._mutes_new = False
        self._attempts = 0
        self._connections = 0
        self._most_at_once = 0
        self._open: set[tuple[socket.socket, socket.socket]] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="fault-proxy", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.to_target.close()
        self.to_caller.close()
        self._end_all(lambda end: end.shutdown(socket.SHUT_RDWR))

    @property
    def attempts(self) -> int:
        """Who tried to connect so far, also in vain."""
        with self._lock:
            return self._attempts

    @property
    def connections(self) -> int:
        """Connections so far."""
        with self._lock:
            return self._connections

    @property
    def most_at_once(self) -> int:
        """The largest number of connections that were open at once."""
        with self._lock:
            return self._most_at_once

    def swallow(self) -> None:
        """Forward nothing from now on, on any connection: a frozen neighbour behind a system that acknowledges all."""
        self.to_target.set(Fault(swallows=True))
        self.to_caller.set(Fault(swallows=True))

    def forward(self) -> None:
        """No fault any more; what was swallowed is delivered late."""
        self.to_target.set(Fault())
        self.to_caller.set(Fault())

    def swallow_new(self) -> None:
        """Drop every byte of the connections that are still to come."""
        with self._lock:
            self._mutes_new = True

    def redirect(self, target: Target) -> None:
        """Send the connections that are still to come elsewhere."""
        with self._lock:
            self._target = target

    def reset_all(self) -> None:
        """Cut every open connection on both sides."""
        self._end_all(_reset)

    def _end_all(self, end: Callable[[socket.socket], None]) -> None:
        with self._lock:
            ends = [side for pair in self._open for side in pair]
        for side in ends:
            with suppress(OSError):  # It has come to its end meanwhile.
                end(side)

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._attempts += 1
                target, is_mute = self._target, self._mutes_new
            try:
                neighbour = _connected(target)
            except OSError:
                _reset(caller)
                continue
            pair = (caller, neighbour)
            with self._lock:
                self._connections += 1
                self._open.add(pair)
                self._most_at_once = max(self._most_at_once, len(self._open))
            for source, sink, direction in ((*pair, self.to_target), (neighbour, caller, self.to_caller)):
                arguments = (pair, source, sink, direction, is_mute)
                threading.Thread(target=self._pump, args=arguments, name="fault-proxy", daemon=True).start()

    def _pump(
        self,
        pair: tuple[socket.socket, socket.socket],
        source: socket.socket,
        sink: socket.socket,
        direction: Direction,
        is_mute: bool,
    ) -> None:
        end: Callable[[socket.socket], None] = _close
        is_end = False
        try:
            while not is_end and (data := source.recv(direction.fault.piece_bytes)):
                if not is_mute:
                    passing_bytes, is_end = direction.let_pass(len(data))
                    sink.sendall(data[:passing_bytes])
        except ConnectionResetError:
            end = _reset
        except OSError:
            pass
        with self._lock:
            if pair not in self._open:
                return
            self._open.discard(pair)
        for side in pair:
            with suppress(OSError):  # The other side may be gone already.
                side.shutdown(socket.SHUT_RD)  # Wakes the pump of the other direction.
            end(side)


class PostgresProxy(FaultProxy):
    """A FaultProxy in front of a DSN's server; `dsn` is the same database through it."""

    def __init__(self, dsn: str) -> None:
        parts = parse_dsn(dsn)
        host, port = parts.get("host", "127.0.0.1"), parts.get("port", "5432")
        self._home: Target = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, int(port))
        super().__init__(self._home)
        self.dsn = make_dsn(dsn, host="127.0.0.1", port=str(self.port), sslmode="disable", gssencmode="disable")

    def vanish(self) -> None:
        """Cut all connections and let none through: a server that was stopped."""
        self.redirect(_NOBODY)
        self.reset_all()

    def come_back(self) -> None:
        """Let connections through again."""
        self.redirect(self._home)


_NOBODY = ("127.0.0.1", 1)
"""tcpmux: nobody listens there."""


def _connected(target: Target) -> socket.socket:
    if not isinstance(target, str):
        return socket.create_connection(target)
    neighbour = socket.socket(socket.AF_UNIX)
    neighbour.connect(target)
    return neighbour


def _close(side: socket.socket) -> None:
    side.close()


def _reset(side: socket.socket) -> None:
    with suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        side.shutdown(socket.SHUT_RD)
    side.close()
