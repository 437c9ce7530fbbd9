"""Downloads of a source: not made where nothing changed, gone on with where they broke, and ended in time."""

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dari.adapters.sources.addresses import AllowedAddresses
from dari.adapters.sources.bounds import FetchLimits
from dari.adapters.sources.web import WebFetcher
from dari.core.sync import SourceFailed, SourceMark
from tests.support.file_server import FileServer

CONTENT = bytes(range(256)) * 4_000
"""A megabyte that is not the same anywhere in 256 bytes."""
DATE = "Tue, 03 Mar 2026 08:00:00 GMT"
LOOPBACK = AllowedAddresses(("127.0.0.0/8",))
LIMITS = FetchLimits(max_bytes=2_000_000, timeout_s=60.0)


def fetch(
    url: str, known: SourceMark | None = None, limits: FetchLimits = LIMITS, token: str = ""
) -> tuple[SourceMark | None, bytes]:
    into = io.BytesIO()
    mark = WebFetcher(LOOPBACK, limits).fetch(url, token, known or SourceMark(), into, threading.Event())
    return mark, into.getvalue()


def code_of(url: str, limits: FetchLimits = LIMITS, known: SourceMark | None = None, token: str = "") -> str:
    with pytest.raises(SourceFailed) as caught:
        fetch(url, known, limits, token)
    return caught.value.code


@pytest.fixture
def files() -> Iterator[FileServer]:
    with FileServer(CONTENT) as server:
        yield server


# Where nothing changed.


@pytest.mark.parametrize(("etag", "last_modified"), [('"1"', None), (None, DATE), ('W/"1"', None), ('"1"', DATE)])
def test_a_known_content_is_not_sent_again(files: FileServer, etag: str | None, last_modified: str | None) -> None:
    """By ETag, weak ones too, or by Last-Modified; and sent as soon as either is another one."""
    files.etag, files.last_modified = etag, last_modified
    mark, content = fetch(files.url)
    assert content == CONTENT
    assert mark == SourceMark(etag or "", last_modified or "")
    sent_bytes = files.sent_bytes
    assert fetch(files.url, mark) == (None, b"")
    assert files.sent_bytes == sent_bytes
    if etag is not None:
        files.etag = '"2"'
    else:
        files.last_modified = "Wed, 04 Mar 2026 08:00:00 GMT"
    assert fetch(files.url, mark)[1] == CONTENT


def test_an_etag_of_any_bytes_comes_back_as_it_was(files: FileServer) -> None:
    files.etag = '"ça\xff"'
    mark, _ = fetch(files.url)
    assert fetch(files.url, mark) == (None, b"")


def test_a_304_that_nobody_asked_for_is_no_answer(files: FileServer) -> None:
    """Otherwise a broken server would make an empty knowledge base look as if it were in step."""
    files.statuses.append(304)
    assert code_of(files.url) == "http_304"


def test_a_url_is_sent_percent_encoded(files: FileServer) -> None:
    """As people write it: Korean names, and blanks in the query."""
    assert fetch(f"http://127.0.0.1:{files.port}/자료/판매.csv?달=3")[1] == CONTENT
    assert fetch(f"http://127.0.0.1:{files.port}/a%2Fb.csv?x=%20y#part")[1] == CONTENT
    assert files.asked[0]["Host"] == f"127.0.0.1:{files.port}"


# Where it breaks.


def test_a_download_that_is_cut_goes_on_where_it_broke(files: FileServer) -> None:
    """Three times, also before the first byte; each byte is sent once."""
    files.cuts.extend([300_000, 0, 500_000])
    mark, content = fetch(files.url)
    assert content == CONTENT
    assert mark == SourceMark('"1"')
    assert files.ranges == [None, "bytes=300000-", "bytes=300000-", "bytes=800000-"]
    assert {asked.get("If-Range") for asked in files.asked[1:]} == {'"1"'}
    assert files.sent_bytes == len(CONTENT)


@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(0, len(CONTENT)), max_size=4), knows_ranges=st.booleans())
def test_wherever_it_is_cut_the_content_is_whole(cuts: list[int], knows_ranges: bool) -> None:
    """Also of a server that knows no ranges: its file is read from the first byte again."""
    with FileServer(CONTENT, knows_ranges=knows_ranges) as files:
        files.cuts.extend(cuts)
        assert fetch(files.url)[1] == CONTENT


