"""What the upstreams that answer over HTTP share: one exchange with them, and the sorting of its failures.

An adapter writes its dialect as one generator over an `Exchange` (send this, read that, yield the pieces of the
answer); `HttpAttempt` makes an `Attempt` of it. No timer is kept here except the connect timeout: the chain's timers
call `abort`. Foreign text is read to sort a failure and then dropped: an `UpstreamError` carries our words only, and
is raised without a cause, since the causes quote hosts, headers and bodies.
"""

import errno
import json
import random
import re
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, cast

import httpx

from dari.adapters.abortable_http import MAX_CONNECTIONS, AbortSwitch, StaleConnection, open_client, send
from dari.adapters.retry_budget import RetryBudget
from dari.adapters.sse import EventTooLarge, ServerSentEvent, SseDecoder
from dari.core.upstream import FailureKind, Sign, UpstreamError

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""The longest event, line or JSON answer that is read. Flowise's `metadata` repeats the whole question in one line."""

MAX_ERROR_BODY_BYTES = 64 * 1024
"""How much of an error's body is read to sort it."""

MAX_RETRY_AFTER_S = 24 * 60 * 60.0
"""A longer Retry-After is taken for this."""

_RETRY_PAUSE_S = (0.001, 0.005)
"""Shortest and longest wait before a second sending. A server that restarts has closed all its connections at once:
not all that were kept should come back in the same moment."""

MAX_LEADING_BLANKS = 10_000
"""An answer that begins with more white space than this counts as empty."""

_UPSTREAM, _BUSY, _OURS = FailureKind.UPSTREAM, FailureKind.BUSY, FailureKind.OURS

Cause = tuple[FailureKind, str]
"""What a failure is sorted into: its kind and its code."""

TRANSPORT_FAILURES: dict[type[Exception], Cause] = {
    # Every exception class of httpx 0.28; a test compares this table with the package.
    httpx.ConnectTimeout: (_UPSTREAM, "connect_timeout"),
    httpx.ReadTimeout: (_UPSTREAM, "read_timeout"),
    httpx.WriteTimeout: (_UPSTREAM, "write_timeout"),
    httpx.PoolTimeout: (_BUSY, "too_many_streams"),
    httpx.TimeoutException: (_UPSTREAM, "timeout"),
    httpx.ConnectError: (_UPSTREAM, "connect_failed"),
    httpx.ReadError: (_UPSTREAM, "connection_lost"),
    httpx.WriteError: (_UPSTREAM, "connection_lost"),
    httpx.CloseError: (_UPSTREAM, "connection_lost"),
    httpx.NetworkError: (_UPSTREAM, "connection_lost"),
    httpx.RemoteProtocolError: (_UPSTREAM, "malformed_response"),
    httpx.LocalProtocolError: (_OURS, "malformed_request"),
    httpx.ProtocolError: (_UPSTREAM, "malformed_response"),
    httpx.ProxyError: (_UPSTREAM, "proxy_failed"),
    httpx.UnsupportedProtocol: (_OURS, "wrong_url"),
    httpx.TransportError: (_UPSTREAM, "connection_lost"),
    httpx.DecodingError: (_UPSTREAM, "malformed_response"),
    httpx.TooManyRedirects: (_OURS, "wrong_url"),
    httpx.RequestError: (_UPSTREAM, "connection_lost"),
    httpx.HTTPStatusError: (_UPSTREAM, "http_error"),
    httpx.HTTPError: (_UPSTREAM, "http_error"),
    httpx.InvalidURL: (_OURS, "wrong_url"),
    httpx.CookieConflict: (_UPSTREAM, "malformed_response"),
    httpx.StreamConsumed: (_UPSTREAM, "malformed_response"),
    httpx.StreamClosed: (_UPSTREAM, "connection_lost"),
    httpx.ResponseNotRead: (_UPSTREAM, "malformed_response"),
    httpx.RequestNotRead: (_OURS, "malformed_request"),
    httpx.StreamError: (_UPSTREAM, "malformed_response"),
}

_FOREIGN: tuple[type[Exception], ...] = (OSError, *TRANSPORT_FAILURES)

_SYSTEM_FAILURES: dict[int, Cause] = {
    errno.ECONNREFUSED: (_UPSTREAM, "connection_refused"),
    errno.ECONNRESET: (_UPSTREAM, "connection_reset"),
    errno.EPIPE: (_UPSTREAM, "connection_reset"),
    errno.ETIMEDOUT: (_UPSTREAM, "connect_timeout"),
    errno.EHOSTUNREACH: (_UPSTREAM, "host_unreachable"),
    errno.ENETUNREACH: (_UPSTREAM, "host_unreachable"),
    errno.EMFILE: (_OURS, "too_many_open_files"),
    errno.ENFILE: (_OURS, "too_many_open_files"),
}

