"""docker/envoy.yaml: the real binary takes it, one machine changes addresses alone, its routes keep the contract.

What it does to calls is in tests/faults/operation.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodOptions

from dari.core.uploads import MAX_CHUNK_BYTES
from dari.rpc.least_roles import rule_of
from tests.support.envoy import CLUSTERS, PROGRAM, make_descriptors, on_this_machine, routes, topology
from tests.support.every_rpc import methods, path_of

REPEATABLE = (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)
IF_NOT_BEGUN = {"connect-failure", "refused-stream", "reset-before-request"}
ON_ANY_LOSS = IF_NOT_BEGUN | {"reset", "unavailable"}


@pytest.fixture(scope="module")
def descriptors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("descriptors") / "dari.binpb"
    make_descriptors(file)
    return file


@pytest.mark.parametrize("replicas", [None, [("127.0.0.1:1", "127.0.0.1:2")] * 2], ids=["names", "this machine"])
def test_the_real_envoy_takes_the_file(
    descriptors: Path, tmp_path: Path, replicas: list[tuple[str, str]] | None
) -> None:
    """Without a word of warning, as it stands and on one machine."""
    here = on_this_machine(topology(), descriptors=descriptors, admin_socket=tmp_path / "a", replicas=replicas)
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(here))
    command = [str(PROGRAM), "--mode", "validate", "-c", str(config), "--log-level", "warning"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[warning]" not in done.stderr, done.stderr


def test_one_machine_changes_nothing_but_addresses(tmp_path: Path) -> None:
    here = on_this_machine(
        topology(),
        descriptors=tmp_path / "d",
        admin_socket=tmp_path / "a",
        replicas=[("127.0.0.1:1", "127.0.0.1:2")] * 2,
    )
    differing = {re.sub(r"\.\d+", "", place) for place in places(topology(), here)}
    assert differing == {
        "admin.address",
        "static_resources.listeners.address.socket_address.address",
        "static_resources.listeners.address.socket_address.port_value",
        "static_resources.listeners.filter_chains.filters.typed_config.http_filters.typed_config.proto_descriptor",
        "static_resources.clusters.load_assignment.endpoints.lb_endpoints",
        "static_resources.clusters.load_assignment.endpoints.lb_endpoints.endpoint.address",
    }


def places(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Where two documents differ; a list of another length, and what has other keys, as a whole."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from places(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for at, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from places(left, right, f"{path}.{at}")
    elif one != other:
        yield path.removeprefix(".")


def route_of(method: MethodDescriptor) -> dict[str, Any]:
    """The first route that fits a call of it by gRPC."""
    path = path_of(method)

    def fits(match: dict[str, Any]) -> bool:
        if "safe_regex" in match:
            return re.fullmatch(match["safe_regex"]["regex"], path) is not None
        return match.get("path") == path or path.startswith(match.get("prefix", "\0"))

    return next(route for route in routes(topology()) if fits(route["match"]))


def name_of(method: MethodDescriptor) -> str:
    return f"{method.containing_service.name}.{method.name}"


@pytest.mark.parametrize("method", methods(), ids=name_of)
def test_a_call_is_sent_again_only_as_its_contract_says(method: MethodDescriptor) -> None:
    policy = route_of(method)["route"].get("retry_policy", {})
    retried = set(policy.get("retry_on", "").split(",")) - {""}
    if method.client_streaming:
        assert retried == set()
    elif method.GetOptions().idempotency_level in REPEATABLE:
        assert retried == ON_ANY_LOSS
    else:
        assert retried == IF_NOT_BEGUN


@pytest.mark.parametrize("method", methods(), ids=name_of)
def test_a_call_goes_to_the_cluster_whose_health_is_its_own(method: MethodDescriptor) -> None:
    clusters = {cluster["name"]: cluster for cluster in topology()["static_resources"]["clusters"]}
    cluster = clusters[route_of(method)["route"]["cluster"]]
    (check,) = cluster["health_checks"]
    assert check["grpc_health_check"]["service_name"] == method.containing_service.full_name


@pytest.mark.parametrize("method", methods(), ids=name_of)
def test_streams_and_turns_have_no_end_but_their_own(method: MethodDescriptor) -> None:
    """Envoy's default is 15 s. The other calls end behind dari's own limit."""
    timeout = route_of(method)["route"]["timeout"]
    is_turn = method.name in ("Chat", "Ask")
    assert timeout == ("0s" if method.server_streaming or is_turn else "65s")


@pytest.mark.parametrize("method", methods(), ids=name_of)
def test_what_changes_something_is_not_called_free_of_effects(method: MethodDescriptor) -> None:
    """The contract's own word against the table of rights, which knows what the audit keeps."""
    if rule_of(path_of(method)).is_change:
        assert method.GetOptions().idempotency_level != MethodOptions.NO_SIDE_EFFECTS


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_every_cluster_of_replicas_is_guarded(cluster: str) -> None:
    (found,) = (one for one in topology()["static_resources"]["clusters"] if one["name"] == cluster)
    assert found["outlier_detection"]["max_ejection_percent"] == 50
    (limits,) = found["circuit_breakers"]["thresholds"]
    assert limits["retry_budget"]["budget_percent"]["value"] <= 50.0
    (locality,) = found["load_assignment"]["endpoints"]
    (endpoint,) = locality["lb_endpoints"]
    assert endpoint["endpoint"]["health_check_config"] == {"port_value": 50052}
    assert found["lb_policy"] == "LEAST_REQUEST"


def test_json_takes_what_a_message_of_dari_may_be() -> None:
    text = json.dumps(topology())
    (told,) = re.findall(r'"max_request_body_size": (\d+)', text)
    assert int(told) == MAX_CHUNK_BYTES + 64 * 1024


def test_the_descriptors_hold_what_errors_are_made_of(descriptors: Path) -> None:
    held = FileDescriptorSet.FromString(descriptors.read_bytes())
    names = {file.name for file in held.file}
    assert {
        "dari/v1/chat.proto",
        "dari/v1/ingest.proto",
        "dari/v1/mapping.proto",
        "google/rpc/error_details.proto",
    } <= names
