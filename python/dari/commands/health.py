"""`dari health`: whether the server serves, for whoever starts it again where it does not."""

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from dari.client import CallFailed
from dari.commands.exit_codes import ExitCode
from dari.commands.terminal import Terminal

TIMEOUT_S = 5.0


def run(terminal: Terminal, admin_address: str, service: str) -> ExitCode:
    """Print the word of the admin port. OK where it is SERVING, else FAILED. Raises CallFailed."""
    health = health_of(admin_address, service)
    if terminal.as_json:
        terminal.json_line({"health": health})
    else:
        terminal.out.print(health)
    return ExitCode.OK if health == "SERVING" else ExitCode.FAILED


def health_of(admin_address: str, service: str = "") -> str:
    """The word of the admin port for one service, by default for the whole server. Raises CallFailed.

    SERVICE_UNKNOWN where the server has no such service, as Watch tells it.
    """
    with grpc.insecure_channel(admin_address) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(service=service), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            failed = CallFailed.of(error)
            if failed.code is grpc.StatusCode.NOT_FOUND:
                return "SERVICE_UNKNOWN"
            raise failed from error
    return str(HealthCheckResponse.ServingStatus.Name(answer.status))
