"""Knows the neighbour that stands behind each AI model: one client and one circuit for each distinct target."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from dari.adapters.circuit import ConsecutiveFailuresCircuit
from dari.adapters.flowise import FlowiseUpstream
from dari.adapters.local_model.process import LocalModel
from dari.adapters.openai_compatible import OpenAiCompatibleUpstream
from dari.core.circuit import Circuit, CircuitSnapshot
from dari.core.mapping import AiModel, AiModelKind, FlowiseTarget, LocalTarget, OpenAiCompatibleTarget, Target
from dari.core.upstream import FailureKind, Upstream, UpstreamError


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """What stands behind one AI model, as this process sees it."""

    ai_model: str
    kind: AiModelKind
    circuit: CircuitSnapshot


class UpstreamDirectory:
    """A Directory. Thread-safe."""

    def __init__(
        self,
        *,
        secrets: Mapping[str, SecretStr],
        local_model: LocalModel | None,
        local_model_id: str | None,
        failures_to_open: int,
        open_s: float,
    ) -> None:
        self._secrets = secrets
        self._local_model = local_model
        self._local_model_id = local_model_id
        self._failures_to_open = failures_to_open
        self._open_s = open_s
        # Guards the three below.
        self._lock = threading.Lock()
        self._clients: dict[Target, FlowiseUpstream | OpenAiCompatibleUpstream] = {}
        self._circuits: dict[Target, Circuit] = {}
        self._models: dict[str, AiModel] = {}

    def upstream(self, model: AiModel) -> Upstream:
        """See Directory."""
        target = model.target
        with self._lock:
            self._models[model.id] = model
            if isinstance(target, LocalTarget):
                return self._local(target)
            client = self._clients.get(target)
            if client is None:
                client = self._clients[target] = self._connect(target)
            return client

    def circuit(self, model: AiModel) -> Circuit:
        """See Directory."""
        with self._lock:
            circuit = self._circuits.get(model.target)
            if circuit is None:
                circuit = ConsecutiveFailuresCircuit(self._failures_to_open, self._open_s)
                self._circuits[model.target] = circuit
            return circuit

    def states(self) -> list[UpstreamState]:
        """Every AI model asked since the start, by id."""
        with self._lock:
            models = sorted(self._models.values(), key=lambda model: model.id)
        return [UpstreamState(model.id, model.kind, self.circuit(model).state()) for model in models]

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for client in self._clients.values():
                client.close()

    def _local(self, target: LocalTarget) -> Upstream:
        if self._local_model is None:
            raise UpstreamError(FailureKind.OURS, "no_local_model")
        if target.model_file not in ("", self._local_model_id):
            raise UpstreamError(FailureKind.OURS, "model_file_not_loaded")
        return self._local_model

    def _connect(self, target: FlowiseTarget | OpenAiCompatibleTarget) -> FlowiseUpstream | OpenAiCompatibleUpstream:
        key = self._secret(target.api_key_secret)
        match target:
            case FlowiseTarget():
                return FlowiseUpstream(target.base_url, target.flow_id, key)
            case OpenAiCompatibleTarget():
                return OpenAiCompatibleUpstream(target.base_url, target.model, key)

    def _secret(self, name: str) -> str | None:
        if not name:
            return None
        secret = self._secrets.get(name)
        if secret is None:
            raise UpstreamError(FailureKind.OURS, "unknown_secret")
        return secret.get_secret_value()
