"""Who calls, and what the wire is secured by: certificates, tokens file, keys of signed tokens."""

import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509

from dari.adapters.credentials.server_certificate import read_certificate
from dari.adapters.credentials.signing_keys import KeysNotFetched, fetch_keys, read_keys
from dari.adapters.credentials.token_file import TokenFile
from dari.adapters.watched_files import UnusableFile
from dari.doctor.findings import Finding, failed, ok, warning
from dari.settings import Settings

_SOON = timedelta(days=30)
_MANY_NAMES = 8


def look_at_tls(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Files that can be read, a key that fits, times, and names."""
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        yield ok("tls_certificate_file", "none is set: the server speaks plaintext")
        return
    authorities = settings.tls_client_ca_file
    paths = {"tls_certificate_file": settings.tls_certificate_file, "tls_key_file": settings.tls_key_file}
    paths |= {} if authorities is None else {"tls_client_ca_file": authorities}
    contents: list[bytes] = []
    for setting, path in paths.items():
        content, finding = _read(setting, path)
        if content is None:
            yield finding
        else:
            contents.append(content)
    if len(contents) < len(paths):
        return
    try:
        certificate = read_certificate(contents)
    except UnusableFile as error:
        yield failed(
            "tls_certificate_file", str(error), "Put a PEM certificate and its own key without a password there."
        )
        return
    yield ok("tls_key_file", "fits the certificate")
    if settings.tls_key_file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH):
        remedy = f"chmod 600 {settings.tls_key_file}, and give it to the user that runs dari."
        yield warning("tls_key_file", "others than its owner may read or write it", remedy)
    own, *rest = x509.load_pem_x509_certificates(certificate.chain)
    yield _time_of("tls_certificate_file", own, now)
    yield from _names_of(own, settings.listen_address.rpartition(":")[0].strip("[]"))
    for setting, others in (
        ("tls_certificate_file", rest),
        (
            "tls_client_ca_file",
            x509.load_pem_x509_certificates(certificate.client_authorities or b"") if authorities else [],
        ),
    ):
        findings = [_time_of(setting, other, now) for other in others]
        yield from (finding for finding in findings if finding.remedy)


def look_at_tokens_file(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Whether it says what it must, and who is let in no more."""
    if settings.tokens_file is None:
        return
    where = f"tokens_file: {settings.tokens_file}"
    content, finding = _read("tokens_file", settings.tokens_file)
    if content is None:
        yield finding
        return
    try:
        tokens = TokenFile.read([content])
    except UnusableFile as error:
        yield failed(where, str(error).removeprefix("tokens_file: "), "Correct it; `dari token create` prints entries.")
        return
    expired, expiring = tokens.expiring(now), tokens.expiring(now + _SOON)
    if len(tokens.names()) == len(expired):
        yield failed(where, "lets nobody in", "Add an entry; `dari token create` prints one.")
    else:
        yield ok(where, f"lets {len(tokens.names()) - len(expired)} callers in")
    if expired:
        yield warning(where, f"expired: {_some(expired)}", "Give them new tokens, or take their entries out.")
    if soon := [name for name in expiring if name not in expired]:
        yield warning(where, f"expires within {_SOON.days} days: {_some(soon)}", "Give them new tokens in time.")


def look_at_signing_keys(settings: Settings) -> Iterator[Finding]:
    """The keys that sign tokens, of a file or of their issuer."""
    remedy = "Put the issuer's JSON Web Key Set there: RSA keys of 2,048 bits or more, or Ed25519, each with a kid."
    if settings.jwt_keys_file is not None:
        where = f"jwt_keys_file: {settings.jwt_keys_file}"
        content, finding = _read("jwt_keys_file", settings.jwt_keys_file)
        if content is None:
            yield finding
            return
        try:
            yield ok(where, f"holds {len(read_keys([content]))} usable keys")
        except UnusableFile as error:
            yield failed(where, str(error).removeprefix("jwt_keys: "), remedy)
    elif settings.jwt_keys_url:
        try:
            count = len(fetch_keys(settings.jwt_keys_url, settings.jwt_keys_timeout_s))
        except KeysNotFetched as error:
            yield failed(
                "jwt_keys_url", f"gives no keys ({error})", "See that the issuer is reached from this machine."
            )
        except UnusableFile as error:
            yield failed("jwt_keys_url", str(error).removeprefix("jwt_keys: "), remedy)
        else:
            yield ok("jwt_keys_url", f"gives {count} usable keys")


def _read(setting: str, path: Path) -> tuple[bytes | None, Finding]:
    where = f"{setting}: {path}"
    try:
        return path.read_bytes(), ok(where, "can be read")
    except OSError as error:
        remedy = "Put it there, or correct the setting; the user that runs dari must be able to read it."
        return None, failed(where, f"cannot be read ({error.strerror})", remedy)


def _time_of(setting: str, certificate: x509.Certificate, now: datetime) -> Finding:
    name = certificate.subject.rfc4514_string() or "a certificate without a subject"
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    remedy = "Put a new one in its place; a running server reads it again."
    if now < begins:
        return failed(setting, f"{name} is not valid before {begins:%Y-%m-%d %H:%M} UTC", "Look at both clocks.")
    if ends <= now:
        return failed(setting, f"{name} expired on {ends:%Y-%m-%d}", remedy)
    if ends - now < _SOON:
        return warning(setting, f"{name} expires on {ends:%Y-%m-%d}, in {(ends - now).days} days", remedy)
    return ok(setting, f"{name} is valid until {ends:%Y-%m-%d}")


def _names_of(certificate: x509.Certificate, host: str) -> Iterator[Finding]:
    remedy = "Have it issued with the names by which clients call the server, as subject alternative names."
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        yield failed(
            "tls_certificate_file", "has no subject alternative name, and clients look at nothing else", remedy
        )
        return
    dns = names.get_values_for_type(x509.DNSName)
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    yield ok("tls_certificate_file", f"is for {_some([*dns, *addresses])}")
    if not _is_any(host) and host not in addresses and host.lower() not in map(str.lower, dns):
        yield warning("tls_certificate_file", f"is not for {host}, where the server listens", remedy)


def _is_any(host: str) -> bool:
    """0.0.0.0 and ::, which nobody calls a server by."""
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MANY_NAMES
    return ", ".join(names[:_MANY_NAMES]) + (f" and {more} more" if more > 0 else "")


def utc_now() -> datetime:
    """The time that is told to the checks."""
    return datetime.now(UTC)
