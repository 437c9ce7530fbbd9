"""The keys that sign tokens: which are taken, and how those of an issuer are fetched."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from dari.adapters.credentials.signing_keys import FetchedKeys, KeyFile, read_keys
from dari.adapters.watched_files import UnusableFile, WatchedFiles
from dari.core.errors import DariError, Unauthenticated, Unavailable
from tests.support.credentials import ed25519_key, key_set, replace_file, rsa_key
from tests.support.event_log import RecordedEvents
from tests.support.file_server import FileServer
from tests.support.waiting import until

SOON_S = 30.0
LONG_S = 3_600.0
pytestmark = pytest.mark.usefixtures("no_proxy")


def test_rsa_and_ed25519_keys_are_taken_and_keep_their_algorithm() -> None:
    keys = read_keys([key_set(ed25519_key(), rsa_key())])
    assert {id: key.algorithm_name for id, key in keys.items()} == {"ed-1": "EdDSA", "rsa-1": "RS256"}


def _elliptic() -> dict[str, object]:
    key = ec.generate_private_key(ec.SECP256R1())
    return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "ec"}


PASSED_OVER = {
    "symmetric": {"kty": "oct", "kid": "oct", "k": "c2VjcmV0"},
    "symmetric that says RS256": {"kty": "oct", "kid": "oct", "k": "c2VjcmV0", "alg": "RS256"},
    "elliptic curve": _elliptic(),
    "for encryption": {**rsa_key().public_jwk, "use": "enc"},
    "for HMAC": {**rsa_key().public_jwk, "alg": "HS256"},
    "for another curve": {**ed25519_key().public_jwk, "crv": "X25519"},
    "a short RSA key": rsa_key("short", 1_024).public_jwk,
    "without an id": {name: value for name, value in rsa_key().public_jwk.items() if name != "kid"},
    "damaged": {**rsa_key().public_jwk, "n": "!"},
}


@pytest.mark.parametrize("key", PASSED_OVER.values(), ids=PASSED_OVER.keys())
def test_keys_of_another_kind_are_passed_over(key: dict[str, object]) -> None:
    assert list(read_keys([key_set(key, ed25519_key())])) == ["ed-1"]
    with pytest.raises(UnusableFile):
        read_keys([key_set(key)])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"keys": 7}', b'{"keys": [7]}', b"[" * 100_000])
def test_what_is_no_key_set_is_refused(content: bytes) -> None:
    with pytest.raises(UnusableFile, match="jwt_keys"):
        read_keys([content])


def test_a_key_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(ed25519_key()))
    with WatchedFiles("jwt_keys_file", [path], read_keys, RecordedEvents(), 0.01) as watched:
        keys = KeyFile(watched)
        assert keys.find("ed-1").algorithm_name == "EdDSA"
        replace_file(path, key_set(rsa_key()))
        until(lambda: "rsa-1" in watched.current)
        with pytest.raises(Unauthenticated):
            keys.find("ed-1")


@pytest.fixture
def issuer() -> Iterator[FileServer]:
    with FileServer(key_set(ed25519_key())) as server:
        yield server


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


def fetched(issuer: FileServer, events: RecordedEvents, min_interval_s: float = 0.01) -> FetchedKeys:
    return FetchedKeys(issuer.url, events, refresh_interval_s=LONG_S, min_interval_s=min_interval_s, timeout_s=SOON_S)


def test_an_unknown_key_has_the_keys_fetched_anew(issuer: FileServer, events: RecordedEvents) -> None:
    """The first token of a new key holds: its call waits for the fetch."""
    with fetched(issuer, events) as keys:
        until(lambda: _knows(keys, "ed-1"))
        issuer.content = key_set(ed25519_key(), ed25519_key("ed-2"))
        until(lambda: _knows(keys, "ed-2"))
        asked = len(issuer.ranges)
        assert keys.find("ed-1")
        assert len(issuer.ranges) == asked, "a known key is looked up in memory"


def test_keys_that_nobody_knows_do_not_make_us_ask_without_an_end(issuer: FileServer, events: RecordedEvents) -> None:
    with fetched(issuer, events, min_interval_s=LONG_S) as keys:
        until(lambda: _knows(keys, "ed-1"))
        for number in range(100):
            assert not _knows(keys, f"invented-{number}")
    assert len(issuer.ranges) == 1


def test_an_issuer_that_is_away_takes_no_key_away(issuer: FileServer, events: RecordedEvents) -> None:
    """Nor does one that gives something else; each failure is logged, without the address."""
    with fetched(issuer, events) as keys:
        until(lambda: _knows(keys, "ed-1"))
        issuer.content = b"<html>"
        until(lambda: _knows(keys, "nobody") or len(events.fields("jwt_keys_not_fetched")) >= 1)
        issuer.statuses.extend([503] * 2)
        until(lambda: _knows(keys, "nobody") or len(events.fields("jwt_keys_not_fetched")) >= 3)
        assert keys.find("ed-1")
    assert "127.0.0.1" not in json.dumps(events.fields("jwt_keys_not_fetched"))


def test_without_any_keys_yet_a_call_may_come_again(issuer: FileServer, events: RecordedEvents) -> None:
    """UNAVAILABLE and not UNAUTHENTICATED: nothing is wrong with the token."""
    issuer.statuses.append(503)
    with fetched(issuer, events, min_interval_s=LONG_S) as keys:
        assert events.wait_for("jwt_keys_not_fetched", 1, SOON_S)
        with pytest.raises(Unavailable) as caught:
            keys.find("ed-1")
    assert caught.value.metadata == {"neighbour": "jwt_keys"}


def test_a_key_set_without_an_end_is_not_read_to_it(issuer: FileServer, events: RecordedEvents) -> None:
    issuer.content = b" " * (2 * 1024 * 1024)
    with fetched(issuer, events, min_interval_s=LONG_S):
        assert events.wait_for("jwt_keys_not_fetched", 1, SOON_S)
    (told,) = events.fields("jwt_keys_not_fetched")
    assert "larger than" in str(told["problem"])


def test_few_calls_wait_for_an_issuer_that_does_not_answer_and_the_rest_are_told_at_once(
    events: RecordedEvents, hanging_issuer: tuple[str, threading.Event]
) -> None:
    url, asked = hanging_issuer
    keys = FetchedKeys(url, events, refresh_interval_s=LONG_S, min_interval_s=0.01, timeout_s=SOON_S)
    with keys:
        assert asked.wait(SOON_S)
        waiting = [threading.Thread(target=_knows, args=(keys, "ed-1"), daemon=True) for _ in range(4)]
        for thread in waiting:
            thread.start()
        until(lambda: keys._waiting._value == 0)
        assert not _knows(keys, "ed-1")
        assert all(thread.is_alive() for thread in waiting)
    for thread in waiting:
        thread.join(SOON_S)
        assert not thread.is_alive(), "the end of the server lets them go"


@pytest.fixture
def hanging_issuer() -> Iterator[tuple[str, threading.Event]]:
    """An address that takes a connection and never answers, and what tells of the connection."""
    asked, over = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.set()
                over.wait(SOON_S)

        thread = threading.Thread(target=hang)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/keys", asked
        over.set()
        thread.join()


def _knows(keys: FetchedKeys, key_id: str) -> bool:
    try:
        keys.find(key_id)
    except DariError:
        return False
    return True
