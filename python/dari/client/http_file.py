"""A file on an http or https server, read from its first byte to its last whatever happens to the connection.

A response that breaks is asked for again from the byte where it broke: with a Range where the server knows them, and
otherwise from the beginning, dropping what came already. The file must be the same one, by its ETag, Last-Modified and
size, or reading ends with SourceUnreadable; so it does where the server sends neither of the first two, since a page
that is made anew for each request would end as another than it began.
"""

import re
import time
from collections.abc import Iterator
from http import HTTPStatus

import httpx

from dari.client.errors import SourceAway, SourceUnreadable
from dari.client.outage import Outage

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
"""Longest silence of a server that has a response to give."""

_PASSING_STATUSES = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d+)-\d+/(?P<size>\d+|\*)")

_READ_ENCODINGS = frozenset({"identity", "gzip", "zstd"})
"""What a server may wrap the file in unasked; whoever reads the file takes it off again, by its first bytes."""


class _Busy(httpx.TransportError):
    """The server answered, and says that it cannot now."""


class HttpFile:
    """The bytes behind a URL; seeks by asking again. Close it. Not thread-safe."""

    def __init__(self, url: str, name: str, *, give_up_after_s: float) -> None:
        """Ask for the file. What fails here is raised at once; later failures are got over for `give_up_after_s`.

        `name` stands in the messages of errors, where the URL itself might tell its keys.

        Raises SourceUnreadable for what the server refuses, and SourceAway where it is not reached.
        """
        self._url = url
        self._name = name
        self._outage = Outage(give_up_after_s)
        self._client = httpx.Client(
            # As it lies there: a server's gzip on the way would hide the size and the byte to go on from.
            headers={"Accept-Encoding": "identity"},
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            follow_redirects=True,
        )
        self._response: httpx.Response | None = None
        self._pieces: Iterator[bytes] = iter(())
        self._rest = b""
        self._position = 0
        try:
            self._response = self._requested(0)
        except httpx.TransportError as error:
            self.close()
            raise SourceAway(f"{self._name}: {_reason(error)}") from error
        except BaseException:
            self.close()
            raise
        self._pieces = self._response.iter_raw()
        self._etag = self._response.headers.get("ETag")
        self._last_modified = self._response.headers.get("Last-Modified")
        length = self._response.headers.get("Content-Length")
        self.size_bytes = int(length) if length is not None else None
        """None where the server does not say it."""

    @property
    def mark(self) -> str | None:
        """What tells this content from another at the same URL; None where the server tells nothing."""
        if self._etag is None and self._last_modified is None:
            return None
        return f"{self._etag} {self._last_modified} {self.size_bytes}"

    def close(self) -> None:
        """End the response."""
        if self._response is not None:
            self._response.close()
        self._client.close()

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, /) -> int:
        """Stand at this byte; the next read asks for it where it is another than now."""
        if offset != self._position:
            self._drop_response()
            self._position = offset
        return offset

    def read(self, size: int, /) -> bytes:
        """`size` bytes, fewer at the end of the file. Raises SourceUnreadable, SourceAway."""
        parts: list[bytes] = []
        wanted = size
        while wanted and (piece := self._next_piece()):
            parts.append(piece[:wanted])
            self._rest = piece[wanted:]
            self._position += len(parts[-1])
            wanted -= len(parts[-1])
        return b"".join(parts)

    def _next_piece(self) -> bytes:
        """What comes next from the connection; none at the end of the file."""
        while True:
            try:
                if self._response is None:
                    self._resume()
                piece, self._rest = self._rest or next(self._pieces, b""), b""
            except httpx.TransportError as error:
                self._drop_response()
                self._pause(error)
                continue
            self._outage.end()
            return piece

    def _pause(self, cause: httpx.TransportError) -> None:
        pause_s = self._outage.next_pause_s()
        if pause_s is None:
            lasted_s = self._outage.lasted_s
            raise SourceAway(
                f"{self._name}: gave up after {lasted_s:.0f} s at byte {self._position:,}: {_reason(cause)}"
            ) from cause
        time.sleep(pause_s)

    def _resume(self) -> None:
        """Ask for the rest of the file from the present byte on."""
        if self._position == self.size_bytes:
            return
        if self.mark is None:
            raise SourceUnreadable(
                f"{self._name}: the connection broke at byte {self._position:,}, and nothing tells whether the rest "
                "would be of the same file: the server sends no ETag and no Last-Modified. Begin again."
            )
        response = self._response = self._requested(self._position)
        self._pieces = response.iter_raw()
        if response.status_code != HTTPStatus.PARTIAL_CONTENT:
            self._check_same(response, response.headers.get("Content-Length"))
            self._skip(self._position)
            return
        content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if content_range is None or int(content_range["first"]) != self._position:
            raise SourceUnreadable(f"{self._name}: the server gave another range than byte {self._position:,} on.")
        self._check_same(response, content_range["size"])

    def _check_same(self, response: httpx.Response, size: str | None) -> None:
        for before, now in (
            (self._etag, response.headers.get("ETag")),
            (self._last_modified, response.headers.get("Last-Modified")),
            (self.size_bytes, int(size) if size not in (None, "*") else None),
        ):
            if before is not None and now is not None and before != now:
                raise SourceUnreadable(f"{self._name}: the file changed while it was read; begin again.")

    def _skip(self, count: int) -> None:
        """Drop the bytes that came before, from a server that gives the whole file only."""
        while count:
            piece = next(self._pieces, b"")
            if not piece:
                raise SourceUnreadable(f"{self._name}: the file is shorter than it was; begin again.")
            self._rest = piece[count:]
            count -= min(count, len(piece))

    def _requested(self, offset: int) -> httpx.Response:
        """A response that gives the file's bytes. Raises SourceUnreadable, and httpx's error where it may pass."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            request = self._client.build_request("GET", self._url, headers=headers)
            response = self._client.send(request, stream=True)
        except httpx.TransportError:
            raise
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise SourceUnreadable(f"{self._name}: {_reason(error)}") from error
        encoding = response.headers.get("Content-Encoding", "identity")
        if response.status_code in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT) and encoding in _READ_ENCODINGS:
            return response
        response.close()
        status = f"HTTP {response.status_code} {response.reason_phrase}".rstrip()
        if response.status_code in _PASSING_STATUSES:
            raise _Busy(status)
        raise SourceUnreadable(f"{self._name}: {status}{'' if response.is_error else f', packed as {encoding}'}")

    def _drop_response(self) -> None:
        if self._response is not None:
            self._response.close()
        self._response = None
        self._pieces = iter(())
        self._rest = b""


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
