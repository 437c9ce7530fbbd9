"""The server's certificate and key, and the authorities whose client certificates it takes: PEM, read and checked."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dari.adapters.watched_files import UnusableFile


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """What TLS needs; the key fits the certificate."""

    chain: bytes
    """The server's own first."""
    key: bytes = field(repr=False)
    client_authorities: bytes | None = None
    """None where clients bring no certificate."""


def read_certificate(contents: Sequence[bytes]) -> ServerCertificate:
    """Of certificate, key, and authorities where there are any, in this order. Raises UnusableFile.

    A certificate that is exchanged before its key does not fit for a moment; then the former pair goes on.
    """
    chain, key, *authorities = contents
    try:
        fits = x509.load_pem_x509_certificates(chain)[0].public_key() == load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError) as error:  # TypeError: the key has a password
        raise UnusableFile(f"tls_key_file, tls_certificate_file: no usable PEM ({type(error).__name__})") from None
    if not fits:
        raise UnusableFile("tls_key_file: is not the key of the first certificate in tls_certificate_file")
    for pem in authorities:
        _check_authorities(pem)
    return ServerCertificate(chain, key, authorities[0] if authorities else None)


def _check_authorities(pem: bytes) -> None:
    try:
        x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise UnusableFile("tls_client_ca_file: no usable PEM") from None
