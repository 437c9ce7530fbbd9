"""`dari status`: whether each service serves, how upstreams are, which uploads and syncs need an eye."""

import time
from collections.abc import Mapping, Sequence

from google.protobuf.duration_pb2 import Duration

from dari.client import Client
from dari.commands.exit_codes import ExitCode
from dari.commands.health import health_of
from dari.commands.terminal import Terminal, as_json, clean, short_name
from dari.v1.chat_pb2 import CircuitState, ListUpstreamsRequest, LocalProcess, LocalProcessState, Upstream
from dari.v1.ingest_pb2 import UPLOAD_STATE_INDEXING, UPLOAD_STATE_OPEN, ListUploadsRequest, Upload, UploadState
from dari.v1.mapping_pb2 import (
    SYNC_STATE_FAILED,
    SYNC_STATE_HELD,
    SYNC_STATE_RUNNING,
    AiModelKind,
    ListSyncsRequest,
    Sync,
    SyncState,
)

_SERVICES = ("dari.v1.ChatService", "dari.v1.IngestService", "dari.v1.MappingService")
NEWEST_UPLOADS = 1_000
"""How many uploads are looked through for open ones."""


def run(terminal: Terminal, admin_address: str) -> ExitCode:
    """Print the state. OK where the server serves, FAILED where it says that it does not. Raises CallFailed."""
    health = health_of(admin_address)
    services = {service.rpartition(".")[2]: health_of(admin_address, service) for service in _SERVICES}
    with terminal.connect() as client:
        upstreams = list(client.chats.ListUpstreams(ListUpstreamsRequest()).upstreams)
        uploads = _open_uploads(client)
        syncs = _notable_syncs(client)
    if terminal.as_json:
        terminal.json_line(
            {
                "health": health,
                "services": services,
                "upstreams": [as_json(upstream) for upstream in upstreams],
                "uploads": [as_json(upload) for upload in uploads],
                "syncs": [as_json(sync) for sync in syncs],
            }
        )
    else:
        _show(terminal, health, services, upstreams, uploads)
        _show_syncs(terminal, syncs)
    return ExitCode.OK if health == "SERVING" else ExitCode.FAILED


def run_watch(terminal: Terminal) -> None:
    """Print a line for each upstream that was asked, and another whenever it has changed; never returns by itself.

    Raises CallFailed, also where the server stops.
    """
    with terminal.connect() as client:
        for upstreams in client.watch_upstreams():
            if terminal.as_json:
                terminal.json_line({"upstreams": [as_json(upstream) for upstream in upstreams]})
                continue
            if not upstreams:
                terminal.note("No upstream was asked yet; each shows when it is.")
            for upstream in upstreams:
                terminal.out.print(clean(f"{time.strftime('%H:%M:%S')} {upstream_text(upstream)}"), soft_wrap=True)


def _notable_syncs(client: Client) -> list[Sync]:
    """The latest of each knowledge base, where it goes on, is held for a person, or failed."""
    latest: dict[str, Sync] = {}
    for sync in client.mapping.ListSyncs(ListSyncsRequest()).syncs:
        latest.setdefault(sync.knowledge_base, sync)
    return [sync for sync in latest.values() if sync.state in (SYNC_STATE_RUNNING, SYNC_STATE_HELD, SYNC_STATE_FAILED)]


def _open_uploads(client: Client) -> list[Upload]:
    uploads = client.ingests.ListUploads(ListUploadsRequest(page_size=NEWEST_UPLOADS)).uploads
    return [upload for upload in uploads if upload.state in (UPLOAD_STATE_OPEN, UPLOAD_STATE_INDEXING)]


def _show(
    terminal: Terminal, health: str, services: Mapping[str, str], upstreams: list[Upstream], uploads: list[Upload]
) -> None:
    terminal.out.print(f"{terminal.address} is {short_name(health, '')}")
    for service, state in services.items():
        terminal.out.print(f"  {service} is {short_name(state, '')}")
    terminal.table(
        ("AI model", "kind", "circuit", "for", "failures in a row", "failure rate", "latest failure", "tried again in"),
        [
            (
                upstream.ai_model,
                short_name(AiModelKind.Name(upstream.kind), "AI_MODEL_KIND_"),
                circuit_text(upstream),
                _span(upstream.in_state),
                upstream.consecutive_failures,
                f"{upstream.failure_rate:.0%}",
                upstream.last_failure_code,
                _span(upstream.open_remaining) if upstream.HasField("open_remaining") else None,
            )
            for upstream in upstreams
        ],
        title="Upstreams that this server has asked",
    )
    for upstream in upstreams:
        if upstream.HasField("local_process"):
            terminal.out.print(clean(f"{upstream.ai_model}: {process_text(upstream.local_process)}"), soft_wrap=True)
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


def _show_syncs(terminal: Terminal, syncs: Sequence[Sync]) -> None:
    terminal.table(
        ("knowledge base", "sync", "state", "cause", "rows before", "rows found", "next"),
        [
            (
                sync.knowledge_base,
                sync.number,
                short_name(SyncState.Name(sync.state), "SYNC_STATE_"),
                sync.code.replace("_", " "),
                f"{sync.rows_before:,}",
                f"{sync.rows_found:,}",
                sync.next_time.ToJsonString() if sync.HasField("next_time") else None,
            )
            for sync in syncs
        ],
        title="Sources that are fetched, held for a person, or failed",
    )


def upstream_text(upstream: Upstream) -> str:
    """One upstream in a line: its circuit, why, until when, and its process."""
    text = f"{upstream.ai_model} circuit {circuit_text(upstream)}"
    if upstream.last_failure_code:
        text += f", latest failure {upstream.last_failure_code}"
    if upstream.HasField("open_remaining"):
        text += f", tried again in {_span(upstream.open_remaining)}"
    if upstream.HasField("local_process"):
        text += f"; {process_text(upstream.local_process)}"
    return text


def circuit_text(upstream: Upstream) -> str:
    """The state of a circuit as people say it: half open."""
    return short_name(CircuitState.Name(upstream.circuit_state), "CIRCUIT_STATE_")


def process_text(process: LocalProcess) -> str:
    """The local model's process in a line."""
    text = f"process {short_name(LocalProcessState.Name(process.state), 'LOCAL_PROCESS_STATE_')}: {process.model_file}"
    if process.engine:
        text += f" on {process.engine}"
    text += f", {process.running} running, {process.queue_length} waiting, {process.restarts} restarts"
    if process.memory_bytes:
        text += f", {process.memory_bytes / 2**20:,.0f} MiB"
    return f"{text}, last ended by {process.last_failure_code}" if process.last_failure_code else text


def _span(length: Duration) -> str:
    return f"{length.ToTimedelta().total_seconds():,.1f} s"
