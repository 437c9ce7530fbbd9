"""Knows the neighbour behind each AI model: a client and a circuit for each target, and a circuit for each server."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import SecretStr

from dari.adapters.circuit import CircuitRules, WindowedCircuit
from dari.adapters.flowise import FlowiseUpstream
from dari.adapters.local_model.process import LocalModel
from dari.adapters.openai_compatible import OpenAiCompatibleUpstream
from dari.core.circuit import CircuitSnapshot, OperatedCircuit
from dari.core.errors import NotFound
from dari.core.mapping import AiModel, AiModelKind, FlowiseTarget, LocalTarget, OpenAiCompatibleTarget, Target
from dari.core.paired_circuit import PairedCircuit
from dari.core.probing import ProbedServer
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
        circuit_rules: CircuitRules,
    ) -> None:
        self._secrets = secrets
        self._local_model = local_model
        self._local_model_id = local_model_id
        self._circuit_rules = circuit_rules
        # Guards the four below.
        self._lock = threading.Lock()
        self._clients: dict[FlowiseTarget | OpenAiCompatibleTarget, FlowiseUpstream | OpenAiCompatibleUpstream] = {}
        self._server_circuits: dict[str, OperatedCircuit] = {}
        self._circuits: dict[Target, OperatedCircuit] = {}
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

    def circuit(self, model: AiModel) -> OperatedCircuit:
        """See Directory."""
        with self._lock:
            circuit = self._circuits.get(model.target)
            if circuit is None:
                circuit = self._circuits[model.target] = self._new_circuit(model.target)
            return circuit

    def states(self) -> list[UpstreamState]:
        """Every AI model asked since the start, by id."""
        with self._lock:
            models = sorted(self._models.values(), key=lambda model: model.id)
        return [self._state(model) for model in models]

    def servers(self) -> list[ProbedServer]:
        """Every server asked since the start, by its first model's way to it."""
        with self._lock:
            ways = {target.base_url: client for target, client in reversed(self._clients.items())}
            return [ProbedServer(_origin(url), self._server_circuits[url], way.answers) for url, way in ways.items()]

    def drain(self, ai_model: str) -> UpstreamState:
        """Let no turn ask this AI model until it is reset. Raises NotFound where none has asked it since the start."""
        model = self._asked(ai_model)
        self.circuit(model).drain()
        return self._state(model)

    def reset(self, ai_model: str) -> UpstreamState:
        """Close the circuits of this AI model and its server. Raises NotFound as `drain`."""
        model = self._asked(ai_model)
        self.circuit(model).reset()
        return self._state(model)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for client in self._clients.values():
                client.close()

    def _asked(self, ai_model: str) -> AiModel:
        with self._lock:
            model = self._models.get(ai_model)
        if model is None:
            raise NotFound.of(f"aiModels/{ai_model}")
        return model

    def _state(self, model: AiModel) -> UpstreamState:
        return UpstreamState(model.id, model.kind, self.circuit(model).state())

    def _new_circuit(self, target: Target) -> OperatedCircuit:
        own = WindowedCircuit(self._circuit_rules)
        if isinstance(target, LocalTarget):
            return own
        server = self._server_circuits.get(target.base_url)
        if server is None:
            server = self._server_circuits[target.base_url] = WindowedCircuit(self._circuit_rules)
        return PairedCircuit(server, own)

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


def _origin(base_url: str) -> str:
    """Scheme, host and port: a path may hold what is not for logs."""
    parts = urlsplit(base_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
