"""`dari status`: whether the server serves, which upstreams are asked, which uploads are under way."""

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from dari.client import CallFailed, Client
from dari.commands.exit_codes import ExitCode
from dari.commands.terminal import Terminal, as_json, short_name
from dari.v1.chat_pb2 import CircuitState, ListUpstreamsRequest, Upstream
from dari.v1.ingest_pb2 import UPLOAD_STATE_INDEXING, UPLOAD_STATE_OPEN, ListUploadsRequest, Upload, UploadState
from dari.v1.mapping_pb2 import AiModelKind

HEALTH_TIMEOUT_S = 5.0
NEWEST_UPLOADS = 1_000
"""How many uploads are looked through for open ones."""


def run(terminal: Terminal, admin_address: str) -> ExitCode:
    """Print the state. OK where the server serves, FAILED where it says that it does not. Raises CallFailed."""
    health = _health(admin_address)
    with terminal.connect() as client:
        upstreams = list(client.chats.ListUpstreams(ListUpstreamsRequest()).upstreams)
        uploads = _open_uploads(client)
    if terminal.as_json:
        terminal.json_line(
            {
                "health": health,
                "upstreams": [as_json(upstream) for upstream in upstreams],
                "uploads": [as_json(upload) for upload in uploads],
            }
        )
    else:
        _show(terminal, health, upstreams, uploads)
    return ExitCode.OK if health == "SERVING" else ExitCode.FAILED


def _health(admin_address: str) -> str:
    """The word of the admin port for the whole server."""
    with grpc.insecure_channel(admin_address) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=HEALTH_TIMEOUT_S)
        except grpc.RpcError as error:
            raise CallFailed.of(error) from error
    return str(HealthCheckResponse.ServingStatus.Name(answer.status))


def _open_uploads(client: Client) -> list[Upload]:
    uploads = client.ingests.ListUploads(ListUploadsRequest(page_size=NEWEST_UPLOADS)).uploads
    return [upload for upload in uploads if upload.state in (UPLOAD_STATE_OPEN, UPLOAD_STATE_INDEXING)]


def _show(terminal: Terminal, health: str, upstreams: list[Upstream], uploads: list[Upload]) -> None:
    terminal.out.print(f"{terminal.address} is {short_name(health, '')}")
    terminal.table(
        ("AI model", "kind", "circuit", "failures in a row", "latest failure", "tried again in"),
        [
            (
                upstream.ai_model,
                short_name(AiModelKind.Name(upstream.kind), "AI_MODEL_KIND_"),
                short_name(CircuitState.Name(upstream.circuit_state), "CIRCUIT_STATE_"),
                upstream.consecutive_failures,
                upstream.last_failure_code,
                f"{upstream.open_remaining.ToTimedelta().total_seconds():.1f} s"
                if upstream.HasField("open_remaining")
                else None,
            )
            for upstream in upstreams
        ],
        title="Upstreams asked since the start",
    )
    terminal.table(
        ("upload", "knowledge base", "state", "bytes safe", "rows", "rejected", "last moved"),
        [
            (
                upload.name,
                upload.knowledge_base,
                short_name(UploadState.Name(upload.state), "UPLOAD_STATE_"),
                f"{upload.committed_offset_bytes:,}",
                f"{upload.rows_stored:,}",
                f"{upload.rows_rejected:,}",
                upload.update_time.ToJsonString(),
            )
            for upload in uploads
        ],
        title="Uploads under way",
    )