_PROTOCOL_FAILURES: tuple[tuple[str, Cause], ...] = (
    # RemoteProtocolError is one class for both; its texts are those of httpcore 1.0 and h11 0.16.
    ("Server disconnected", (_UPSTREAM, "connection_closed")),
    ("peer closed connection", (_UPSTREAM, "stream_cut")),
)


@dataclass(frozen=True, slots=True)
class TextRule:
    """A failure that only its text tells."""

    pattern: re.Pattern[str]
    cause: Cause


@dataclass(frozen=True, slots=True)
class Sorting:
    """How one neighbour's failures are sorted, as data: by its text first, then by status, then by the status's class.

    `final` are statuses whose text is not looked at.
    """

    final: dict[int, Cause]
    texts: tuple[TextRule, ...]
    statuses: dict[int, Cause]
    otherwise: Cause

    def by_text(self, text: str) -> Cause | None:
        return next((rule.cause for rule in self.texts if rule.pattern.search(text)), None)

    def by_status(self, status: int, text: str) -> Cause:
        if status in self.final:
            return self.final[status]
        cause = self.by_text(text) or self.statuses.get(status)
        if cause is not None:
            return cause
        if 300 <= status < 400:
            return _OURS, "wrong_url"
        return (_OURS, "request_rejected") if 400 <= status < 500 else self.otherwise


class Reply:
    """A response whose headers have come: its status, and its body as events or as one JSON value."""

    def __init__(self, response: httpx.Response, switch: AbortSwitch, now: Callable[[], float]) -> None:
        self._response = response
        self._switch = switch
        self._now = now
        self._chunks: Iterator[bytes] = iter(cast(httpx.SyncByteStream, response.stream))
        self.status = response.status_code
        self.media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.headers.get("content-encoding", "identity") != "identity":
            raise UpstreamError(_UPSTREAM, "malformed_response")  # we asked for none

    def events(self) -> Iterator[ServerSentEvent | None]:
        """The events as they come, until the body ends; None behind those after which the next may take its time."""
        decoder = SseDecoder(MAX_EVENT_BYTES)
        read: bytes | None = None
        due_blank_lines = 0
        try:
            for chunk in self._chunks:
                if read is not self._switch.latest_read:
                    # The HTTP library gives all that one read of the socket brought before it reads again.
                    read = self._switch.latest_read
                    due_blank_lines = decoder.blank_lines + blank_lines_in(read)
                yield from decoder.feed(chunk)
                if decoder.blank_lines >= due_blank_lines:
                    yield None
        except EventTooLarge:
            raise UpstreamError(_UPSTREAM, "event_too_large") from None

    def json_object(self) -> dict[str, Any]:
        """The whole body, which must be one JSON object."""
        body, whole = self._read(MAX_EVENT_BYTES)
        if not whole:
            raise UpstreamError(_UPSTREAM, "answer_too_large")
        return json_object(body)

    def error_text(self) -> str:
        """The beginning of the body, to sort an error by; empty where it cannot be read."""
        try:
            return self._read(MAX_ERROR_BODY_BYTES)[0].decode("utf-8", "replace")
        except httpx.HTTPError:
            return ""

    def failure(self, sorting: Sorting) -> UpstreamError:
        """The failure that this reply, whose status is not 200, stands for."""
        kind, code = sorting.by_status(self.status, self.error_text())
        return UpstreamError(kind, code, retry_after_s(self._response.headers.get("retry-after"), self._now()))

    def finish(self) -> None:
        """Take in what is left of a body whose answer is whole, if it is there already.

        What comes later is not waited for: the connection is closed instead of kept.
        """
        self._switch.in_haste = True
        try:
            for _, _ in zip(self._chunks, range(8), strict=False):
                pass
        except httpx.HTTPError:
            pass

    def _read(self, limit_bytes: int) -> tuple[bytes, bool]:
        body = bytearray()
        for chunk in self._chunks:
            body += chunk
            if len(body) > limit_bytes:
                return bytes(body[:limit_bytes]), False
        return bytes(body), True


