"""Certificates that are taken from files, and those that are not."""

import pytest

from dari.adapters.credentials.server_certificate import read_certificate
from dari.adapters.watched_files import UnusableFile
from tests.support.credentials import Authority


def test_a_certificate_with_its_key_is_taken_and_shows_no_key() -> None:
    authority = Authority()
    pem = authority.issue("dari")
    read = read_certificate([pem.certificate, pem.key, authority.pem])
    assert (read.chain, read.key, read.client_authorities) == (pem.certificate, pem.key, authority.pem)
    assert read_certificate([pem.certificate, pem.key]).client_authorities is None
    assert "PRIVATE" not in repr(read)


def test_what_does_not_fit_is_refused() -> None:
    """A key of another certificate is what a reader finds between two writes."""
    authority = Authority()
    one, other = authority.issue("one"), authority.issue("other")
    for contents in (
        [one.certificate, other.key],
        [one.certificate, b"no key"],
        [b"no certificate", one.key],
        [b"", one.key],
        [one.key, one.certificate],
        [one.certificate, one.key, b"no authority"],
    ):
        with pytest.raises(UnusableFile, match="tls_"):
            read_certificate(contents)
