"""M4: sources that lead where they must not are refused, and not one packet goes there.

Each connection that Python begins is told by the interpreter before its first packet (`tests/support/connects.py`);
what is asked for goes through the front of a real server, but for names that change their address: those need a
resolver of the test's own.
"""

import io
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from itertools import cycle
from pathlib import Path

import pytest

from dari.adapters.sources.addresses import AllowedAddresses
from dari.adapters.sources.bounds import FetchLimits
from dari.adapters.sources.reader import SourceFiles, SourcePlaces
from dari.adapters.sources.web import WebFetcher
from dari.adapters.tenant_secrets import TenantSecrets
from dari.client.decompression import unpacked
from dari.core.sources import KnowledgeBaseSource
from dari.core.sync import SourceFailed, SourceMark
from dari.v1 import mapping_pb2 as pb
from tests.fix_server import StartServer
from tests.support.connects import connects
from tests.support.fault_sizes import SEEDS
from tests.support.file_server import FileServer
from tests.support.running_dari import RunningDari
from tests.support.waiting import until

CONTENT = b"id\n1\n"
TENANT = "default"
SECRET = b"id\nsecret\n"
LIMITS = FetchLimits(max_bytes=1_000, timeout_s=30.0)
PRIVATE = [
    *map(ip_network, ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10",
                      "0.0.0.0/8", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4", "192.0.0.0/29", "192.0.2.0/24")),
    *map(ip_network, ("::1/128", "::/128", "fe80::/10", "fc00::/7", "fec0::/10", "ff00::/8", "2001:db8::/32")),
]  # fmt: skip


def spelled(chance: random.Random, network: IPv4Network | IPv6Network) -> str:
    """An address of the network as a URL may have it: there are many ways to write one."""
    number = int(network.network_address) + chance.randrange(network.num_addresses)
    if isinstance(network, IPv6Network):
        return f"[{IPv6Address(number)}]"
    parts = list(IPv4Address(number).packed)
    return chance.choice(
        (
            ".".join(map(str, parts)),
            str(number),
            hex(number),
            f"0{number:o}",
            ".".join(f"0{part:o}" for part in parts),
            ".".join(map(hex, parts)),
            f"{parts[0]}.{number & 0xFFFFFF}",
            f"{parts[0]}.{parts[1]}.{number & 0xFFFF}",
            f"[::ffff:{IPv4Address(number)}]",
            f"[64:ff9b::{IPv4Address(number)}]",
            f"[{IPv6Address((0x2002 << 112) | (number << 80))}]",
        )
    )


def codes(dari: RunningDari, *uris: str) -> list[str]:
    """What becomes of a sync of each, in order."""
    for number, uri in enumerate(uris):
        base = pb.KnowledgeBase(source=pb.KnowledgeBaseSource(uri=uri))
        request = pb.CreateKnowledgeBaseRequest(knowledge_base_id=f"kb{number}", knowledge_base=base)
        dari.mapping.CreateKnowledgeBase(request)
        dari.mapping.SyncKnowledgeBase(pb.SyncKnowledgeBaseRequest(name=f"knowledgeBases/kb{number}"))

    def ended() -> list[pb.Sync]:
        found = dari.mapping.ListSyncs(pb.ListSyncsRequest(page_size=1_000)).syncs
        return [sync for sync in found if sync.state != pb.SYNC_STATE_RUNNING]

    until(lambda: len(ended()) == len(uris))
    by_base = {sync.knowledge_base: sync.code for sync in ended()}
    return [by_base[f"knowledgeBases/kb{number}"] for number in range(len(uris))]


def test_no_address_that_is_not_public_gets_a_packet(start_server: StartServer) -> None:
    """Of every network that is none, however it is written, by http and https; and localhost by its name."""
    dari = start_server().dari
    chance = random.Random(SEEDS)
    drawn = [spelled(chance, network) for network in PRIVATE for _ in range(max(1, SEEDS // 12))]
    hosts = [*drawn, "localhost", "LOCALHOST.", "127.1", "①②⑦.⓪.⓪.①", "user.localhost"]
    uris = [f"{chance.choice(('http', 'https'))}://{host}:{chance.choice((80, 443, 5432))}/x" for host in hosts]
    with connects() as made:
        found = codes(dari, *uris)
    # A name or spelling that nobody knows has no address; not one of them may have been gone to.
    assert {code for code in found if code not in ("not_reached", "not_a_url")} == {"address_refused"}
    assert found.count("address_refused") > len(found) * 0.8
    assert made == []


def test_an_address_that_the_settings_name_is_gone_to(start_server: StartServer) -> None:
    """The control: this is how connections are seen."""
    dari = start_server(source_networks_allowed=["127.0.0.1/32"]).dari
    with FileServer(CONTENT) as files, connects() as made:
        assert codes(dari, files.url) == [""]
    assert made == [("127.0.0.1", files.port)]


def test_no_redirect_leads_inside(start_server: StartServer) -> None:
    """From an address that is allowed, by each status, to each kind of place; none is gone to."""
    dari = start_server(source_networks_allowed=["127.0.0.1/32"]).dari
    chance = random.Random(SEEDS)
    inner = [f"http://{spelled(chance, network)}:80/x" for network in PRIVATE if str(network) != "127.0.0.0/8"]
    inner += ["http://127.0.0.2/x", "//10.0.0.1/x", "http://localhost.localdomain:1/x"]
    weaker = ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x", "http://a:b@127.0.0.1/x"]
    with Elsewhere([*inner, *weaker]) as files, connects() as made:
        found = codes(dari, *(f"{files.url}?{number}" for number in range(len(inner) + len(weaker))))
    assert set(found[: len(inner)]) <= {"address_refused", "not_reached", "redirect_refused"}
    assert found.count("address_refused") > len(inner) * 0.8
    assert set(found[len(inner) :]) == {"redirect_refused"}
    assert set(made) == {("127.0.0.1", files.port)}
    assert len(made) == len(found)


class Elsewhere(FileServer):
    """Sends the request `…?N` to the Nth place."""

    def __init__(self, places: list[str]) -> None:
        super().__init__(b"")
        self._places = places

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        number = int(handler.path.partition("?")[2])
        handler.send_response((301, 302, 303, 307, 308)[number % 5])
        handler.send_header("Location", self._places[number])
        handler.send_header("Content-Length", "0")
        handler.end_headers()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_name_that_changes_its_address_leads_nowhere_else(seed: int) -> None:
    """At each look another answer, allowed and refused ones mixed: no refused address is ever gone to."""
    chance = random.Random(seed)
    refused = ["127.0.0.2", "10.0.0.1", "169.254.169.254", "::1", "fd00::1", "0.0.0.0"]
    looks = [chance.sample(["127.0.0.1", *refused], chance.randrange(1, 4)) for _ in range(7)]
    answers = cycle(looks)
    addresses = AllowedAddresses(("127.0.0.1/32",), lambda host, port: next(answers))
    with FileServer(CONTENT) as files, Elsewhere([f"http://turning.example:{files.port}/y"]) as first:
        for _ in looks:
            with connects() as made:
                found = outcome(WebFetcher(addresses, LIMITS), f"http://turning.example:{first.port}/x?0")
            assert found in (CONTENT, "address_refused")
            assert {host for host, _ in made} <= {"127.0.0.1"}


def outcome(fetcher: WebFetcher, url: str) -> bytes | str:
    """The content, or the code of the failure."""
    into = io.BytesIO()
    try:
        fetcher.fetch(url, "", SourceMark(), into, threading.Event())
    except SourceFailed as error:
        return error.code
    return into.getvalue()


def test_no_file_outside_the_allowed_folders_is_read(start_server: StartServer, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret.csv").write_bytes(SECRET)
    (folder / "link.csv").symlink_to(tmp_path / "secret.csv")
    (folder / "up").symlink_to(tmp_path)
    (folder / "own.csv").write_bytes(CONTENT)
    dari = start_server(source_folders=[folder]).dari
    outside = [
        "/etc/passwd",
        "/proc/self/environ",
        "/proc/self/root/etc/passwd",
        "/dev/zero",
        f"{tmp_path}/secret.csv",
        f"{folder}/../secret.csv",
        f"{folder}/%2e%2e/secret.csv",
        f"{folder}//..//secret.csv",
        f"{folder}/link.csv",
        f"{folder}/up/secret.csv",
    ]
    found = codes(dari, *(f"file://{path}" for path in outside), f"file://{folder}/own.csv")
    assert found == ["not_in_source_folders"] * len(outside) + [""]


def test_a_file_that_becomes_a_link_at_the_last_moment_is_not_followed(tmp_path: Path) -> None:
    """Between the look at a path and its opening, a file or a folder on the way is exchanged again and again."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "x.csv").write_bytes(CONTENT)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.csv").write_bytes(SECRET)
    reader = SourceFiles(
        WebFetcher(AllowedAddresses(), LIMITS), SourcePlaces((folder,)), TenantSecrets({}, TENANT), unpacked,
        spool_dir=tmp_path / "spool", limits=LIMITS,
    )  # fmt: skip
    source = KnowledgeBaseSource((folder / "sub" / "x.csv").as_uri())
    seen: set[bytes | str] = set()
    with exchanged(folder / "sub", tmp_path / "outside"):
        for _ in range(SEEDS * 25):
            try:
                with reader.fetch(TENANT, source, SourceMark(), threading.Event()) as fetched:
                    assert fetched is not None
                    seen.add(fetched.content.read(100))
            except SourceFailed as error:
                seen.add(error.code)
    assert CONTENT in seen
    assert seen <= {CONTENT, "not_in_source_folders", "not_found", "not_read"}


@contextmanager
def exchanged(folder: Path, outside: Path) -> Iterator[None]:
    """As long as the body runs, `folder` is itself and a link to `outside` in turn."""
    aside, link = folder.with_name("aside"), folder.with_name("link")
    done = threading.Event()

    def exchange() -> None:
        while not done.is_set():
            link.symlink_to(outside)
            folder.rename(aside)
            link.rename(folder)
            os.sched_yield()
            folder.unlink()
            aside.rename(folder)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


SCHEMES = [
    "ftp://127.0.0.1/x",
    "sftp://127.0.0.1/x",
    "hdfs://127.0.0.1/x",
    "smb://127.0.0.1/x",
    "data://text/x",
    "local:///etc/passwd",
    "s3://bucket/x::http://127.0.0.1/x",
    "zip://a/x::file:///etc/passwd",
]


def test_no_other_scheme_and_no_chain_of_them_leads_anywhere(start_server: StartServer) -> None:
    dari = start_server().dari
    with connects() as made:
        assert set(codes(dari, *SCHEMES)) == {"scheme_not_allowed"}
    assert made == []
