"""`dari sync`, `dari syncs`, `dari compare`: fetch a source now, what came of the looks at it, what changed by it."""

import time
from typing import TYPE_CHECKING

from dari.commands.exit_codes import ExitCode
from dari.commands.terminal import Terminal, short_name
from dari.v1 import mapping_pb2 as wire

if TYPE_CHECKING:
    from dari.client import Client
    from dari.v1.mapping_pb2 import Sync

_POLL_INTERVAL_S = 0.2
_LATEST = 20
"""Syncs of one knowledge base that may begin between two looks at their list."""


def run_sync(terminal: Terminal, name: str, *, accept_shrink: bool, wait: bool) -> ExitCode:
    """Begin a sync; its end is waited for, or `dari syncs` tells it. Raises CallFailed."""
    with terminal.connect() as client:
        request = wire.SyncKnowledgeBaseRequest(name=name, accept_shrink=accept_shrink)
        sync = client.mapping.SyncKnowledgeBase(request).sync
        if wait:
            sync = _ended(client, sync)
    if terminal.as_json:
        terminal.json_line(sync)
    else:
        facts = [("sync", str(sync.number)), ("state", _state(sync))]
        terminal.facts([*facts, ("rows", f"{sync.rows_found:,}")] if wait else facts, title=name)
    return ExitCode.FAILED if sync.state in (wire.SYNC_STATE_FAILED, wire.SYNC_STATE_HELD) else ExitCode.OK


def run_compare(terminal: Terminal, name: str, from_version: int, to_version: int, key_columns: list[str]) -> ExitCode:
    """Tell what changed between two versions. Raises CallFailed."""
    request = wire.CompareVersionsRequest(
        knowledge_base=name, from_version=from_version, to_version=to_version, key_columns=key_columns
    )
    with terminal.connect() as client:
        found = client.mapping.CompareVersions(request)
    if terminal.as_json:
        terminal.json_line(found)
    else:
        counts = ("added", "removed", "changed", "unchanged")
        terminal.facts(
            [(count, f"{getattr(found, f'rows_{count}'):,}") for count in counts],
            title=f"{name}, rows of version {found.to_version} against {found.from_version}",
        )
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
                _state(sync),
                f"{sync.rows_found:,}",
                str(sync.version or "none"),
                f"{sync.fetched_bytes:,}",
                sync.next_time.ToJsonString() if sync.HasField("next_time") else "when asked",
            )
            for sync in syncs
        ],
    )
    return ExitCode.OK


def _ended(client: "Client", sync: "Sync") -> "Sync":
    """The sync, once it has ended. Raises CallFailed."""
    request = wire.ListSyncsRequest(knowledge_base=sync.knowledge_base, page_size=_LATEST)
    while sync.state == wire.SYNC_STATE_RUNNING:
        time.sleep(_POLL_INTERVAL_S)
        found = client.mapping.ListSyncs(request).syncs
        if not found:
            # Its syncs went with the knowledge base: this says so.
            client.mapping.GetKnowledgeBase(wire.GetKnowledgeBaseRequest(name=sync.knowledge_base))
        sync = next((each for each in found if each.number == sync.number), sync)
    return sync


def _state(sync: "Sync") -> str:
    state = short_name(wire.SyncState.Name(sync.state), "SYNC_STATE_")
    return f"{state}: {sync.code}" if sync.code else state
