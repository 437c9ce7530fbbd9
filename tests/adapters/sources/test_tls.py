"""https sources: the connection goes to the address that was judged, and the certificate must be the name's."""

import io
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from dari.adapters.sources.addresses import AllowedAddresses
from dari.adapters.sources.bounds import FetchLimits
from dari.adapters.sources.web import WebFetcher
from dari.core.sync import SourceFailed, SourceMark
from tests.support.credentials import Authority
from tests.support.file_server import FileServer

CONTENT = b"id\n1\n"
HOST = "sales.example"


@pytest.fixture
def authority() -> Authority:
    return Authority()


Serve = Callable[..., ssl.SSLContext]


@pytest.fixture
def serving(authority: Authority, tmp_path: Path) -> Serve:
    """The TLS of a server with a certificate for a name; the names that clients ask for go into `asked`."""

    def serve(name: str, asked: list[str | None] | None = None, by: Authority = authority) -> ssl.SSLContext:
        pem = by.issue(name, addresses=())
        file = tmp_path / f"{name}.pem"
        file.write_bytes(pem.certificate + pem.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        context.sni_callback = lambda _socket, name, _context: None if asked is None else asked.append(name)
        return context

    return serve


def fetch(url: str, authority: Authority, *addresses: str) -> tuple[bytes, list[str]]:
    """What is fetched where every name has these addresses, and the names that were looked up."""
    looked_up: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        looked_up.append(host)
        return list(addresses or ("127.0.0.1",))

    allowed = AllowedAddresses(("127.0.0.1/32", "127.0.0.3/32"), resolve)
    trusting = ssl.create_default_context(cadata=authority.pem.decode())
    into = io.BytesIO()
    fetcher = WebFetcher(allowed, FetchLimits(1_000, 30.0), trusting)
    fetcher.fetch(url, "", SourceMark(), into, threading.Event())
    return into.getvalue(), looked_up


def test_tls_and_host_have_the_name_while_the_address_is_pinned(authority: Authority, serving: Serve) -> None:
    """One look-up; the name in SNI, in Host, and in the certificate."""
    asked: list[str | None] = []
    with FileServer(CONTENT, tls=serving(HOST, asked)) as files:
        content, looked_up = fetch(f"https://{HOST}:{files.port}/x", authority)
        assert content == CONTENT
        assert looked_up == [HOST]
        assert asked == [HOST]
        assert files.asked[0]["Host"] == f"{HOST}:{files.port}"


@pytest.mark.parametrize("url", ["https://other.example:{port}/x", "https://127.0.0.1:{port}/x"])
def test_a_certificate_of_another_name_is_refused(authority: Authority, serving: Serve, url: str) -> None:
    """Also where only the address is right; nothing is asked for before."""
    with FileServer(CONTENT, tls=serving(HOST)) as files:
        with pytest.raises(SourceFailed, match="not_reached"):
            fetch(url.format(port=files.port), authority)
        assert not files.asked


def test_a_certificate_of_an_unknown_authority_is_refused(authority: Authority, serving: Serve) -> None:
    with FileServer(CONTENT, tls=serving(HOST, by=Authority("stranger"))) as files:
        with pytest.raises(SourceFailed, match="not_reached"):
            fetch(f"https://{HOST}:{files.port}/x", authority)
        assert not files.asked


def test_a_redirect_to_another_name_must_have_that_name_s_certificate(authority: Authority, serving: Serve) -> None:
    """And is looked up anew, by its own name."""
    with FileServer(CONTENT, tls=serving("store.example")) as store:
        with Redirecting(f"https://store.example:{store.port}/y", serving(HOST)) as files:
            content, looked_up = fetch(f"https://{HOST}:{files.port}/x", authority)
            assert (content, looked_up) == (CONTENT, [HOST, "store.example"])
        elsewhere = f"https://else.example:{store.port}/y"
        with Redirecting(elsewhere, serving(HOST)) as files, pytest.raises(SourceFailed, match="not_reached"):
            fetch(f"https://{HOST}:{files.port}/x", authority)


def test_a_redirect_out_of_tls_is_refused(authority: Authority, serving: Serve) -> None:
    with FileServer(CONTENT) as open_files, Redirecting(open_files.url, serving(HOST)) as files:
        with pytest.raises(SourceFailed, match="redirect_refused"):
            fetch(f"https://{HOST}:{files.port}/x", authority)
        assert not open_files.asked


def test_the_next_allowed_address_of_a_name_is_tried_and_no_refused_one(authority: Authority, serving: Serve) -> None:
    """127.0.0.2 is not allowed; nobody listens on 127.0.0.3, which is."""
    with FileServer(CONTENT, tls=serving(HOST)) as files:
        url = f"https://{HOST}:{files.port}/x"
        assert fetch(url, authority, "127.0.0.2", "127.0.0.3", "127.0.0.1")[0] == CONTENT
        with pytest.raises(SourceFailed, match="address_refused"):
            fetch(url, authority, "127.0.0.2")


class Redirecting(FileServer):
    """Sends everybody elsewhere."""

    def __init__(self, location: str, tls: ssl.SSLContext) -> None:
        super().__init__(b"", tls=tls)
        self._location = location

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", self._location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
