"""Runs a script of `load/k6`: the streaming RPCs as another client than grpcio's sees them."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCRIPTS = Path(__file__).parent / "k6"
_GRACE_S = 60.0
_LEAST_S = 1.0
"""k6 takes no shorter duration."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of k6."""

    streams: int
    failed: int
    medians_ms: dict[str, float]
    """Of the script's own times, by name."""


def find() -> Path | None:
    """Where k6 is; None where it is not: `make load-tools` builds it where there is Go."""
    found = shutil.which("k6")
    return Path(found) if found else None


def run(program: Path, script: str, *, vus: int, seconds: float, token: str, **variables: str) -> Ran:
    """`script` is `ingest` or `chat`; `variables` are what it reads beside VUS, SECONDS and TOKEN."""
    seconds = max(_LEAST_S, seconds)
    told = {**variables, "VUS": str(vus), "SECONDS": f"{seconds:g}", "TOKEN": token}
    command = [str(program), "run", "--quiet", "--no-usage-report", str(_SCRIPTS / f"{script}.js")]
    # The token goes by the environment: anyone on the machine reads a process's arguments. An exit code other than 0
    # says that a threshold was crossed, which `failed` tells too.
    ended = subprocess.run(
        command, env={**os.environ, **told}, capture_output=True, text=True, timeout=seconds + _GRACE_S, check=False
    )
    if not ended.stdout.strip().startswith("{"):
        raise RuntimeError(f"k6 ended with {ended.returncode} and no summary")
    metrics: dict[str, Any] = json.loads(ended.stdout)
    own = {
        name: one["values"]["med"] for name, one in metrics.items() if one["type"] == "trend" and "_req_" not in name
    }
    failed = sum(int(one["values"]["count"]) for name, one in metrics.items() if name.endswith("_failed"))
    streams = int(metrics.get("grpc_streams", {"values": {"count": 0}})["values"]["count"])
    return Ran(streams, failed, own)