def test_a_file_that_became_another_one_is_read_from_its_first_byte() -> None:
    """The beginning of one and the end of the other would look whole."""
    other = CONTENT[::-1]

    class Changing(FileServer):
        def _answer(self, handler: BaseHTTPRequestHandler) -> None:
            super()._answer(handler)
            self.content, self.etag = other, '"2"'

    with Changing(CONTENT) as changing:
        changing.cuts.append(300_000)
        mark, content = fetch(changing.url)
    assert content == other
    assert mark == SourceMark('"2"')


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_without_a_strong_etag_a_cut_download_has_failed(files: FileServer, etag: str | None) -> None:
    """Nothing tells that the rest would be of the same file; the next sync begins anew."""
    files.etag, files.last_modified = etag, DATE
    files.cuts.append(300_000)
    assert code_of(files.url) == "not_reached"
    assert len(files.asked) == 1


def test_a_busy_server_is_asked_for_the_rest_again() -> None:
    class Busy(FileServer):
        def _answer(self, handler: BaseHTTPRequestHandler) -> None:
            super()._answer(handler)
            self.statuses.extend([503, 0] if len(self.asked) == 1 else [])

    with Busy(CONTENT) as busy:
        busy.cuts.append(300_000)
        assert fetch(busy.url)[1] == CONTENT
        assert len(busy.asked) == 4


def test_a_server_that_breaks_again_and_again_is_given_up(files: FileServer) -> None:
    """After a bounded number of requests, each of which brought something."""
    files.cuts.extend([1_000] * 100)
    assert code_of(files.url) == "not_reached"
    assert len(files.asked) == 21


def test_a_refusal_of_the_rest_is_the_last_word() -> None:
    class Gone(FileServer):
        def _answer(self, handler: BaseHTTPRequestHandler) -> None:
            super()._answer(handler)
            self.statuses.append(404)

    with Gone(CONTENT) as gone:
        gone.cuts.append(300_000)
        assert code_of(gone.url) == "http_404"
        assert len(gone.asked) == 2


def test_what_is_packed_unreadably_is_refused(files: FileServer) -> None:
    files.encoding = "br"
    assert code_of(files.url) == "packed_unreadably"


def test_a_secret_that_cannot_stand_in_a_header_is_told(files: FileServer) -> None:
    assert code_of(files.url, token="key\n") == "unusable_secret"
    assert not files.asked


# What would not end.


def test_a_body_without_end_is_cut_at_the_limit() -> None:
    assert code_of_endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65_536, LIMITS) == "too_large"


ENDLESS = [
    ("a header without end", b"HTTP/1.1 200 OK\r\n", b"X"),
    ("a body a byte at a time", b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    ("a body a byte at a time that could be gone on with", b'HTTP/1.1 200 OK\r\nETag: "1"\r\n\r\n', b"x"),
    ("nothing at all", b"", b""),
]


@pytest.mark.parametrize(("head", "piece"), [case[1:] for case in ENDLESS], ids=[case[0] for case in ENDLESS])
def test_a_server_that_never_ends_is_left_after_the_time_for_the_whole(head: bytes, piece: bytes) -> None:
    """However often it says something: each word of it would begin the timeout of a read anew."""
    assert code_of_endless(head, piece, FetchLimits(max_bytes=2_000_000, timeout_s=0.5)) == "timeout"


def test_a_fetch_that_is_stopped_ends(files: FileServer) -> None:
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(SourceFailed, match="stopped"):
        WebFetcher(LOOPBACK, LIMITS).fetch(files.url, "", SourceMark(), io.BytesIO(), stopped)
    assert not files.asked


def code_of_endless(head: bytes, piece: bytes, limits: FetchLimits) -> str:
    with endless(head, piece) as url:
        return code_of(url, limits)


@contextmanager
def endless(head: bytes, piece: bytes) -> Iterator[str]:
    """A server that says `head`, and then `piece` as long as anybody listens; its URL."""
    done = threading.Event()
    talking: list[threading.Thread] = []

    def talk(connection: socket.socket) -> None:
        with closing(connection):
            try:
                connection.sendall(head)
                while not done.wait(0.0 if len(piece) > 1 else 0.01):
                    connection.sendall(piece)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            talking.append(threading.Thread(target=talk, args=(connection,)))
            talking[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        finally:
            done.set()
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for each in talking:
                each.join()
