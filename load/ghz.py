"""Runs ghz, a client in Go that costs this machine little: what is measured is the server."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health_pb2

from dari.v1 import chat_pb2, ingest_pb2, mapping_pb2
from load.usage import children_cpu_s

OK = "OK"
_SERVED = (chat_pb2, ingest_pb2, mapping_pb2, health_pb2)
_GRACE_S = 60.0
"""Behind its duration, ghz waits for calls under way."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of ghz."""

    seconds: float
    statuses: dict[str, int]
    latencies_ms: dict[int, float]
    """By percentile; none where no call ended well."""
    client_cpu_s: float = field(default=0.0)

    @property
    def calls(self) -> int:
        """Those that ended OK."""
        return self.statuses.get(OK, 0)

    @property
    def failed(self) -> int:
        return sum(self.statuses.values()) - self.calls


def find() -> Path | None:
    """Where ghz is; None where it is not: `make load-tools` builds it where there is Go."""
    found = shutil.which("ghz")
    return Path(found) if found else None


def run(
    program: Path,
    address: str,
    method: str,
    data: object,
    *,
    duration_s: float,
    concurrency: int,
    connections: int = 1,
    token: str = "",
) -> Ran:
    """Call `package.Service/Method` again and again. `data` is a request, or a list of them for a stream of requests.

    Strings in it may have ghz's templates, such as {{newUUID}}, which differs from call to call.
    """
    with tempfile.TemporaryDirectory(prefix="dari-ghz-") as folder:
        protoset = Path(folder) / "protoset"
        protoset.write_bytes(_protoset())
        # In a file, not in the command: anyone on the machine reads a process's arguments.
        metadata = Path(folder) / "metadata.json"
        metadata.write_text(json.dumps({"authorization": f"Bearer {token}"} if token else {}))
        command = [str(program), "--insecure", "--protoset", str(protoset), "--call", method]
        command += ["--metadata-file", str(metadata), "--data", json.dumps(data, ensure_ascii=False)]
        command += ["--concurrency", str(concurrency), "--connections", str(min(connections, concurrency))]
        command += ["--duration", f"{duration_s}s", "--duration-stop", "wait", "--format", "json", address]
        before = children_cpu_s()
        ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=duration_s + _GRACE_S)
        return _ran(json.loads(ended.stdout), children_cpu_s() - before)


def _ran(told: dict[str, Any], client_cpu_s: float) -> Ran:
    latencies = {one["percentage"]: one["latency"] / 1e6 for one in told.get("latencyDistribution") or ()}
    return Ran(told["total"] / 1e9, dict(told.get("statusCodeDistribution") or {}), latencies, client_cpu_s)


def _protoset() -> bytes:
    """All that dari serves, each file behind those that it imports."""
    files: dict[str, FileDescriptor] = {}
    for module in _SERVED:
        for file in _with_imports(module.DESCRIPTOR):
            files.setdefault(file.name, file)
    told = descriptor_pb2.FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(told.file.add())
    return told.SerializeToString()


def _with_imports(file: FileDescriptor) -> Iterator[FileDescriptor]:
    imports: Sequence[FileDescriptor] = file.dependencies
    for one in imports:
        yield from _with_imports(one)
    yield file
