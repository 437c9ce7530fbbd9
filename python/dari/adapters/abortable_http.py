"""An httpx client whose blocked thread can be woken by another thread, in whatever phase its request is.

httpx offers no such thing: its timeouts are the only way out of `recv`. So the sockets are opened here, by a network
backend for httpcore (the public extension point under httpx), and every request runs under an `AbortSwitch` that
knows the one socket the request is using. `AbortSwitch.abort` shuts that socket down, which wakes a thread blocked in
connect, handshake, send or recv at once; it never closes it, since the number of a closed descriptor can belong to
another thread's socket a moment later.

The invariant that keeps one request from hurting another: a switch knows a socket only from the moment when its own
request uses it (`AbortSwitch.use`) to the moment before that socket can go back to the pool (`release`) or is closed
(`forget`), all under the switch's lock.
"""

import select
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from errno import EINPROGRESS
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpcore
import httpx

KEEPALIVE_EXPIRY_S = 4.0
"""How long an idle connection is kept. Flowise 3.1.4 and uvicorn close theirs after 5 s; using one that the other side
is just closing would look like a failure of the neighbour."""

MAX_CONNECTIONS = 1_024
"""Streams open at once to one upstream. Above it a request fails at once (`httpx.PoolTimeout`), it never queues."""

_STALE_WITHIN_S = 0.25
"""A kept connection that ends so soon after a request was the other side's to end: its FIN or RST was on its way, and
took a round trip at most. One that ends later may have died with the question in work."""

_GRACE_S = 0.01
"""How long to wait for the end of a body whose answer is already whole, so that the connection can be kept."""

_Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


class AbortSwitch:
    """Ends the network I/O of one request from any thread. Its lock guards the socket and is never held over I/O."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._thrown: Future[None] = Future()
        self.in_haste = False
        """Set when the answer is whole: a read then waits for `_GRACE_S` only."""

    @property
    def thrown(self) -> bool:
        return self._thrown.done()

    def abort(self) -> None:
        """Wake the request's thread and let all its further I/O fail. Never blocks; idempotent."""
        with self._lock:
            if self._thrown.done():
                return
            self._thrown.set_result(None)
            if self._socket is not None:
                _shut_down(self._socket)

    def use(self, used: socket.socket) -> None:
        """From now on `abort` shuts this socket down. Raises `ConnectionAbortedError` where it came before."""
        with self._lock:
            self._refuse_if_thrown()
            self._socket = used

    def connect(self, used: socket.socket, address: Any) -> int:
        """Start to connect a non-blocking socket; its errno.

        Under the lock, because shutting down a socket *before* it starts to connect would not stop it.
        """
        with self._lock:
            self._refuse_if_thrown()
            self._socket = used
            return used.connect_ex(address)

    def forget(self, used: socket.socket) -> None:
        """To be called before a socket is closed."""
        with self._lock:
            if self._socket is used:
                self._socket = None

    def release(self) -> bool:
        """To be called before a connection goes back to the pool; whether it is sound, that is, was not aborted."""
        with self._lock:
            self._socket = None
            return not self._thrown.done()

    def wait_for(self, result: Future[list[_Address]], timeout_s: float | None) -> list[_Address]:
        """The result of work on another thread, given up at `abort` or after the timeout."""
        first_of: tuple[Future[Any], ...] = (result, self._thrown)
        wait(first_of, timeout_s, FIRST_COMPLETED)
        with self._lock:
            self._refuse_if_thrown()
        if not result.done():
            raise TimeoutError
        return result.result()

    def pause(self, duration_s: float) -> None:
        """Wait for so long, or until `abort`."""
        wait((self._thrown,), duration_s)

    def _refuse_if_thrown(self) -> None:
        if self._thrown.done():
            raise ConnectionAbortedError


def _shut_down(used: socket.socket) -> None:
    with suppress(OSError):  # not connected (any more): nobody can be blocked in it
        # Not `used.shutdown`: that of an SSLSocket also takes the TLS state from under the thread that is reading.
        socket.socket.shutdown(used, socket.SHUT_RDWR)


