"""How a client reaches a server: by TLS or plainly, and as whom."""

from dataclasses import dataclass, field
from typing import Any

import grpc


@dataclass(frozen=True, slots=True)
class Access:
    """What a server asks of its callers. All of it may be left out for one on this machine that asks for nothing."""

    token: str = field(default="", repr=False)
    """Sent with every call. Over a plain connection everybody on the way can read it."""
    tls: bool = False
    """Whether to speak TLS; so it is too where one of the following is given."""
    authorities: bytes | None = None
    """PEM of those who may vouch for the server. Default: those that gRPC comes with."""
    certificate: bytes | None = None
    """PEM of the client's own certificate, for a server that asks for one."""
    key: bytes | None = field(default=None, repr=False)
    """PEM of its key."""

    def __post_init__(self) -> None:
        """Raises ValueError where a certificate comes without its key, or a key alone."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("A client certificate and its key go together.")

    def open(self, address: str, options: tuple[tuple[str, int], ...]) -> grpc.Channel:
        """A channel whose calls bring the token."""
        if self.tls or self.authorities is not None or self.certificate is not None:
            credentials = grpc.ssl_channel_credentials(self.authorities, self.key, self.certificate)
            channel = grpc.secure_channel(address, credentials, options=options)
        else:
            channel = grpc.insecure_channel(address, options=options)
        return grpc.intercept_channel(channel, _TokenBearer(self.token)) if self.token else channel


class _TokenBearer(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Puts the token into the metadata of every call. gRPC's own call credentials refuse a plain connection."""

    def __init__(self, token: str) -> None:
        self._header = ("authorization", f"Bearer {token}")

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(_WithHeader(client_call_details, self._header), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(_WithHeader(client_call_details, self._header), request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return continuation(_WithHeader(client_call_details, self._header), request_iterator)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return continuation(_WithHeader(client_call_details, self._header), request_iterator)


class _WithHeader(grpc.ClientCallDetails):
    """The details of a call with one more line of metadata."""

    def __init__(self, details: Any, header: tuple[str, str]) -> None:
        self.method = details.method
        self.timeout = details.timeout
        self.metadata = (*(details.metadata or ()), header)
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression
