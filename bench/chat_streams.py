"""Many chats at once on one server, beside as many streams of a bare gRPC server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.chat_flowise_process import FlowiseProcess
from bench.chat_turns import make_chat, make_flowise
from bench.ingest import MIB, check, reset_peak, running_server, status_bytes

TOKENS_PER_S = 30
GAP_MS = 1_000 // TOKENS_PER_S
_WARM_UP_STREAMS = 4


def many_streams(flowise: FlowiseProcess, streams: int, duration_s: int, rounds: int) -> dict[str, Any]:
    """Both ways in turn, each with a server of its own: memory is what the streams add to one that has just begun."""
    tokens = duration_s * TOKENS_PER_S
    ways: dict[str, list[dict[str, Any]]] = {"dari": [], "bare": []}
    for number in range(rounds):
        for way in list(ways) if number % 2 == 0 else reversed(list(ways)):
            run = _through_dari(flowise, streams, tokens) if way == "dari" else _bare(streams, tokens)
            check("streams that ended well", run["statuses"], {"OK": streams})
            check("tokens", run["tokens"], streams * tokens)
            ways[way].append(run)
    return {"streams": streams, "tokens_per_s_each": round(1_000 / GAP_MS, 1), "duration_s": duration_s, **ways}


def _through_dari(flowise: FlowiseProcess, streams: int, tokens: int) -> dict[str, Any]:
    with running_server(max_chats=str(streams + 8)) as bench:
        warm_up = make_chat(bench.client, make_flowise(bench.client, flowise.url(tokens=10, gap_ms=0)))
        _load(bench.client.address, warm_up, _WARM_UP_STREAMS)
        chat = make_chat(bench.client, make_flowise(bench.client, flowise.url(tokens=tokens, gap_ms=GAP_MS)))
        pid = bench.process.pid
        reset_peak(pid)
        return _measured_load(pid, bench.client.address, chat, streams)


def _bare(streams: int, tokens: int) -> dict[str, Any]:
    with _bare_server(streams, tokens) as (pid, address):
        return _measured_load(pid, address, "chatConfigurations/any", streams)


@contextmanager
def _bare_server(streams: int, tokens: int) -> Iterator[tuple[int, str]]:
    """Its process and its address."""
    command = [sys.executable, "-m", "bench.chat_bare_server", str(streams), str(tokens), str(GAP_MS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.pid, f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _measured_load(pid: int, address: str, chat: str, streams: int) -> dict[str, Any]:
    """What the caller saw, and what it cost the server's process."""
    before_bytes, before_s = status_bytes(pid, "VmRSS"), _processor_s(pid)
    run = _load(address, chat, streams)
    grown_bytes, took_s = status_bytes(pid, "VmHWM") - before_bytes, _processor_s(pid) - before_s
    return run | {
        "mib_per_stream": round(grown_bytes / MIB / streams, 3),
        "processor_us_per_token": round(1e6 * took_s / run["tokens"]),
    }


def _processor_s(pid: int) -> float:
    """Time that a process has had of the processors: proc_pid_stat(5), fields 14 and 15."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _load(address: str, chat: str, streams: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.chat_load", address, chat, str(streams)]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return result