class _Running(threading.local):
    """The request that this thread is sending; httpcore hands none to its network backend."""

    switch: AbortSwitch | None = None
    sent_at_s = 0.0
    is_on_new_connection = False
    is_heard = False
    """Whether a byte of the response came."""

    def is_stale(self) -> bool:
        """Whether the request that failed now met a connection that was over before."""
        was_kept = not self.is_on_new_connection and not self.is_heard
        return was_kept and time.monotonic() - self.sent_at_s < _STALE_WITHIN_S


_running = _Running()


def open_client(
    headers: dict[str, str],
    ssl_context: ssl.SSLContext | None,
    max_connections: int = MAX_CONNECTIONS,
) -> httpx.Client:
    """A client for one upstream, shared by all threads: no environment, redirects, cookies, retries or HTTP/2."""
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
    return httpx.Client(
        transport=_AbortableTransport(ssl_context, max_connections),
        headers={"User-Agent": "dari", "Accept-Encoding": "identity"} | headers,
        cookies=no_cookies,
        trust_env=False,
        follow_redirects=False,
        timeout=None,  # noqa: S113  # the chain's timers rule; a connect has its own, given with each request
    )


class StaleConnection(Exception):
    """A kept connection ended before a byte of the response: the other side had closed it, as is its right at any time.

    httpcore looks whether it has, but the look and the request cross the other side's FIN on its way (RFC 9112, 9.5).
    Only here it is known that the connection was kept, and that no byte came. `failure` is what httpx raised.
    """

    def __init__(self, failure: httpx.TransportError) -> None:
        super().__init__(str(failure))
        self.failure = failure


def send(client: httpx.Client, request: httpx.Request, switch: AbortSwitch) -> httpx.Response:
    """Send under the switch, return when the headers are there; the body is to be iterated as `response.stream`.

    (`response.iter_raw` gives the connection back to the pool before the switch could be released.)
    Raises `StaleConnection` where only the connection was at fault.
    """
    _running.switch = switch
    _running.sent_at_s = time.monotonic()
    _running.is_on_new_connection = _running.is_heard = False
    try:
        return client.send(request, stream=True)
    except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
        if switch.thrown or not _running.is_stale():
            raise
        raise StaleConnection(error) from error
    finally:
        _running.switch = None


class _AbortableTransport(httpx.HTTPTransport):
    """httpx's own transport over a pool that opens its sockets here.

    httpx 0.28 has no argument for the network backend, so the pool that it made is replaced: `_pool` is private.
    Tests of `abort` fail at once should a later httpx call it something else.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None, max_connections: int) -> None:
        super().__init__(verify=ssl_context or False, trust_env=False)
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context,
            max_connections=max_connections,
            # None is ever closed for being one idle connection too many: httpcore 1.0 may close one that it has just
            # promised to another thread.
            max_keepalive_connections=max_connections,
            keepalive_expiry=KEEPALIVE_EXPIRY_S,
            network_backend=_AbortableBackend(),
        )


class _AbortableBackend(httpcore.NetworkBackend):
    """Opens TCP connections that a switch can end, name lookup included."""

    def __init__(self) -> None:
        self._resolver = _Resolver()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Try each address of the host in turn; all together take at most `timeout` seconds."""
        _running.is_on_new_connection = True
        deadline = None if timeout is None else time.monotonic() + timeout
        switch = _running.switch or AbortSwitch()
        with _as_httpcore(httpcore.ConnectTimeout, httpcore.ConnectError):
            addresses = self._resolver.addresses(host, port, switch, timeout)
            for index, address in enumerate(addresses):
                share_s = None if deadline is None else (deadline - time.monotonic()) / (len(addresses) - index)
                try:
                    return _AbortableStream(_connect(address, switch, share_s))
                except OSError:
                    if index == len(addresses) - 1:
                        raise
            raise OSError("a name without an address")