class Exchange:
    """What one attempt may send, one request after another, all ended by its one switch."""

    def __init__(
        self,
        client: httpx.Client,
        switch: AbortSwitch,
        connect_timeout_s: float,
        now: Callable[[], float],
        retries: RetryBudget,
        headers: Mapping[str, str],
    ) -> None:
        self._headers = headers
        self._client = client
        self._switch = switch
        self._retries = retries
        self._now = now
        self._timeout = httpx.Timeout(None, connect=connect_timeout_s, pool=0.0)

    @property
    def aborted(self) -> bool:
        return self._switch.thrown

    @contextmanager
    def get(self, url: httpx.URL) -> Iterator[Reply]:
        """Ask for a small JSON value."""
        request = self._client.build_request("GET", url, headers=self._headers, timeout=self._timeout)
        with self._reply(request, lambda: request) as reply:
            yield reply

    @contextmanager
    def post(self, url: httpx.URL, body: dict[str, object], **anew: object) -> Iterator[Reply]:
        """Put a question; an unfinished reply has its connection closed, a finished one keeps it for the next.

        `anew` are fields of the body that must not be sent twice: their values for a second sending.
        """
        with self._reply(self._question(url, body), lambda: self._question(url, body | anew)) as reply:
            yield reply

    def _question(self, url: httpx.URL, body: dict[str, object]) -> httpx.Request:
        # ASCII only: cannot fail on a lone surrogate, and no proxy can misread it.
        content = json.dumps(body, separators=(",", ":")).encode("ascii")
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json", **self._headers}
        return self._client.build_request("POST", url, content=content, headers=headers, timeout=self._timeout)

    def _send(self, request: httpx.Request, again: Callable[[], httpx.Request]) -> httpx.Response:
        """Send it; once more where a connection that was kept had ended. Nothing else is worth the caller's time.

        The next model answers sooner than a server that refuses or hangs comes back. A kept connection's end says
        nothing of the server, and asking again costs no more than asking the next model does.
        """
        self._retries.add_request()
        try:
            return send(self._client, request, self._switch)
        except StaleConnection as stale:
            failure = stale.failure
        if not self._retries.take_retry():
            raise failure
        self._switch.pause(random.uniform(*_RETRY_PAUSE_S))  # noqa: S311 - no secret
        try:
            return send(self._client, again(), self._switch)
        except StaleConnection as stale:
            raise stale.failure from None

    @contextmanager
    def _reply(self, request: httpx.Request, again: Callable[[], httpx.Request]) -> Iterator[Reply]:
        response = self._send(request, again)
        try:
            yield Reply(response, self._switch, self._now)
            # Before the connection can serve another attempt, which a late abort must not hit.
            if not self._switch.release():
                raise UpstreamError(FailureKind.CANCELLED, "aborted")
        finally:
            self._switch.release()
            response.close()


Dialect = Callable[[Exchange], Generator[str | Sign]]
"""How one adapter gets the pieces of an answer out of an exchange, with the signs that it can give. ALL_TOLD stands
behind pieces that came together."""
ALL_TOLD = ""


class HttpNeighbour:
    """One upstream's address and its client: everything that its attempts share. Thread-safe.

    Raises `UpstreamError` (ours) where the address or the key cannot be used. The key lives in the client's headers
    only and has no way into a repr. Its connections are closed by `close`, or when nobody holds it any more: the answer
    that an attempt runs holds the upstream, and that this, so that one which is dropped loses no attempt.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        ssl_context: ssl.SSLContext | None,
        now: Callable[[], float],
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self.base_url = _checked_base_url(base_url)
        secure = self.base_url.scheme == "https"
        self._now = now
        self._retries = RetryBudget()
        self._client = open_client(
            _authorization(api_key),
            (ssl_context or httpx.create_ssl_context(trust_env=False)) if secure else None,
            max_connections,
        )
        self._close = weakref.finalize(self, self._client.close)

    def url(self, path: str) -> httpx.URL:
        return self.base_url.copy_with(path=self.base_url.path.rstrip("/") + path)

    def attempt(self, answer: Dialect, connect_timeout_s: float, traceparent: str = "") -> "HttpAttempt":
        """`traceparent` goes along with each request, where there is one."""
        headers = {"traceparent": traceparent} if traceparent else {}
        switch = AbortSwitch()
        exchange = Exchange(self._client, switch, connect_timeout_s, self._now, self._retries, headers)
        return HttpAttempt(exchange, switch, answer)

    def look(self, look: Dialect, timeout_s: float) -> str:
        """All that a short exchange gives, within `timeout_s`. Raises `UpstreamError`."""
        attempt = self.attempt(look, timeout_s)
        timer = threading.Timer(timeout_s, attempt.abort)
        timer.daemon = True
        timer.start()
        try:
            return "".join(piece for piece in attempt.tokens() if isinstance(piece, str))
        finally:
            timer.cancel()

    def close(self) -> None:
        self._close()


class HttpAttempt:
    """An `Attempt`: runs a dialect's generator, and lets nothing but text and `UpstreamError` out of it."""

    def __init__(self, exchange: Exchange, switch: AbortSwitch, answer: Dialect) -> None:
        self._exchange = exchange
        self._switch = switch
        self._answer: Dialect | None = answer

    def tokens(self) -> Iterator[str | Sign]:
        """See `Attempt.tokens`. Anything but an `UpstreamError` that comes out is a defect of ours."""
        answer, self._answer = self._answer, None
        if answer is None:
            raise RuntimeError("an attempt asks once: the next one needs an attempt_id of its own")
        failure: UpstreamError | None = None
        try:
            with closing(answer(self._exchange)) as pieces:
                for text in readable(gathered(pieces)):
                    if self._switch.thrown:
                        break
                    yield text
        except _FOREIGN as error:
            failure = transport_failure(error)
        except UpstreamError as error:
            failure = error
        if self._switch.thrown:
            failure = UpstreamError(FailureKind.CANCELLED, "aborted")
        if failure is not None:
            # Outside of the `except`, so that no foreign exception hangs on it.
            raise failure

    def abort(self) -> None:
        self._switch.abort()


