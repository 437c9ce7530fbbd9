"""Fetches a file from a web server: only where it has changed, and only from addresses that are allowed.

Redirects are followed by hand, since each hop is judged anew: its scheme may not get weaker, and credentials stay with
the origin that they are for. No proxy of the environment is used: it would resolve names itself.
"""

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import httpcore

from dari.adapters.sources.addresses import AddressRefused, AllowedAddresses, PinnedBackend
from dari.core.sync import SourceFailed, SourceMark

_MAX_REDIRECTS = 5
_TIMEOUTS_S = {"connect": 10.0, "read": 60.0, "write": 10.0, "pool": 10.0}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What a fetch may take."""

    max_bytes: int
    timeout_s: float
    """From its first packet to its last."""


class WebFetcher:
    """Fetches over http and https. Thread-safe; each fetch has a connection of its own."""

    def __init__(
        self, addresses: AllowedAddresses, limits: FetchLimits, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._addresses = addresses
        self._limits = limits
        self._ssl_context = ssl_context or ssl.create_default_context()

    def fetch(
        self, url: str, token: str, known: SourceMark, into: BinaryIO, stopped: threading.Event
    ) -> SourceMark | None:
        """Write the body into a file; returns its mark without a digest, or None where it is the known one.

        Raises SourceFailed; what was written then is not whole.
        """
        deadline_s = time.monotonic() + self._limits.timeout_s
        first_origin = _origin(url)
        try:
            for _ in range(_MAX_REDIRECTS + 1):
                with ExitStack() as opened:
                    own_token = token if _origin(url) == first_origin else ""
                    response = self._requested(url, own_token, known, opened)
                    if response.status not in _REDIRECTS:
                        return self._taken(response, into, deadline_s, stopped)
                    url = _target(url, _header(response, b"location"))
        except AddressRefused:
            raise SourceFailed("address_refused") from None
        except (httpcore.TimeoutException, TimeoutError):
            raise SourceFailed("timeout") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, ssl.SSLError):
            raise SourceFailed("not_reached") from None
        raise SourceFailed("too_many_redirects")

    def _requested(self, url: str, token: str, known: SourceMark, opened: ExitStack) -> httpcore.Response:
        pool = opened.enter_context(
            httpcore.ConnectionPool(
                ssl_context=self._ssl_context,
                max_connections=1,
                max_keepalive_connections=0,
                network_backend=PinnedBackend(self._addresses),
            )
        )
        headers = {"Host": urlsplit(url).netloc, "Accept-Encoding": "identity", "User-Agent": "dari"}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {"If-None-Match": known.etag} if known.etag else {}
        headers |= {"If-Modified-Since": known.last_modified} if known.last_modified else {}
        return opened.enter_context(
            pool.stream("GET", url, headers=list(headers.items()), extensions={"timeout": dict(_TIMEOUTS_S)})
        )

    def _taken(
        self, response: httpcore.Response, into: BinaryIO, deadline_s: float, stopped: threading.Event
    ) -> SourceMark | None:
        if response.status == HTTPStatus.NOT_MODIFIED:
            return None
        if response.status != HTTPStatus.OK:
            raise SourceFailed(f"http_{response.status}")
        for piece in self._bounded(response, deadline_s):
            if stopped.is_set():
                raise SourceFailed("stopped")
            into.write(piece)
        return SourceMark(_header(response, b"etag"), _header(response, b"last-modified"))

    def _bounded(self, response: httpcore.Response, deadline_s: float) -> Iterator[bytes]:
        size_bytes = 0
        for piece in response.iter_stream():
            size_bytes += len(piece)
            if size_bytes > self._limits.max_bytes:
                raise SourceFailed("too_large")
            if time.monotonic() > deadline_s:
                raise SourceFailed("timeout")
            yield piece


def _target(url: str, location: str) -> str:
    """Where a redirect leads. Raises SourceFailed where it leads somewhere weaker."""
    target = urljoin(url, location).partition("#")[0]
    try:
        parts = urlsplit(target)
        is_usable = bool(location and parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        is_usable = False
    weaker = url.startswith("https:") and not target.startswith("https:")
    if not is_usable or weaker or not target.startswith(("http://", "https://")):
        raise SourceFailed("redirect_refused")
    return target


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)


def _header(response: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")
