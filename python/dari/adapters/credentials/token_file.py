"""The tokens file: who holds which token or client certificate.

    [[token]]
    name = "nightly-load"
    sha256 = "3f79…"                       # of the whole token; `dari token create` writes these lines
    tenant = "acme"
    role = "operator"                      # reader, operator, admin
    expires = 2027-01-01T00:00:00Z         # may be left out

    [[token]]
    name = "gateway"
    certificate = "gateway.internal"       # a name in a verified client certificate, instead of a token
    tenant = "acme"
    role = "reader"

A token is 32 random bytes, so a plain SHA-256 keeps it: what makes a slow hash needful are secrets that can be guessed,
and nobody tries 2**256. The file therefore holds nothing that opens a door, and a check costs a microsecond.
"""

import hmac
import re
import secrets
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from dari.adapters.watched_files import UnusableFile
from dari.core.callers import ROLES, Caller, Role
from dari.core.errors import Unauthenticated

TOKEN_PREFIX = "dari_"  # noqa: S105 - what every token begins with, so that scanners of secrets find a lost one
_TOKEN_BYTES = 32
_INDEX_BYTES = 8
_TENANT = re.compile(r"[a-z][a-z0-9-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEYS = frozenset({"name", "sha256", "certificate", "tenant", "role", "expires"})


def new_token() -> str:
    """A token that nobody has."""
    return TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)


def token_entry(token: str, caller: Caller, expires: datetime | None) -> str:
    """The lines of the tokens file for a token. The caller's name passed `is_caller_name`: nothing needs escaping."""
    lines = [
        "[[token]]",
        f'name = "{caller.name}"',
        f'sha256 = "{sha256(token.encode()).hexdigest()}"',
        f'tenant = "{caller.tenant}"',
        f'role = "{caller.role.label}"',
    ]
    if expires is not None:
        lines.append(f"expires = {expires.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
    return "\n".join(lines) + "\n"


def is_tenant(text: object) -> bool:
    """Whether it may be the id of a tenant."""
    return isinstance(text, str) and _TENANT.fullmatch(text) is not None


def is_caller_name(text: object) -> bool:
    """Whether it may name a caller in a tokens file."""
    return isinstance(text, str) and 1 <= len(text) <= 200 and text.isprintable() and not set(text) & {'"', "\\"}


@dataclass(frozen=True, slots=True)
class _Entry:
    caller: Caller
    expires: datetime | None
    digest: bytes = b""
    certificate: str = ""


class TokenFile:
    """What a tokens file says. Immutable."""

    def __init__(self, entries: Sequence[_Entry]) -> None:
        self._entries = tuple(entries)
        # The index only finds the entry; whether it is the one is compared in constant time.
        self._by_index = {entry.digest[:_INDEX_BYTES]: entry for entry in entries if entry.digest}
        self._by_certificate = {entry.certificate: entry for entry in entries if entry.certificate}

    @classmethod
    def read(cls, contents: Sequence[bytes]) -> "TokenFile":
        """Of the bytes of one file. Raises UnusableFile that names everything that is wrong, by its place."""
        try:
            (content,) = contents
            document = tomllib.loads(content.decode())
        except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are; their texts may show a line.
            raise UnusableFile(f"tokens_file: is no TOML ({type(error).__name__})") from None
        tables = document.get("token", [])
        if (
            set(document) - {"token"}
            or not isinstance(tables, list)
            or not all(isinstance(one, dict) for one in tables)
        ):
            raise UnusableFile("tokens_file: must hold [[token]] tables and nothing else")
        problems = [f"token {at}: {problem}" for at, one in enumerate(tables, 1) for problem in _problems(one)]
        problems = problems or list(_repetitions(tables))
        if problems:
            raise UnusableFile(f"tokens_file: {'; '.join(problems)}")
        return cls([_entry(one) for one in tables])

    @property
    def tenants(self) -> frozenset[str]:
        """Whose resources somebody of the file may see."""
        return frozenset(entry.caller.tenant for entry in self._entries)

    def names(self) -> list[str]:
        """Of all callers."""
        return [entry.caller.name for entry in self._entries]

    def expiring(self, by: datetime) -> list[str]:
        """Names of the callers who are not let in any more at that time."""
        return [entry.caller.name for entry in self._entries if entry.expires is not None and entry.expires <= by]

    def caller_with_token(self, token: str, now: datetime) -> Caller:
        """Whose token it is. Raises Unauthenticated."""
        digest = sha256(token.encode(errors="surrogateescape")).digest()
        entry = self._by_index.get(digest[:_INDEX_BYTES])
        if entry is None or not hmac.compare_digest(entry.digest, digest):
            raise Unauthenticated.of("token_unknown")
        return _unexpired(entry, now, "token_expired")

    def caller_with_certificate(self, names: Sequence[str], now: datetime) -> Caller:
        """Whose certificate it is, by the first of its names that is known. Raises Unauthenticated."""
        found = (self._by_certificate[name] for name in names if name in self._by_certificate)
        entry = next(found, None)
        if entry is None:
            raise Unauthenticated.of("certificate_unknown")
        return _unexpired(entry, now, "certificate_entry_expired")


def _unexpired(entry: _Entry, now: datetime, code: str) -> Caller:
    if entry.expires is not None and entry.expires <= now:
        raise Unauthenticated.of(code)
    return entry.caller


def _problems(table: Mapping[str, Any]) -> Iterator[str]:
    if set(table) - _KEYS:
        yield f"may have {', '.join(sorted(_KEYS))}"
    if not is_caller_name(table.get("name")):
        yield "name must be 1 to 200 printable characters without quotes or backslashes"
    if ("sha256" in table) == ("certificate" in table):
        yield "must have either sha256 or certificate"
    digest = table.get("sha256", "0" * 64)
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        yield "sha256 must be 64 of 0-9 and a-f"
    certificate = table.get("certificate", "-")
    if not isinstance(certificate, str) or not certificate:
        yield "certificate must be a name in a certificate"
    if not is_tenant(table.get("tenant")):
        yield "tenant must be 1 to 63 of a-z, 0-9 and '-', beginning with a letter"
    if table.get("role") not in list(ROLES):
        yield f"role must be {', '.join(ROLES)}"
    expires = table.get("expires", datetime.now(UTC))
    if not isinstance(expires, datetime) or expires.tzinfo is None:
        yield "expires must be a time with an offset, such as 2027-01-01T00:00:00Z"


def _repetitions(tables: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for key in ("sha256", "certificate"):
        seen: dict[str, int] = {}
        for at, one in enumerate(tables, 1):
            if key in one and seen.setdefault(one[key], at) != at:
                yield f"token {at}: has the {key} of token {seen[one[key]]}"


def _entry(table: Mapping[str, Any]) -> _Entry:
    role: Role = ROLES[table["role"]]
    return _Entry(
        Caller(table["name"], table["tenant"], role),
        table.get("expires"),
        bytes.fromhex(table.get("sha256", "")),
        table.get("certificate", ""),
    )