class _Resolver:
    """Looks names up on threads of their own, one for each name at a time: getaddrinfo knows no timeout."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _lookups
        self._lookups: dict[tuple[str, int], Future[list[_Address]]] = {}

    def addresses(self, host: str, port: int, switch: AbortSwitch, timeout_s: float | None) -> list[_Address]:
        try:
            return _addresses(host, port, socket.AI_NUMERICHOST)
        except socket.gaierror:
            return switch.wait_for(self._lookup(host, port), timeout_s)

    def _lookup(self, host: str, port: int) -> Future[list[_Address]]:
        with self._lock:
            result = self._lookups.get((host, port))
            if result is None:
                result = Future()
                threading.Thread(target=self._resolve, args=(host, port, result), name="resolve", daemon=True).start()
                self._lookups[(host, port)] = result
            return result

    def _resolve(self, host: str, port: int, result: Future[list[_Address]]) -> None:
        found: list[_Address] = []
        failure: OSError | None = None
        try:
            found = _addresses(host, port, 0)
        except OSError as error:
            failure = error
        except UnicodeError:
            failure = socket.gaierror(socket.EAI_NONAME, "not a host name")
        with self._lock:
            del self._lookups[(host, port)]
        if failure is None:
            result.set_result(found)
        else:
            result.set_exception(failure)


def _addresses(host: str, port: int, flags: int) -> list[_Address]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags))


def _connect(address: _Address, switch: AbortSwitch, timeout_s: float | None) -> socket.socket:
    family, kind, protocol, _, target = address
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setblocking(False)
        error = switch.connect(opened, target)
        if error == EINPROGRESS:
            error = _await_connected(opened, timeout_s)
        if error:
            raise OSError(error, "connect failed")
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        switch.forget(opened)
        opened.close()
        raise
    return opened


def _await_connected(opened: socket.socket, timeout_s: float | None) -> int:
    poll = select.poll()
    poll.register(opened, select.POLLOUT)
    if not poll.poll(None if timeout_s is None else max(timeout_s, 0.0) * 1_000):
        raise TimeoutError
    return opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


class _AbortableStream(httpcore.NetworkStream):
    """One connection. Belongs to the pool; `_switch` is that of the request that used it last."""

    def __init__(self, opened: socket.socket, switch: AbortSwitch | None = None) -> None:
        self._socket = opened
        self._switch = switch or AbortSwitch()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _as_httpcore(httpcore.ReadTimeout, httpcore.ReadError):
            self._enter(timeout)
            received = self._socket.recv(max_bytes)
        _running.is_heard = _running.is_heard or bool(received)
        return received

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return  # as h11 ends a body: sending nothing could still take away the error that `read` is to report
        with _as_httpcore(httpcore.WriteTimeout, httpcore.WriteError):
            self._enter(timeout)
            self._socket.sendall(buffer)

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        with _as_httpcore(httpcore.ConnectTimeout, httpcore.ConnectError):
            try:
                self._enter(timeout)
                # Without the handshake, which would block inside a socket that no switch knows yet.
                self._socket = secured = ssl_context.wrap_socket(
                    self._socket, server_hostname=server_hostname, do_handshake_on_connect=False
                )
                self._switch.use(secured)
                secured.do_handshake()
            except BaseException:
                self.close()
                raise
            return _AbortableStream(secured, self._switch)

    def close(self) -> None:
        self._switch.forget(self._socket)
        # Closing alone would not wake a thread that reads; httpcore can close an expired connection (see above) in
        # the moment in which another thread takes it up.
        _shut_down(self._socket)
        self._socket.close()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._is_readable()
        if info == "ssl_object" and isinstance(self._socket, ssl.SSLSocket):
            return self._socket
        return None

    def _enter(self, timeout_s: float | None) -> None:
        """Put the socket under the switch of the request that is about to use it."""
        self._switch = _running.switch or self._switch
        self._switch.use(self._socket)
        if self._switch.in_haste:
            timeout_s = _GRACE_S
        if self._socket.gettimeout() != timeout_s:
            self._socket.settimeout(timeout_s)

    def _is_readable(self) -> bool:
        """Whether an idle connection has bytes waiting, which can only mean that the other side has closed it."""
        if self._socket.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))


@contextmanager
def _as_httpcore(timed_out: type[Exception], failed: type[Exception]) -> Iterator[None]:
    """Raise what httpcore promises to raise; its cause tells `http_stream` which errno it was."""
    try:
        yield
    except TimeoutError as error:
        raise timed_out from error
    except (OSError, UnicodeError) as error:
        raise failed from error
