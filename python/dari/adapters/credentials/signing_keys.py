"""The public keys that sign tokens (RFC 7517): of a file, or fetched from their issuer by a thread.

Whichever way they come, the algorithm is the key's and never the token's word: RS256 for an RSA key of 2,048 bits or
more, EdDSA for an Ed25519 key. Keys of another kind, among them all symmetric ones, are passed over. That is what keeps
`alg: none`, and HMAC with a public key as its secret, from ever being tried.
"""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, Self

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from dari.adapters.watched_files import UnusableFile, WatchedFiles
from dari.core.errors import Unauthenticated, Unavailable
from dari.core.event_log import EventLog

ALGORITHMS = ("RS256", "EdDSA")
_MIN_RSA_BITS = 2_048
_MAX_SET_BYTES = 1024 * 1024
_MAX_WAITING = 4
"""Calls that may wait for a fetch at once: each holds a thread, and its token may be anyone's invention."""
_CLOSE_TIMEOUT_S = 1.0

SigningKeys = Mapping[str, jwt.PyJWK]
"""By key id."""


class KeysNotFetched(Exception):
    """The issuer did not give its keys. The text is the kind of failure: httpx tells the address in its own."""


class KeySource(Protocol):
    """Where keys are found. Thread-safe."""

    def find(self, key_id: str) -> jwt.PyJWK:
        """Raises Unauthenticated where there is none of this id, Unavailable where there are none at all yet."""
        ...


def read_keys(contents: Sequence[bytes]) -> SigningKeys:
    """The usable keys of a JSON Web Key Set, the bytes of one file. Raises UnusableFile."""
    try:
        (content,) = contents
        listed = json.loads(content)["keys"]
        keys = {str(each["kid"]): key for each in listed if "kid" in each and (key := _key(each)) is not None}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UnusableFile(f"jwt_keys: is no JSON Web Key Set ({type(error).__name__})") from None
    if not keys:
        raise UnusableFile("jwt_keys: holds no RSA key of 2,048 bits or Ed25519 key with a kid")
    return MappingProxyType(keys)


def _key(fields: dict[str, Any]) -> jwt.PyJWK | None:
    if fields.get("use", "sig") != "sig" or fields.get("alg", "RS256") not in (*ALGORITHMS, "Ed25519"):
        return None
    try:
        if fields.get("kty") == "RSA":
            key = jwt.PyJWK(fields, "RS256")
            return key if isinstance(key.key, RSAPublicKey) and key.key.key_size >= _MIN_RSA_BITS else None
        if fields.get("kty") == "OKP":
            key = jwt.PyJWK(fields, "EdDSA")
            return key if isinstance(key.key, Ed25519PublicKey) else None
    except jwt.PyJWTError:
        return None
    return None


class KeyFile:
    """A KeySource: a file, read again when it changes."""

    def __init__(self, file: WatchedFiles[SigningKeys]) -> None:
        self._file = file

    def find(self, key_id: str) -> jwt.PyJWK:
        """See KeySource."""
        return _found(self._file.current, key_id)


class FetchedKeys:
    """A KeySource: the issuer's address, asked by a thread. Use in a `with` statement, which has the thread.

    Keys are kept until the next fetch that succeeds. A key id that nobody knows has them fetched at once, though not
    more often than every `min_interval_s`, and the call waits for that: issuers change keys without telling.
    """

    def __init__(
        self, url: str, log: EventLog, *, refresh_interval_s: float, min_interval_s: float, timeout_s: float
    ) -> None:
        self._url = url
        self._log = log
        self._refresh_interval_s = refresh_interval_s
        self._min_interval_s = min_interval_s
        self._timeout_s = timeout_s
        self._waiting = threading.BoundedSemaphore(_MAX_WAITING)
        self._news = threading.Condition()  # guards all below
        self._keys: SigningKeys | None = None
        self._fetches = 0
        self._due_s = 0.0
        self._may_fetch_s = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="jwt-keys", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def find(self, key_id: str) -> jwt.PyJWK:
        """See KeySource."""
        with self._news:
            if self._keys is None or key_id not in self._keys:
                self._wait_for_fetch()
            keys = self._keys
        if keys is None:
            raise Unavailable.of("jwt_keys")
        return _found(keys, key_id)

    def _wait_for_fetch(self) -> None:
        """With the lock held, which waiting gives back."""
        if time.monotonic() < self._may_fetch_s or not self._waiting.acquire(blocking=False):
            return
        try:
            before, self._due_s = self._fetches, 0.0
            self._news.notify_all()
            self._news.wait_for(lambda: self._fetches != before or self._closed, self._timeout_s)
        finally:
            self._waiting.release()

    def _run(self) -> None:
        while self._wait_until_due():
            keys = self._fetch()
            with self._news:
                self._keys = keys or self._keys
                self._fetches += 1
                now_s = time.monotonic()
                self._may_fetch_s = now_s + self._min_interval_s
                self._due_s = now_s + (self._refresh_interval_s if keys else self._min_interval_s)
                self._news.notify_all()

    def _wait_until_due(self) -> bool:
        """Whether to go on."""
        with self._news:
            while not self._closed and (wait_s := self._due_s - time.monotonic()) > 0:
                self._news.wait(wait_s)
            return not self._closed

    def _fetch(self) -> SigningKeys | None:
        try:
            return fetch_keys(self._url, self._timeout_s)
        except (KeysNotFetched, UnusableFile) as error:
            self._log.error("jwt_keys_not_fetched", problem=str(error))
            return None


def fetch_keys(url: str, timeout_s: float) -> SigningKeys:
    """The usable keys at the issuer's address. Raises KeysNotFetched, and UnusableFile as `read_keys`."""
    try:
        with httpx.stream("GET", url, timeout=timeout_s) as response:
            response.raise_for_status()
            content = b""
            for piece in response.iter_bytes():
                content += piece
                if len(content) > _MAX_SET_BYTES:
                    raise UnusableFile(f"jwt_keys: is larger than {_MAX_SET_BYTES} bytes")
    except httpx.HTTPError as error:
        raise KeysNotFetched(type(error).__name__) from error
    return read_keys([content])


def _found(keys: SigningKeys, key_id: str) -> jwt.PyJWK:
    if key_id not in keys:
        raise Unauthenticated.of("unknown_key")
    return keys[key_id]
