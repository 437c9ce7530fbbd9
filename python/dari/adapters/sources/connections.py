"""Connections of httpcore that go to allowed addresses only, and end in time whatever the other side does.

httpcore's timeouts are between two packets: a server that sends a byte of a header now and then would hold a fetch for
ever. Here each wait is no longer than what the whole fetch may still take.
"""

import ssl
from typing import Any

import httpcore

from dari.adapters.sources.addresses import AllowedAddresses
from dari.adapters.sources.bounds import FetchBounds


class PinnedBackend(httpcore.SyncBackend):
    """Connects within the bounds of one fetch. TLS still asks for the host's name, which the pool hands on."""

    def __init__(self, addresses: AllowedAddresses, bounds: FetchBounds) -> None:
        super().__init__()
        self._addresses = addresses
        self._bounds = bounds

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **options: Any
    ) -> httpcore.NetworkStream:
        """Connect to the first allowed address that answers. Raises AddressRefused, httpcore.ConnectError."""
        try:
            addresses = self._addresses.of(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("unknown host") from error
        for address in addresses[:-1]:
            try:
                return self._connected(address, port, timeout, *args, **options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._connected(addresses[-1], port, timeout, *args, **options)

    def connect_unix_socket(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        """Never: a URL names hosts."""
        raise NotImplementedError

    def _connected(
        self, address: str, port: int, timeout: float | None, *args: Any, **options: Any
    ) -> httpcore.NetworkStream:
        wait_s = _shorter(timeout, self._bounds)
        return _BoundedStream(super().connect_tcp(address, port, wait_s, *args, **options), self._bounds)


class _BoundedStream(httpcore.NetworkStream):
    """A connection that waits no longer than its fetch may."""

    def __init__(self, stream: httpcore.NetworkStream, bounds: FetchBounds) -> None:
        self._stream = stream
        self._bounds = bounds

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _shorter(timeout, self._bounds))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _shorter(timeout, self._bounds))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        wait_s = _shorter(timeout, self._bounds)
        return _BoundedStream(self._stream.start_tls(ssl_context, server_hostname, wait_s), self._bounds)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _shorter(timeout_s: float | None, bounds: FetchBounds) -> float:
    remaining_s = bounds.remaining_s()
    return remaining_s if timeout_s is None else min(timeout_s, remaining_s)
