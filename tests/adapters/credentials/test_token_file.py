"""The tokens file: what it may say, and whose a token is."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dari.adapters.credentials.token_file import (
    TOKEN_PREFIX,
    TokenFile,
    is_caller_name,
    is_tenant,
    new_token,
    token_entry,
)
from dari.adapters.watched_files import UnusableFile
from dari.core.callers import Caller, Role
from dari.core.errors import Unauthenticated

NOW = datetime(2026, 11, 23, tzinfo=UTC)
LOADER = Caller("nightly load", "acme", Role.OPERATOR)
READER = Caller("reader", "other", Role.READER)
CANARY = "canary-4711"


def code_of(error: pytest.ExceptionInfo[Unauthenticated]) -> str:
    return error.value.metadata["code"]


def test_a_token_is_known_by_the_entry_that_was_made_for_it_until_it_expires() -> None:
    token, lasting = new_token(), new_token()
    expires = NOW + timedelta(days=1)
    file = TokenFile.read([(token_entry(token, LOADER, expires) + token_entry(lasting, READER, None)).encode()])
    assert file.caller_with_token(token, NOW) == LOADER
    assert file.caller_with_token(lasting, NOW + timedelta(days=9_999)) == READER
    with pytest.raises(Unauthenticated) as caught:
        file.caller_with_token(token, expires)
    assert code_of(caught) == "token_expired"


def test_a_token_is_long_and_its_entry_does_not_hold_it() -> None:
    token = new_token()
    assert token.startswith(TOKEN_PREFIX)
    assert len(token) >= len(TOKEN_PREFIX) + 43, "32 bytes"
    assert token.removeprefix(TOKEN_PREFIX) not in token_entry(token, LOADER, NOW)
    assert new_token() != token


@given(st.text(max_size=100))
def test_no_other_text_is_a_token(text: str) -> None:
    """Half a surrogate pair and the empty text too."""
    file = TokenFile.read([token_entry(new_token(), LOADER, None).encode()])
    with pytest.raises(Unauthenticated) as caught:
        file.caller_with_token(text, NOW)
    assert code_of(caught) == "token_unknown"


def test_a_token_with_the_same_first_bytes_of_its_hash_is_not_the_one() -> None:
    """The index finds the entry by eight bytes; all 32 are compared."""
    token = new_token()
    digest = sha256(token.encode()).hexdigest()
    near = digest[:16] + ("0" * 48 if digest[16:] != "0" * 48 else "1" * 48)
    entry = token_entry(token, LOADER, None).replace(digest, near)
    with pytest.raises(Unauthenticated):
        TokenFile.read([entry.encode()]).caller_with_token(token, NOW)


def test_a_certificate_is_known_by_the_first_of_its_names_that_is() -> None:
    entry = '[[token]]\nname = "gateway"\ncertificate = "gateway.internal"\ntenant = "acme"\nrole = "reader"\n'
    file = TokenFile.read([f"{entry}expires = 2027-01-01T00:00:00Z\n".encode()])
    assert file.caller_with_certificate(["unknown", "gateway.internal"], NOW).name == "gateway"
    for names, now, code in (
        (["unknown"], NOW, "certificate_unknown"),
        (["gateway.internal"], NOW.replace(year=2027), "certificate_entry_expired"),
    ):
        with pytest.raises(Unauthenticated) as caught:
            file.caller_with_certificate(names, now)
        assert code_of(caught) == code


WRONG = {
    "name": ('name = ""', "name = 7", 'name = "a\\"b"', ""),
    "sha256": (f'sha256 = "{CANARY}"', "sha256 = 7", f'sha256 = "{"A" * 64}"', ""),
    "tenant": ('tenant = "Acme"', "tenant = ['a']", ""),
    "role": ('role = "root"', "role = ['admin']", ""),
    "expires": ("expires = 2027-01-01T00:00:00", 'expires = "2027-01-01"', "expires = 2027-01-01"),
    "certificate": ('certificate = "both"', "certificate = 7", 'certificate = ""'),
    "more": (f'{CANARY} = "1"',),
}


@pytest.mark.parametrize(("key", "line"), [(key, line) for key, lines in WRONG.items() for line in lines])
def test_a_wrong_entry_is_named_by_its_place_and_without_its_values(key: str, line: str) -> None:
    right = token_entry(new_token(), LOADER, None)
    lines = [each for each in right.splitlines() if not each.startswith(f"{key} =")]
    with pytest.raises(UnusableFile, match="token 2: ") as caught:
        TokenFile.read([(token_entry(new_token(), READER, None) + "\n".join([*lines, line])).encode()])
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff", b"[token", f"{CANARY} = 1".encode(), b"token = 1", b"token = [1]"])
def test_what_is_no_tokens_file_is_refused_without_its_text(content: bytes) -> None:
    with pytest.raises(UnusableFile) as caught:
        TokenFile.read([content])
    assert CANARY not in str(caught.value)


def test_a_token_of_two_callers_is_refused() -> None:
    token = new_token()
    with pytest.raises(UnusableFile, match="token 2: has the sha256 of token 1"):
        TokenFile.read([(token_entry(token, LOADER, None) + token_entry(token, READER, None)).encode()])


def test_an_empty_file_knows_nobody() -> None:
    with pytest.raises(Unauthenticated):
        TokenFile.read([b""]).caller_with_token(new_token(), NOW)


@given(st.text(max_size=30), st.text(alphabet="abz09-", max_size=70), st.sampled_from(Role))
def test_every_caller_that_may_be_named_can_be_read_back(name: str, tenant: str, role: Role) -> None:
    if not is_caller_name(name) or not is_tenant(tenant):
        return
    token = new_token()
    file = TokenFile.read([token_entry(token, Caller(name, tenant, role), NOW + timedelta(days=1)).encode()])
    assert file.caller_with_token(token, NOW) == Caller(name, tenant, role)
