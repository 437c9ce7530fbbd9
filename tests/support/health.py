"""What a replica's second port says of it."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.running_dari import SOON_S

CHAT, INGEST, MAPPING = "dari.v1.ChatService", "dari.v1.IngestService", "dari.v1.MappingService"
WHOLE = ""
SERVICES = (WHOLE, CHAT, INGEST, MAPPING)


def serving(admin_address: str) -> set[str]:
    """The services that say SERVING; waits for a port that is not open yet."""
    with grpc.insecure_channel(admin_address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return {service for service in SERVICES if _serves(stub, service)}


def _serves(stub: health_pb2_grpc.HealthStub, service: str) -> bool:
    request = health_pb2.HealthCheckRequest(service=service)
    answer = stub.Check(request, timeout=SOON_S, wait_for_ready=True)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
