"""docker/k8s: its settings start a replica, its probes ask what answers, and the end of a pod has its time.

Its form is checked by `make lint`. No cluster runs here.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docker.deployment import DOCKER, longest_stop_s, made_secrets, port_of, settings_of
from tests.support.envoy import topology

FOLDER = DOCKER / "k8s"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
OBJECTS: dict[tuple[str, str], dict[str, Any]] = {
    (told["kind"], told["metadata"]["name"]): told
    for file in KUSTOMIZATION["resources"]
    for told in yaml.safe_load_all((FOLDER / file).read_text())
}
WORKLOADS = [
    ("Deployment", "dari"),
    ("Deployment", "dari-gateway"),
    ("Job", "dari-migrate-0-1-0"),
]
CONFIG: dict[str, str] = OBJECTS["ConfigMap", "dari"]["data"]


def pod(kind: str, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = OBJECTS[kind, name]["spec"]["template"]["spec"]
    return spec


def container(kind: str, name: str) -> dict[str, Any]:
    (one,) = pod(kind, name)["containers"]
    found: dict[str, Any] = one
    return found


def test_every_file_is_listed_and_names_no_namespace() -> None:
    assert {file.name for file in FOLDER.glob("*.yaml")} == {*KUSTOMIZATION["resources"], "kustomization.yaml"}
    assert all("namespace" not in told["metadata"] for told in OBJECTS.values())


def test_the_settings_of_a_replica_start_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = made_secrets(tmp_path / "secrets")
    mounted = {f"/run/secrets/dari/{name}": files[name] for name in ("dari.toml", "tokens.toml")}
    settings = settings_of(CONFIG, mounted, monkeypatch)
    assert settings.database_dsn is not None
    assert settings.tokens_file == files["tokens.toml"]
    assert pod("Deployment", "dari")["terminationGracePeriodSeconds"] > longest_stop_s(settings)


def test_the_settings_of_the_migration_start_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = made_secrets(tmp_path / "secrets")
    environment = {told["name"]: told["value"] for told in container("Job", "dari-migrate-0-1-0")["env"]}
    settings = settings_of(environment, {"/run/secrets/dari/migrate.toml": files["migrate.toml"]}, monkeypatch)
    assert settings.migration_dsn is not None


def test_probes_ask_the_admin_port_for_services_that_it_knows() -> None:
    replica = container("Deployment", "dari")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert replica[probe]["grpc"]["port"] == port_of(CONFIG["DARI_ADMIN_ADDRESS"])
    assert replica["readinessProbe"]["grpc"]["service"] == "dari.v1.ChatService"


def test_ports_are_those_of_the_settings_and_of_envoy() -> None:
    ports = {told["name"]: told["containerPort"] for told in container("Deployment", "dari")["ports"]}
    assert ports["grpc"] == port_of(CONFIG["DARI_LISTEN_ADDRESS"])
    assert ports["health"] == port_of(CONFIG["DARI_ADMIN_ADDRESS"])
    assert ports["metrics"] == port_of(CONFIG["DARI_METRICS_ADDRESS"])
    headless = OBJECTS["Service", "dari"]["spec"]
    assert headless["clusterIP"] == "None"
    assert {told["name"]: told["port"] for told in headless["ports"]} == ports
    callers, stats = (one["address"]["socket_address"] for one in topology()["static_resources"]["listeners"])
    gateway = {told["name"]: told["containerPort"] for told in container("Deployment", "dari-gateway")["ports"]}
    assert gateway == {"callers": callers["port_value"], "stats": stats["port_value"]}


@pytest.mark.parametrize(("kind", "name"), WORKLOADS)
def test_pods_run_without_rights(kind: str, name: str) -> None:
    """As the standard `restricted` asks for."""
    spec, only = pod(kind, name), container(kind, name)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert {"cpu", "memory"} <= only["resources"]["requests"].keys()
    assert "memory" in only["resources"]["limits"]
    mounted = {mount["name"] for mount in only["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize("name", ["dari", "dari-gateway"])
def test_a_rollout_and_an_eviction_leave_one_that_serves(name: str) -> None:
    deployment = OBJECTS["Deployment", name]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    budget = OBJECTS["PodDisruptionBudget", name]["spec"]
    assert budget["minAvailable"] == 1
    for selector in (budget["selector"], deployment["selector"]):
        assert selector["matchLabels"].items() <= labels.items()
    assert OBJECTS["Service", name]["spec"]["selector"].items() <= labels.items()
    assert OBJECTS["NetworkPolicy", name]["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