def transport_failure(error: Exception) -> UpstreamError:
    """Sort an exception of httpx, by what the system said where it said something."""
    system = _system_error(error)
    if system is not None:
        cause = _system_failure(system)
        if cause is not None:
            return UpstreamError(*cause)
    if isinstance(error, httpx.RemoteProtocolError):
        for beginning, cause in _PROTOCOL_FAILURES:
            if str(error).startswith(beginning):
                return UpstreamError(*cause)
    return UpstreamError(*TRANSPORT_FAILURES.get(type(error), (_UPSTREAM, "connection_lost")))


def _system_error(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _system_failure(error: OSError) -> Cause | None:
    if isinstance(error, socket.gaierror):
        return _UPSTREAM, "host_not_found"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _OURS, "certificate_not_trusted"
    if isinstance(error, ssl.SSLError):
        return _UPSTREAM, "tls_failed"
    return _SYSTEM_FAILURES.get(error.errno or 0)


def json_object(text: bytes) -> dict[str, Any]:
    """Decode what must be a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UpstreamError(_UPSTREAM, "malformed_stream")
    return value


def retry_after_s(header: str | None, now: float) -> float | None:
    """Seconds to wait by a Retry-After header, which has seconds or an HTTP date (RFC 9110, 10.2.3).

    `now` is Unix time. None where there is no header or it cannot be read.
    """
    if header is None:
        return None
    header = header.strip()
    if header.isascii() and header.isdigit() and len(header) < 10:
        return min(float(header), MAX_RETRY_AFTER_S)
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)  # "-0000": the zone is not told; HTTP dates are UTC
    return min(max(date.timestamp() - now, 0.0), MAX_RETRY_AFTER_S)


def blank_lines_in(read: bytes) -> int:
    """How many blank lines these bytes are sure to hold, cut anywhere and with the frames of chunks between them.

    An LF that ends a frame stands behind a CR, which may have come with the read before. So does one of a body whose
    lines end in CRLF: of that none is counted.
    """
    return read.count(b"\n\n") - read.count(b"\r\n\n") - read.startswith(b"\n\n")


def gathered(pieces: Iterable[str | Sign]) -> Iterator[str | Sign]:
    """Make one piece of those that came together, so that a caller who is behind catches up in few messages."""
    held: list[str] = []
    try:
        for piece in pieces:
            if isinstance(piece, Sign):
                yield piece
            elif piece:
                held.append(piece)
            elif held:
                yield "".join(held)
                held.clear()
    except UpstreamError:
        if held:
            yield "".join(held)
        raise
    if held:
        yield "".join(held)


_SURROGATE = re.compile("[\ud800-\udfff]")


def readable(pieces: Iterable[str | Sign]) -> Iterator[str | Sign]:
    """Make of a model's pieces a text that protobuf and PostgreSQL take, and that begins with something to read.

    Leading white space is held back until something visible comes, so that an answer of nothing else fails before its
    first token. A surrogate pair that a JavaScript server cut between two pieces is joined, a lone surrogate becomes
    U+FFFD, NUL is dropped. Signs pass. Raises `UpstreamError` for an empty answer.
    """
    held = ""
    begun = False
    for piece in pieces:
        if isinstance(piece, Sign):
            yield piece
            continue
        text = held + piece.replace("\x00", "")
        held = ""
        if not begun and not text.strip():
            held = text
            if len(held) > MAX_LEADING_BLANKS:
                break
            continue
        if "\ud800" <= text[-1:] <= "\udbff":
            text, held = text[:-1], text[-1]
        if text:
            begun = True
            yield _whole_characters(text)
    if not begun:
        raise UpstreamError(_UPSTREAM, "empty_answer")
    if held:
        yield _whole_characters(held)


def _whole_characters(text: str) -> str:
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _checked_base_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError):
        raise UpstreamError(_OURS, "wrong_url") from None
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
        raise UpstreamError(_OURS, "wrong_url")
    return url


def _authorization(api_key: str | None) -> dict[str, str]:
    if api_key is None:
        return {}
    if not re.fullmatch("[!-~]+", api_key):
        # Checked here: the HTTP library would quote the header in its error.
        raise UpstreamError(_OURS, "unusable_api_key")
    return {"Authorization": f"Bearer {api_key}"}
