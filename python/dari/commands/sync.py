"""`dari sync` and `dari syncs`: fetch a source now, and what came of the looks at it."""

from typing import TYPE_CHECKING

from dari.commands.exit_codes import ExitCode
from dari.commands.terminal import Terminal, short_name
from dari.v1 import mapping_pb2 as wire

if TYPE_CHECKING:
    from dari.v1.mapping_pb2 import Sync


def run_sync(terminal: Terminal, name: str, *, accept_shrink: bool) -> ExitCode:
    """Begin a sync; `dari syncs` tells how it ends. Raises CallFailed."""
    with terminal.connect() as client:
        request = wire.SyncKnowledgeBaseRequest(name=name, accept_shrink=accept_shrink)
        sync = client.mapping.SyncKnowledgeBase(request).sync
    if terminal.as_json:
        terminal.json_line(sync)
    else:
        terminal.facts([("sync", str(sync.number)), ("state", _state(sync))], title=name)
    return ExitCode.OK


def run_list(terminal: Terminal, name: str) -> ExitCode:
    """List the latest syncs of a knowledge base, or of all. Raises CallFailed."""
    with terminal.connect() as client:
        syncs = client.mapping.ListSyncs(wire.ListSyncsRequest(knowledge_base=name)).syncs
    if terminal.as_json:
        for sync in syncs:
            terminal.json_line(sync)
        return ExitCode.OK
    terminal.table(
        ("knowledge base", "number", "state", "rows", "version", "bytes", "next"),
        [
            (
                sync.knowledge_base,
                str(sync.number),
                f"{_state(sync)}{': ' if sync.code else ''}{sync.code}",
                f"{sync.rows_found:,}",
                str(sync.version or "none"),
                f"{sync.fetched_bytes:,}",
                sync.next_time.ToJsonString() if sync.HasField("next_time") else "when asked",
            )
            for sync in syncs
        ],
    )
    return ExitCode.OK


def _state(sync: "Sync") -> str:
    return short_name(wire.SyncState.Name(sync.state), "SYNC_STATE_")
