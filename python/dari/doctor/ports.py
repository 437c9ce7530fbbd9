"""The addresses of a server: free, or held by a dari that answers."""

import errno
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import grpc
import httpx
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from dari.adapters.telemetry import families
from dari.client import CallFailed, Client
from dari.doctor.findings import Finding, failed, ok, warning
from dari.settings import Settings
from dari.v1.chat_pb2 import ListUpstreamsRequest

_STOP_IT = "Stop it, or choose another address."


def look_at_ports(settings: Settings, timeout_s: float) -> Iterator[Finding]:
    """All three, whether a server runs here or not."""
    yield _listen(settings, timeout_s)
    yield _admin(settings.admin_address, timeout_s)
    if settings.metrics_address:
        yield _metrics(settings.metrics_address, timeout_s)


def _listen(settings: Settings, timeout_s: float) -> Finding:
    where = f"listen_address: {settings.listen_address}"
    free = _free(where, settings.listen_address)
    if free is not None:
        return free
    reached = _reachable(settings.listen_address)
    if settings.tls_certificate_file is not None:
        return _tls(where, reached, settings.tls_certificate_file, timeout_s)
    with Client(reached, timeout_s=timeout_s) as client:
        try:
            client.chats.ListUpstreams(ListUpstreamsRequest())
        except CallFailed as error:
            if not error.reason:
                return failed(where, "is held by something that does not answer as dari does", _STOP_IT)
    return ok(where, "is held by a dari that answers")


def _tls(where: str, address: str, certificate_file: Path, timeout_s: float) -> Finding:
    """Who holds the certificate of the settings is our server; whether its authority is known here says nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host.strip("[]")) as secured,
        ):
            served = secured.getpeercert(binary_form=True)
    except OSError:
        return failed(where, "is held by something that does not speak TLS as dari does", _STOP_IT)
    try:
        pem = certificate_file.read_text().partition("-----END CERTIFICATE-----")
        own = ssl.PEM_cert_to_DER_cert(pem[0].strip() + "\n" + pem[1] + "\n")
    except (OSError, ValueError):
        return warning(
            where, "is held by something that speaks TLS", "Correct tls_certificate_file, and examine again."
        )
    if served != own:
        told = "is held by something with another certificate than that of tls_certificate_file"
        return warning(
            where, told, "A running server takes a new one within file_check_interval_s; else it is another."
        )
    return ok(where, "is held by a dari that serves the certificate of tls_certificate_file")


def _admin(address: str, timeout_s: float) -> Finding:
    where = f"admin_address: {address}"
    free = _free(where, address)
    if free is not None:
        return free
    with grpc.insecure_channel(_reachable(address)) as channel:
        try:
            # Another server's health knows no such service.
            answer = HealthStub(channel).Check(HealthCheckRequest(service="dari.v1.ChatService"), timeout=timeout_s)
        except grpc.RpcError:
            return failed(where, "is held by something that does not answer as dari's health does", _STOP_IT)
    if answer.status == HealthCheckResponse.SERVING:
        return ok(where, "is held by a dari that serves")
    told = "is held by a dari that does not serve: it starts, drains, or waits for its database"
    return warning(where, told, "See its log; `dari status` tells more.")


def _metrics(address: str, timeout_s: float) -> Finding:
    where = f"metrics_address: {address}"
    free = _free(where, address)
    if free is not None:
        return free
    shown = ""
    # No proxy is between us and this machine, whatever the environment says.
    with suppress(httpx.HTTPError), httpx.Client(trust_env=False, timeout=timeout_s) as client:
        shown = client.get(f"http://{_reachable(address)}/metrics").raise_for_status().text
    if families.BUILD.name not in shown:
        return failed(where, "is held by something that does not show dari's metrics", _STOP_IT)
    return ok(where, "is held by a dari that shows its metrics")


def _free(where: str, address: str) -> Finding | None:
    """None where somebody listens there."""
    host, _, port = address.rpartition(":")
    if port == "0":
        return ok(where, "a free port is chosen at each start")
    try:
        family, _, _, _, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    except (OSError, OverflowError):
        return failed(where, "its host is unknown, or its port is no port", "Correct it.")
    with socket.socket(family, socket.SOCK_STREAM) as taken:
        # As gRPC does: what is left of a server that ended a moment ago is no hindrance.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(place)
            taken.listen(1)
        except PermissionError:
            return failed(where, "ports below 1024 are for root", "Choose another, or give dari CAP_NET_BIND_SERVICE.")
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return None
            return failed(where, f"cannot be bound ({error.strerror})", "Choose an address of this machine.")
    return ok(where, "is free")


def _reachable(address: str) -> str:
    """A server that listens on every address is called by the loopback one."""
    host, _, port = address.rpartition(":")
    try:
        given = ip_address(host.strip("[]"))
    except ValueError:
        return address
    if not given.is_unspecified:
        return address
    return f"127.0.0.1:{port}" if given.version == 4 else f"[::1]:{port}"
