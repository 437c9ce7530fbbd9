"""An issuer of signed tokens, an authority for certificates, and tokens files, all made up for a test."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm

from dari.adapters.credentials.token_file import new_token, token_entry
from dari.core.callers import Caller, Role

ISSUER, AUDIENCE = "https://issuer.example", "dari"


class TokenHolders:
    """A tokens file with one token for each (tenant, role) that was asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, str] = {}
        self._write()

    def add(self, tenant: str, role: Role, expires: datetime | None = None) -> str:
        """A new token."""
        token = new_token()
        self._entries[token] = token_entry(token, Caller(f"{role.label} of {tenant}", tenant, role), expires)
        self._write()
        return token

    def add_certificate(self, tenant: str, role: Role, name: str) -> None:
        """Let the holder of a certificate with this name be a caller."""
        self._entries[name] = (
            f'[[token]]\nname = "{name}"\ncertificate = "{name}"\ntenant = "{tenant}"\nrole = "{role.label}"\n'
        )
        self._write()

    def change_role(self, token: str, former: Role, role: Role) -> None:
        """Let its holder be what they were not."""
        self._entries[token] = self._entries[token].replace(f'role = "{former.label}"', f'role = "{role.label}"')
        self._write()

    def revoke(self, token: str) -> None:
        """Take its entry out."""
        del self._entries[token]
        self._write()

    def _write(self) -> None:
        replace_file(self.path, "".join(self._entries.values()).encode())


def replace_file(path: Path, content: bytes) -> None:
    """Whole or not at all, as an orchestrator does."""
    new = path.with_name(f".{path.name}.{uuid.uuid4()}")
    new.write_bytes(content)
    new.replace(path)


@dataclass(frozen=True)
class SigningKey:
    """A key pair of an issuer."""

    key_id: str
    algorithm: str
    private: Any

    @property
    def public_jwk(self) -> dict[str, Any]:
        public = self.private.public_key()
        told = (RSAAlgorithm if self.algorithm == "RS256" else OKPAlgorithm).to_jwk(public, as_dict=True)
        return {**told, "kid": self.key_id, "use": "sig"}

    def token(self, **changes: Any) -> str:
        """One that holds, unless `changes` make it wrong; None takes a claim away, `header` adds to the header."""
        header = {"kid": self.key_id, **changes.pop("header", {})}
        return jwt.encode(claims(**changes), self.private, algorithm=self.algorithm, headers=header)


def claims(**changes: Any) -> dict[str, Any]:
    """Those of a caller of acme, for a day."""
    told: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "exp": datetime.now(UTC) + timedelta(days=1),
        "tenant": "acme",
        "role": "admin",
        **changes,
    }
    return {name: value for name, value in told.items() if value is not None}


@lru_cache
def ed25519_key(key_id: str = "ed-1") -> SigningKey:
    return SigningKey(key_id, "EdDSA", ed25519.Ed25519PrivateKey.generate())


@lru_cache
def rsa_key(key_id: str = "rsa-1", bits: int = 2_048) -> SigningKey:
    return SigningKey(key_id, "RS256", rsa.generate_private_key(65_537, bits))


def key_set(*keys: SigningKey | dict[str, Any]) -> bytes:
    """A JSON Web Key Set."""
    return json.dumps({"keys": [key.public_jwk if isinstance(key, SigningKey) else key for key in keys]}).encode()


@dataclass(frozen=True)
class Pem:
    """A certificate and its key."""

    certificate: bytes
    key: bytes


class Authority:
    """Issues certificates."""

    def __init__(self, name: str = "authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.pem = _signed(self._name, self._name, self._key.public_key(), self._key, (), is_authority=True)

    def issue(
        self, name: str, addresses: Sequence[str] = ("127.0.0.1",), valid_for: timedelta = timedelta(hours=1)
    ) -> Pem:
        """A certificate for `name` and these addresses; below 0 it is not valid any more."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names: list[x509.GeneralName] = [x509.IPAddress(ip_address(each)) for each in addresses]
        certificate = _signed(
            subject, self._name, key.public_key(), self._key, (x509.DNSName(name), *names), valid_for=valid_for
        )
        return Pem(certificate, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def self_signed_without_names(self, valid_for: timedelta) -> Pem:
        """What clients take no more: a subject, and no subject alternative name."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _signed(self._name, self._name, key.public_key(), key, (), valid_for=valid_for)
        return Pem(certificate, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _signed(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: Any,
    signing_key: Any,
    names: Sequence[x509.GeneralName],
    *,
    is_authority: bool = False,
    valid_for: timedelta = timedelta(hours=1),
) -> bytes:
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + valid_for) - timedelta(hours=1))
        .not_valid_after(now + valid_for)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if names:
        built = built.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return built.sign(signing_key, SHA256()).public_bytes(Encoding.PEM)
