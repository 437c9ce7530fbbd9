"""Signed tokens: those that hold, and every way in which one does not."""

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from dari.adapters.credentials.signed_tokens import SignedTokens, TokenRules, looks_signed
from dari.adapters.credentials.signing_keys import SigningKeys, read_keys
from dari.core.callers import Caller, Role
from dari.core.errors import Unauthenticated
from tests.support.credentials import AUDIENCE, ISSUER, SigningKey, claims, ed25519_key, key_set, rsa_key

RULES = TokenRules(ISSUER, AUDIENCE, "tenant", "role", leeway_s=10.0)


class Keys:
    """A KeySource of given keys."""

    def __init__(self, keys: SigningKeys) -> None:
        self._keys = keys

    def find(self, key_id: str) -> jwt.PyJWK:
        if key_id not in self._keys:
            raise Unauthenticated.of("unknown_key")
        return self._keys[key_id]


def checker(rules: TokenRules = RULES) -> SignedTokens:
    return SignedTokens(Keys(read_keys([key_set(ed25519_key(), rsa_key())])), rules)


def code_of(token: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        checker().caller(token)
    return caught.value.metadata["code"]


def in_minutes(minutes: float) -> datetime:
    return datetime.now(UTC) + timedelta(minutes=minutes)


@pytest.mark.parametrize("key", [ed25519_key(), rsa_key()], ids=lambda key: key.algorithm)
def test_a_token_that_holds_tells_its_caller(key: SigningKey) -> None:
    token = key.token()
    assert looks_signed(token)
    assert checker().caller(token) == Caller("ann", "acme", Role.ADMIN)


@pytest.mark.parametrize(
    ("claim", "role"),
    [("reader", Role.READER), (["x", "operator", "reader"], Role.OPERATOR), (["admin", 7, None], Role.ADMIN)],
)
def test_of_a_list_the_greatest_role_counts(claim: object, role: Role) -> None:
    assert checker().caller(ed25519_key().token(role=claim)).role is role


def test_the_claims_are_those_that_the_settings_name() -> None:
    rules = TokenRules(ISSUER, AUDIENCE, "https://dari/tenant", "groups", leeway_s=0.0)
    token = ed25519_key().token(tenant=None, role=None, groups=["operator"], **{"https://dari/tenant": "initech"})
    assert checker(rules).caller(token) == Caller("ann", "initech", Role.OPERATOR)


def test_a_clock_that_is_a_little_off_does_no_harm() -> None:
    assert checker().caller(ed25519_key().token(exp=in_minutes(-0.05))).tenant == "acme"
    assert checker().caller(ed25519_key().token(nbf=in_minutes(0.05))).tenant == "acme"


WRONG_CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({"exp": in_minutes(-5)}, "token_expired"),
    ({"nbf": in_minutes(24 * 60)}, "token_not_yet_valid"),
    ({"aud": "another"}, "wrong_audience"),
    ({"aud": ["another", "third"]}, "wrong_audience"),
    ({"iss": "https://elsewhere.example"}, "wrong_issuer"),
    ({"exp": None}, "claim_missing"),
    ({"aud": None}, "claim_missing"),
    ({"iss": None}, "claim_missing"),
    ({"sub": None}, "claim_missing"),
    ({"tenant": None}, "wrong_claim"),
    ({"tenant": "Not/A tenant"}, "wrong_claim"),
    ({"tenant": ["acme"]}, "wrong_claim"),
    ({"role": None}, "wrong_claim"),
    ({"role": "root"}, "wrong_claim"),
    ({"role": []}, "wrong_claim"),
    ({"role": {"admin": True}}, "wrong_claim"),
    ({"sub": "a\nb"}, "wrong_claim"),
    ({"sub": "x" * 201}, "wrong_claim"),
]


@pytest.mark.parametrize(
    ("changes", "code"), WRONG_CLAIMS, ids=[f"{','.join(changes)}-{code}" for changes, code in WRONG_CLAIMS]
)
def test_wrong_claims_are_refused_by_their_code(changes: dict[str, Any], code: str) -> None:
    assert code_of(ed25519_key().token(**changes)) == code


