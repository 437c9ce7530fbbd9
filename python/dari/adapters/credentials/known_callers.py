"""Decides who calls by everything that the settings trust: the tokens file, signed tokens, client certificates."""

from collections.abc import Callable
from datetime import UTC, datetime

from dari.adapters.credentials.signed_tokens import SignedTokens, looks_signed
from dari.adapters.credentials.token_file import TokenFile
from dari.adapters.watched_files import WatchedFiles
from dari.core.callers import Caller, Presented
from dari.core.errors import Unauthenticated


def _now() -> datetime:
    return datetime.now(UTC)


class KnownCallers:
    """An Authenticator. A token goes before a certificate: a gateway with its own may speak for someone."""

    def __init__(
        self,
        token_file: WatchedFiles[TokenFile] | None,
        signed_tokens: SignedTokens | None,
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._token_file = token_file
        self._signed_tokens = signed_tokens
        self._now = now

    def authenticate(self, presented: Presented) -> Caller:
        """See Authenticator."""
        token = presented.token
        if token is None and presented.certificate_names and self._token_file is not None:
            return self._token_file.current.caller_with_certificate(presented.certificate_names, self._now())
        if token is None:
            raise Unauthenticated.of("token_missing")
        if self._signed_tokens is not None and looks_signed(token):
            return self._signed_tokens.caller(token)
        if self._token_file is None:
            raise Unauthenticated.of("token_malformed")
        return self._token_file.current.caller_with_token(token, self._now())
