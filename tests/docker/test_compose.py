"""docker/compose.yaml: what it names is there, its settings start a replica, and only Envoy and pages are published.

Its form is checked by `make lint`. No container runs here.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docker.deployment import DOCKER, longest_stop_s, made_secrets, port_of, seconds, settings_of
from tests.support.envoy import topology

COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
REPLICAS = ("dari-1", "dari-2")
OURS = ("dari:0.1.0", "dari-envoy:0.1.0")


def mounts(service: str) -> list[tuple[str, str]]:
    """Source and place of each volume."""
    return [(told.split(":")[0], told.split(":")[1]) for told in SERVICES[service].get("volumes", [])]


@pytest.mark.parametrize("service", [*REPLICAS, "migrate"])
def test_the_settings_of_a_container_start_it(service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly those: each is a setting, all together pass, and the secrets are those that make_secrets.py makes."""
    files = made_secrets(tmp_path / "secrets")
    granted = SERVICES[service]["secrets"]
    mounted = {f"/run/secrets/{name}": files[name] for name in granted}
    settings = settings_of(SERVICES[service]["environment"], mounted, monkeypatch)
    assert settings.database_dsn is not None
    assert (settings.migration_dsn is not None) == (service == "migrate")
    if service != "migrate":
        assert settings.tokens_file == files["tokens.toml"]


def test_every_file_that_is_mounted_is_there() -> None:
    missing = [
        source
        for service in SERVICES
        for source, _ in mounts(service)
        if source.startswith("./") and not (DOCKER / source).exists()
    ]
    assert missing == []


def test_every_volume_network_and_secret_is_declared_and_used() -> None:
    volumes = {source for service in SERVICES for source, _ in mounts(service) if not source.startswith("./")}
    assert volumes == set(COMPOSE["volumes"])
    networks = {name for service in SERVICES.values() for name in service["networks"]}
    assert networks == set(COMPOSE["networks"])
    assert {name for service in SERVICES.values() for name in service.get("secrets", [])} == set(COMPOSE["secrets"])


def test_secrets_are_the_files_that_are_made(tmp_path: Path) -> None:
    named = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    assert named == set(made_secrets(tmp_path / "secrets"))
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0


def test_what_is_published_is_published_on_this_machine_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"envoy", "grafana", "flowise"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    callers, _ = topology()["static_resources"]["listeners"]
    assert published["envoy"] == [f"127.0.0.1:50051:{callers['address']['socket_address']['port_value']}"]


def test_database_and_replicas_are_reached_from_inside_alone() -> None:
    assert COMPOSE["networks"]["inner"] == {"internal": True}
    assert SERVICES["postgres"]["networks"] == ["inner"]
    for name in REPLICAS:
        assert set(SERVICES[name]["networks"]) == {"inner", "models"}
        assert SERVICES[name]["networks"]["inner"] == {"aliases": ["dari"]}, "the name that Envoy looks up"


def test_the_ports_are_those_that_envoy_calls() -> None:
    environment = SERVICES["dari-1"]["environment"]
    clusters = topology()["static_resources"]["clusters"]
    endpoint = clusters[0]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"]["socket_address"] == {
        "address": "dari",
        "port_value": port_of(environment["DARI_LISTEN_ADDRESS"]),
    }
    assert endpoint["health_check_config"]["port_value"] == port_of(environment["DARI_ADMIN_ADDRESS"])


def test_a_replica_has_the_time_that_its_end_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = made_secrets(tmp_path / "secrets")
    for name in REPLICAS:
        mounted = {f"/run/secrets/{secret}": files[secret] for secret in SERVICES[name]["secrets"]}
        settings = settings_of(SERVICES[name]["environment"], mounted, monkeypatch)
        assert seconds(SERVICES[name]["stop_grace_period"]) > longest_stop_s(settings)


def test_nothing_of_ours_writes_where_it_need_not_or_has_a_right_too_many() -> None:
    for name in ("postgres", "migrate", "models", *REPLICAS, "envoy"):
        service = SERVICES[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_images_have_versions_and_containers_a_health() -> None:
    for name, service in SERVICES.items():
        image, _, version = service["image"].rpartition(":")
        assert image and version.removeprefix("v")[:1].isdigit(), service["image"]
        # Our images bring their own.
        assert service["image"] in OURS or "healthcheck" in service, name
    for name in REPLICAS:
        assert SERVICES[name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
