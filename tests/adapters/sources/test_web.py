"""What a source may be fetched from, and what is refused before the first packet."""

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from dari.adapters.sources.addresses import AllowedAddresses
from dari.adapters.sources.bounds import FetchLimits
from dari.adapters.sources.web import WebFetcher
from dari.core.sync import SourceFailed, SourceMark

LIMITS = FetchLimits(max_bytes=1_000, timeout_s=30.0)
LOOPBACK = ("127.0.0.0/8",)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that must see no connection."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        listening.setblocking(False)
        yield listening


class Web:
    """Answers by path; keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, str | None]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append((self.path, self.headers.get("Authorization")))
                status, headers, body = web.answers[self.path]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.origin = f"http://127.0.0.1:{self.port}"


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    thread = threading.Thread(target=web.server.serve_forever, args=(0.01,))
    thread.start()
    yield web
    web.server.shutdown()
    thread.join()
    web.server.server_close()


def fetch(url: str, addresses: AllowedAddresses, token: str = "") -> tuple[SourceMark | None, bytes]:
    into = io.BytesIO()
    mark = WebFetcher(addresses, LIMITS).fetch(url, token, SourceMark(), into, threading.Event())
    return mark, into.getvalue()


def code_of(url: str, addresses: AllowedAddresses, token: str = "") -> str:
    with pytest.raises(SourceFailed) as caught:
        fetch(url, addresses, token)
    return caught.value.code


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
     "100.64.0.1", "100.100.100.200", "224.0.0.1", "255.255.255.255", "240.0.0.1", "168.63.129.16", "198.18.0.1", "::",
     "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "64:ff9b::7f00:1",
     "2002:7f00:1::", "2001::1", "fec0::1", "fe80::1%eth0", "nonsense"],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not AllowedAddresses().allows(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::101:101"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert AllowedAddresses().allows(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0.0.0.0"])
def test_a_refused_address_gets_not_one_packet(host: str, listener: socket.socket) -> None:
    assert code_of(f"http://{host}:{listener.getsockname()[1]}/x", AllowedAddresses()) == "address_refused"
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_name_is_resolved_once_so_that_one_that_changes_its_address_cannot_win(web: Web) -> None:
    web.answers["/x"] = (200, {}, b"a\n1\n")
    looks: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        looks.append(host)
        return ["127.0.0.1"] if len(looks) == 1 else ["127.0.0.2"]

    assert fetch(f"http://turning.example:{web.port}/x", AllowedAddresses(LOOPBACK, resolve))[1] == b"a\n1\n"
    assert looks == ["turning.example"]


def test_a_redirect_into_a_refused_address_gets_not_one_packet(web: Web, listener: socket.socket) -> None:
    inner = f"http://127.0.0.2:{listener.getsockname()[1]}/x"
    web.answers["/x"] = (302, {"Location": inner}, b"")
    assert code_of(f"{web.origin}/x", AllowedAddresses(("127.0.0.1/32",))) == "address_refused"
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_credentials_stay_with_their_origin(web: Web) -> None:
    web.answers["/x"] = (302, {"Location": f"http://localhost:{web.port}/y"}, b"")
    web.answers["/y"] = (200, {}, b"ok")
    own = AllowedAddresses(LOOPBACK, lambda host, port: ["127.0.0.1"])
    assert fetch(f"{web.origin}/x", own, "secret")[1] == b"ok"
    assert web.asked == [("/x", "Bearer secret"), ("/y", None)]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((302, {"Location": "/x"}, b""), "too_many_redirects"),
        ((302, {"Location": "file:///etc/passwd"}, b""), "redirect_refused"),
        ((302, {}, b""), "redirect_refused"),
        ((404, {}, b""), "http_404"),
        ((200, {}, b"x" * 1_001), "too_large"),
    ],
)
def test_what_is_no_content_is_told_by_a_code(web: Web, answer: tuple[int, dict[str, str], bytes], code: str) -> None:
    web.answers["/x"] = answer
    assert code_of(f"{web.origin}/x", AllowedAddresses(LOOPBACK)) == code
