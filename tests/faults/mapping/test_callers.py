"""M1: every RPC by callers who must not pass, with every kind of credential that does not hold."""

import base64
import hmac
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dari.adapters.credentials.token_file import new_token
from dari.client import Access
from dari.core.callers import Role
from dari.server import Server
from dari.settings import load_settings
from dari.v1 import mapping_pb2
from tests.fix_postgres import PostgresDsns
from tests.fix_server import settings_for
from tests.support.credentials import (
    AUDIENCE,
    ISSUER,
    SigningKey,
    TokenHolders,
    claims,
    ed25519_key,
    key_set,
    replace_file,
    rsa_key,
)
from tests.support.event_log import RecordedEvents
from tests.support.every_rpc import call, methods, path_of
from tests.support.running_dari import RunningDari
from tests.support.waiting import until

TENANT = "acme"
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


@dataclass(frozen=True)
class Guarded:
    """A server that knows tokens of a file and signed ones, and what it wrote down."""

    address: str
    holders: TokenHolders
    keys: Path
    events: RecordedEvents
    refusals: Path

    def recorded(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.refusals.read_text().splitlines()]


@pytest.fixture
def guarded(database: PostgresDsns, tmp_path: Path) -> Iterator[Guarded]:
    holders = TokenHolders(tmp_path / "tokens.toml")
    keys = tmp_path / "keys.json"
    keys.write_bytes(key_set(ed25519_key(), rsa_key()))
    settings = {
        **settings_for(database, tmp_path),
        "tokens_file": holders.path,
        "jwt_keys_file": keys,
        "jwt_issuer": ISSUER,
        "jwt_audience": AUDIENCE,
        "file_check_interval_s": 0.02,
    }
    with Server(load_settings(**settings), events := RecordedEvents()) as server:
        yield Guarded(server.address, holders, keys, events, tmp_path / "audit" / "refusals.jsonl")


def unsigned() -> str:
    return _handmade({"alg": "none", "kid": "ed-1"}, b"")


def signed_by_hmac() -> str:
    """With a public key as its secret."""
    public = rsa_key().private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = {"alg": "HS256", "kid": "rsa-1"}
    return _handmade(header, hmac.digest(public, _signing_input(header), sha256))


def _handmade(header: dict[str, str], signature: bytes) -> str:
    return b".".join((_signing_input(header), base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()


def _signing_input(header: dict[str, str]) -> bytes:
    told = {**claims(), "exp": 4_000_000_000}
    return b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, told))


NOT_HOLDING: dict[str, tuple[str, str]] = {
    "none": ("", "token_missing"),
    "of nobody": (new_token(), "token_unknown"),
    "half of one": (new_token()[:20], "token_unknown"),
    "expired": (ed25519_key().token(exp=YESTERDAY), "token_expired"),
    "expired, by RSA": (rsa_key().token(exp=YESTERDAY), "token_expired"),
    "for another audience": (ed25519_key().token(aud="another"), "wrong_audience"),
    "of another issuer": (ed25519_key().token(iss="https://elsewhere.example"), "wrong_issuer"),
    "unsigned": (unsigned(), "wrong_algorithm"),
    "signed by HMAC": (signed_by_hmac(), "wrong_algorithm"),
    "of another key": (ed25519_key("stranger").token(header={"kid": "ed-1"}), "bad_signature"),
    "of an unknown key": (ed25519_key("stranger").token(), "unknown_key"),
    "without a tenant": (ed25519_key().token(tenant=None), "wrong_claim"),
    "with a made-up role": (ed25519_key().token(role="root"), "wrong_claim"),
}


@pytest.mark.parametrize(("token", "code"), NOT_HOLDING.values(), ids=NOT_HOLDING.keys())
def test_no_rpc_is_passed_with_a_token_that_does_not_hold(guarded: Guarded, token: str, code: str) -> None:
    """Each is UNAUTHENTICATED by its code, and stands in the audit; the token stands nowhere."""
    assert_all_refused(guarded, token, code)


def test_no_rpc_is_passed_with_a_token_of_a_file_that_has_expired(guarded: Guarded) -> None:
    expired = guarded.holders.add(TENANT, Role.ADMIN, expires=YESTERDAY)
    _wait_for(guarded, expired, "token_expired")
    assert_all_refused(guarded, expired, "token_expired")


def test_no_rpc_is_passed_with_a_token_that_was_revoked(guarded: Guarded) -> None:
    revoked = guarded.holders.add(TENANT, Role.ADMIN)
    _wait_for(guarded, revoked, "")
    guarded.holders.revoke(revoked)
    _wait_for(guarded, revoked, "token_unknown")
    assert_all_refused(guarded, revoked, "token_unknown")


def test_no_rpc_is_passed_with_a_token_whose_key_was_withdrawn(guarded: Guarded) -> None:
    token = rsa_key().token()
    _wait_for(guarded, token, "")
    replace_file(guarded.keys, key_set(ed25519_key()))
    _wait_for(guarded, token, "unknown_key")
    assert_all_refused(guarded, token, "unknown_key")


@pytest.mark.parametrize("key", [ed25519_key(), rsa_key()], ids=lambda key: key.algorithm)
def test_a_token_that_holds_passes_every_rpc(guarded: Guarded, key: SigningKey) -> None:
    """Otherwise the tests above would show nothing."""
    with RunningDari(guarded.address, Access(key.token())) as dari:
        for method in methods():
            told = call(dari.channel, method).refusal
            assert told is None or told.status not in ("UNAUTHENTICATED", "PERMISSION_DENIED"), method.full_name


def assert_all_refused(guarded: Guarded, token: str, code: str) -> None:
    before = len(guarded.recorded())
    with RunningDari(guarded.address, Access(token)) as dari:
        for method in methods():
            told = call(dari.channel, method).refusal
            assert told is not None, method.full_name
            assert (told.status, told.reason, told.metadata) == ("UNAUTHENTICATED", "UNAUTHENTICATED", {"code": code})
            assert not token or token not in str(told)
    recorded = guarded.recorded()[before:]
    assert [each["rpc"] for each in recorded] == [path_of(method)[1:] for method in methods()]
    assert {(each["caller"], each["tenant"], each["code"]) for each in recorded} == {(None, None, code)}
    for part in _parts(token):
        assert part not in guarded.refusals.read_text()
        assert part not in str([guarded.events.fields(name) for name in guarded.events.names()])


def _parts(token: str) -> Sequence[str]:
    return [part for part in token.split(".") if part]


def _wait_for(guarded: Guarded, token: str, code: str) -> None:
    """Until the file that changed is read."""

    def is_told() -> bool:
        try:
            dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())
        except grpc.RpcError:
            return bool(code) and guarded.recorded()[-1]["code"] == code
        return not code

    with RunningDari(guarded.address, Access(token)) as dari:
        until(is_told)