def handmade(header: dict[str, Any], secret: bytes | None) -> str:
    """A token with any header, signed by HMAC or not at all: libraries refuse to make such."""
    told = {**claims(), "exp": int(in_minutes(5).timestamp())}
    signed = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, told))
    signature = hmac.digest(secret, signed, sha256) if secret is not None else b""
    return b".".join((signed, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()


def public_forms(key: SigningKey) -> list[bytes]:
    """Every text of a public key that somebody might take for an HMAC secret."""
    public = key.private.public_key()
    return [
        json.dumps(key.public_jwk).encode(),
        *(
            public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
            for encoding in (Encoding.PEM, Encoding.DER)
        ),
    ]


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", None, 7, ["RS256"]])
@pytest.mark.parametrize("key_id", ["ed-1", "rsa-1", ""])
def test_an_unsigned_token_is_refused(alg: object, key_id: str) -> None:
    assert code_of(handmade({"alg": alg, "kid": key_id}, None)) in ("wrong_algorithm", "token_malformed")


@pytest.mark.parametrize("key", [ed25519_key(), rsa_key()], ids=lambda key: key.algorithm)
def test_a_token_signed_by_hmac_with_a_public_key_is_refused(key: SigningKey) -> None:
    for secret in public_forms(key):
        for alg in ("HS256", "RS256", "EdDSA"):
            code = code_of(handmade({"alg": alg, "kid": key.key_id}, secret))
            assert code == ("wrong_algorithm" if alg != key.algorithm else "bad_signature")


def test_the_algorithm_is_the_key_s_and_not_the_token_s() -> None:
    """A token of one of our keys that names another of them."""
    assert code_of(ed25519_key().token(header={"kid": "rsa-1"})) == "wrong_algorithm"
    assert code_of(rsa_key().token(header={"kid": "ed-1"})) == "wrong_algorithm"


def test_keys_that_we_do_not_trust_are_refused() -> None:
    assert code_of(ed25519_key("ed-2").token()) == "unknown_key"
    assert code_of(ed25519_key("ed-2").token(header={"kid": "ed-1"})) == "bad_signature"
    token = jwt.encode(claims(), ec.generate_private_key(ec.SECP256R1()), "ES256", headers={"kid": "ed-1"})
    assert code_of(token) == "wrong_algorithm"


def test_a_key_in_the_token_s_own_header_counts_for_nothing() -> None:
    """RFC 8725, 3.10: neither jwk nor jku nor x5u is looked at."""
    stranger = ed25519_key("stranger")
    for header in ({"jwk": stranger.public_jwk}, {"jku": "http://127.0.0.1:1/keys"}, {"x5u": "http://127.0.0.1:1/"}):
        assert code_of(stranger.token(header={"kid": "ed-1", **header})) == "bad_signature"


def test_a_changed_token_is_refused() -> None:
    head, body, signature = ed25519_key().token().split(".")
    other = ed25519_key().token(tenant="other").split(".")[1]
    assert code_of(f"{head}.{other}.{signature}") == "bad_signature"
    assert code_of(f"{head}.{body}.") == "bad_signature"


@pytest.mark.parametrize(
    "header", [b"[" * 6_000, b"{" * 50, b"\xff\xfe", b"7", b'{"alg":"EdDSA","kid":7}', b'{"alg":"EdDSA","crit":["x"]}']
)
def test_a_header_that_is_none_is_malformed(header: bytes) -> None:
    _, body, signature = ed25519_key().token().split(".")
    token = f"{base64.urlsafe_b64encode(header).rstrip(b'=').decode()}.{body}.{signature}"
    assert code_of(token) in ("token_malformed", "unknown_key")


@given(st.text(max_size=200))
def test_any_text_is_refused_and_never_a_defect(text: str) -> None:
    for token in (text, f"{text}.{text}.{text}", f"eyJhbGciOiJFZERTQSIsImtpZCI6ImVkLTEifQ.{text}.{text}"):
        with pytest.raises(Unauthenticated):
            checker().caller(token)
