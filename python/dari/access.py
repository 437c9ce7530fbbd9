"""Builds what guards a server, as its settings say: who calls, what the wire is secured by, where the audit goes.

A part of the composition root, apart from `dari.server` because none of it knows what is served.
"""

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc

from dari.adapters.audit_files import AuditFolder
from dari.adapters.credentials.known_callers import KnownCallers
from dari.adapters.credentials.server_certificate import ServerCertificate, read_certificate
from dari.adapters.credentials.signed_tokens import SignedTokens, TokenRules
from dari.adapters.credentials.signing_keys import FetchedKeys, KeyFile, KeySource, read_keys
from dari.adapters.credentials.token_file import TokenFile
from dari.adapters.watched_files import Content, Read, UnusableFile, WatchedFiles
from dari.core.audit import AuditTrail
from dari.core.callers import Authenticator, OpenDoor
from dari.core.event_log import EventLog
from dari.settings import Settings


def open_authenticator(settings: Settings, log: EventLog, opened: ExitStack) -> Authenticator:
    """Raises UnusableFile."""
    token_file = None
    if settings.tokens_file is not None:
        token_file = _watched(settings, log, opened, "tokens_file", (settings.tokens_file,), TokenFile.read)
    signed_tokens = None
    if settings.takes_signed_tokens:
        rules = TokenRules(
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            tenant_claim=settings.jwt_tenant_claim,
            role_claim=settings.jwt_role_claim,
            leeway_s=settings.jwt_leeway_s,
        )
        signed_tokens = SignedTokens(_open_keys(settings, log, opened), rules)
    if token_file is None and signed_tokens is None:
        return OpenDoor(settings.tenant)
    return KnownCallers(token_file, signed_tokens)


def open_audit(settings: Settings, log: EventLog, opened: ExitStack) -> AuditTrail:
    """Raises UnusableFile."""
    folder = settings.audit_dir or settings.data_dir / "audit"
    trail = AuditFolder(folder, log, max_file_bytes=settings.audit_file_bytes, files_kept=settings.audit_files_kept)
    try:
        return opened.enter_context(trail)
    except OSError as error:
        raise UnusableFile(f"audit_dir: its files cannot be written ({type(error).__name__})") from error


def open_tls(settings: Settings, log: EventLog, opened: ExitStack) -> grpc.ServerCredentials | None:
    """None for a plaintext server. Raises UnusableFile."""
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        return None
    authorities = settings.tls_client_ca_file
    files = (settings.tls_certificate_file, settings.tls_key_file, *((authorities,) if authorities else ()))
    watched = _watched(settings, log, opened, "tls_certificate_file", files, read_certificate)
    return _reloading(watched, requires_client_certificate=authorities is not None)


def _open_keys(settings: Settings, log: EventLog, opened: ExitStack) -> KeySource:
    if settings.jwt_keys_file is not None:
        return KeyFile(_watched(settings, log, opened, "jwt_keys_file", (settings.jwt_keys_file,), read_keys))
    return opened.enter_context(
        FetchedKeys(
            settings.jwt_keys_url,
            log,
            refresh_interval_s=settings.jwt_keys_refresh_interval_s,
            min_interval_s=settings.jwt_keys_min_interval_s,
            timeout_s=settings.jwt_keys_timeout_s,
        )
    )


def _watched(
    settings: Settings, log: EventLog, opened: ExitStack, name: str, paths: tuple[Path, ...], read: Read[Content]
) -> WatchedFiles[Content]:
    return opened.enter_context(WatchedFiles(name, paths, read, log, settings.file_check_interval_s))


def _reloading(
    watched: WatchedFiles[ServerCertificate], *, requires_client_certificate: bool
) -> grpc.ServerCredentials:
    """Credentials that a handshake finds exchanged once the files are; it only looks at what is in memory."""
    served = watched.current
    lock = threading.Lock()  # guards served: handshakes come on several threads

    def fetch() -> Any:  # None for no change, which the types do not know
        nonlocal served
        with lock:
            if watched.current is served:
                return None
            served = watched.current
            return _configuration(served)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(served), fetch, require_client_authentication=requires_client_certificate
    )


def _configuration(certificate: ServerCertificate) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificate.key, certificate.chain)], root_certificates=certificate.client_authorities
    )
