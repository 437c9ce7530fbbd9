"""Fetches a file from a web server: only where it has changed, and only from addresses that are allowed.

Redirects are followed by hand, since each hop is judged anew: its scheme may not get weaker, and credentials stay with
the origin that they are for. No proxy of the environment is used: it would resolve names itself.

A response that breaks is gone on with from the byte where it broke, where its ETag is a strong one: a Range for the
rest, If-Range for the same file only (RFC 9110, 13.1.5). A server that answers with the whole file instead, because it
knows no ranges or the file is another one by now, is read from its first byte again. Without such an ETag nothing
tells that the rest would be of the same file, and the fetch has failed.
"""

import re
import ssl
import threading
from contextlib import ExitStack
from http import HTTPStatus
from typing import BinaryIO
from urllib.parse import urljoin

import httpcore
import httpx

from dari.adapters.sources.addresses import AddressRefused, AllowedAddresses
from dari.adapters.sources.bounds import FetchBounds, FetchLimits
from dari.adapters.sources.connections import PinnedBackend
from dari.core.sync import SourceFailed, SourceMark

_MAX_REDIRECTS = 5
_MAX_BREAKS = 20
"""Of one fetch; each is a request more."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_TIMEOUTS_S = {"connect": 10.0, "read": 60.0, "write": 10.0, "pool": 10.0}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 416, 425, 429, 500, 502, 503, 504})
"""Statuses to the request for a rest that are no last word; behind 416 the file is read from its first byte again."""
_READ_ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "zstd"})
"""What a server may pack the file in unasked; it is unpacked by its first bytes."""
_STRONG_ETAG = re.compile(r'"[^"]*"')
_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d+)-\d+/(?P<size>\d+|\*)")
_BROKEN = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, TimeoutError, ssl.SSLError)


class WebFetcher:
    """Fetches over http and https. Thread-safe; each request has a connection of its own."""

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
        if not (token.isascii() and token.isprintable()):
            raise SourceFailed("unusable_secret")
        download = _Download(known, into, FetchBounds(self._limits, stopped))
        breaks = fruitless = 0
        while True:
            before_bytes = into.tell()
            try:
                return self._followed(url, token, download)
            except AddressRefused:
                raise SourceFailed("address_refused") from None
            except (*_BROKEN, _Again) as error:
                breaks += 1
                if not download.can_go_on or breaks > _MAX_BREAKS:
                    raise SourceFailed(_code(error)) from None
            fruitless = 0 if into.tell() > before_bytes else fruitless + 1
            download.bounds.pause(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0**fruitless))

    def _followed(self, url: str, token: str, download: "_Download") -> SourceMark | None:
        """Ask for what is left, from redirect to redirect."""
        first = target = _parsed(url)
        for _ in range(_MAX_REDIRECTS + 1):
            with ExitStack() as opened:
                own_token = token if _origin(target) == _origin(first) else ""
                response = self._requested(target, download.asking(own_token), download.bounds, opened)
                if response.status not in _REDIRECTS:
                    return download.taken(response)
                target = _redirected(target, _header(response, b"location"))
        raise SourceFailed("too_many_redirects")

    def _requested(
        self, url: httpx.URL, asking: dict[str, str], bounds: FetchBounds, opened: ExitStack
    ) -> httpcore.Response:
        pool = opened.enter_context(
            httpcore.ConnectionPool(
                ssl_context=self._ssl_context,
                max_connections=1,
                max_keepalive_connections=0,
                network_backend=PinnedBackend(self._addresses, bounds),
            )
        )
        # As bytes, since an ETag may hold any of them.
        headers = [(b"Host", url.netloc), (b"Accept-Encoding", b"identity"), (b"User-Agent", b"dari")]
        headers += [(name.encode(), value.encode("latin-1")) for name, value in asking.items()]
        where = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        return opened.enter_context(
            pool.stream("GET", where, headers=headers, extensions={"timeout": dict(_TIMEOUTS_S)})
        )


class _Again(Exception):
    """The rest did not come, and may come on another request."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class _Download:
    """A file on its way, over as many responses as it takes."""

    def __init__(self, known: SourceMark, into: BinaryIO, bounds: FetchBounds) -> None:
        self.bounds = bounds
        self._known = known
        self._into = into
        self._mark: SourceMark | None = None
        """Of the response that the bytes so far are from; None before any."""

    @property
    def can_go_on(self) -> bool:
        """Whether the rest of the same file can be asked for."""
        return self._mark is not None and _STRONG_ETAG.fullmatch(self._mark.etag) is not None

    @property
    def _is_conditional(self) -> bool:
        """Whether the next request is one for the file where it is not the known one."""
        return not self._into.tell() and bool(self._known.etag or self._known.last_modified)

    def asking(self, token: str) -> dict[str, str]:
        """Headers that ask for the rest, or for the file where it is not the known one."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if self._mark is not None and self._into.tell():
            return headers | {"Range": f"bytes={self._into.tell()}-", "If-Range": self._mark.etag}
        headers |= {"If-None-Match": self._known.etag} if self._known.etag else {}
        return headers | ({"If-Modified-Since": self._known.last_modified} if self._known.last_modified else {})

    def taken(self, response: httpcore.Response) -> SourceMark | None:
        """Write what a response brings; returns the mark of the file, None where it is the known one.

        Raises SourceFailed, _Again, and what httpcore does where the response breaks.
        """
        if response.status == HTTPStatus.NOT_MODIFIED and self._is_conditional:
            return None
        size_bytes = self._begun(response)
        for piece in response.iter_stream():
            self.bounds.take(piece, self._into)
        if size_bytes is not None and self._into.tell() < size_bytes:
            raise _Again("not_reached")
        return self._mark

    def _begun(self, response: httpcore.Response) -> int | None:
        """Stand where the body of this response belongs; returns the size of the file where a range tells it."""
        if _header(response, b"content-encoding").lower() not in _READ_ENCODINGS:
            raise SourceFailed("packed_unreadably")
        if response.status == HTTPStatus.PARTIAL_CONTENT and self._mark is not None:
            return self._gone_on(response)
        if self._mark is not None and response.status in _PASSING:
            if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._empty()
            raise _Again(f"http_{response.status}")
        if response.status != HTTPStatus.OK:
            raise SourceFailed(f"http_{response.status}")
        self._empty()
        self._mark = SourceMark(_header(response, b"etag"), _header(response, b"last-modified"))
        return None

    def _gone_on(self, response: httpcore.Response) -> int | None:
        found = _CONTENT_RANGE.fullmatch(_header(response, b"content-range"))
        etag = _header(response, b"etag")
        is_rest = found is not None and int(found["first"]) == self._into.tell()
        if found is None or not is_rest or self._mark is None or etag not in ("", self._mark.etag):
            raise SourceFailed("wrong_range")
        return None if found["size"] == "*" else int(found["size"])

    def _empty(self) -> None:
        self._into.seek(0)
        self._into.truncate()


def _parsed(url: str) -> httpx.URL:
    """Percent-encoded, the host in its ASCII form. Raises SourceFailed where it is no URL."""
    try:
        return httpx.URL(url)
    except httpx.InvalidURL:
        raise SourceFailed("not_a_url") from None


def _redirected(url: httpx.URL, location: str) -> httpx.URL:
    """Where a redirect leads. Raises SourceFailed where it leads somewhere weaker."""
    try:
        target = httpx.URL(urljoin(str(url), location))
    except (httpx.InvalidURL, ValueError):
        raise SourceFailed("redirect_refused") from None
    is_weaker = url.scheme == "https" and target.scheme != "https"
    if not location or not target.host or target.userinfo or is_weaker or target.scheme not in ("http", "https"):
        raise SourceFailed("redirect_refused")
    return target


def _origin(url: httpx.URL) -> tuple[str, bytes, int | None]:
    """Its port is None where the scheme has it anyway: so httpx reads it."""
    return url.scheme, url.raw_host, url.port


def _code(error: Exception) -> str:
    if isinstance(error, _Again):
        return error.code
    return "timeout" if isinstance(error, httpcore.TimeoutException | TimeoutError) else "not_reached"


def _header(response: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")
