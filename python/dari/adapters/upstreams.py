"""Knows the neighbour behind each AI model: a client and a circuit for each target, and a circuit for each server.

A target's neighbour is one tenant's own, also where another tenant has the same: its client may hold a secret of that
tenant, and whoever drains it must not drain another's. A server is up or down for all, so its circuit is everybody's.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from dari.adapters.circuit import CircuitRules, WindowedCircuit
from dari.adapters.flowise import FlowiseUpstream
from dari.adapters.local_model.process import LocalModel, LocalModelState
from dari.adapters.openai_compatible import OpenAiCompatibleUpstream
from dari.adapters.tenant_secrets import TenantSecrets, UnknownSecret
from dari.core.circuit import CircuitState, OperatedCircuit
from dari.core.errors import NotFound
from dari.core.mapping import AiModel, AiModelKind, FlowiseTarget, LocalTarget, OpenAiCompatibleTarget, Target
from dari.core.paired_circuit import PairedCircuit
from dari.core.probing import ProbedServer
from dari.core.upstream import FailureKind, Upstream, UpstreamError
from dari.core.upstream_alerts import WatchedCircuit
from dari.core.upstream_states import LocalProcess, LocalProcessStatus, UpstreamState

FORGET_AFTER_S = 24 * 60 * 60.0
"""A neighbour that no turn has come across for so long is forgotten: its model was deleted, or is not in use."""
MAX_NEIGHBOURS = 1_000
"""Neighbours remembered; beyond it the one that was come across longest ago is forgotten first."""

_Place = tuple[str, Target]
"""A target of one tenant."""


@dataclass(slots=True)
class _Neighbour:
    """What stands behind one target."""

    circuit: OperatedCircuit
    """As turns ask it."""
    own_circuit: OperatedCircuit
    """Without the server's."""
    server_circuit: OperatedCircuit | None
    """None for the local model."""
    met_s: float
    """When a turn came across it last, by the clock."""
    client: FlowiseUpstream | OpenAiCompatibleUpstream | None = None
    """None before the first question, and for the local model."""


class UpstreamDirectory:
    """A Directory. Thread-safe.

    What it forgets is dropped, not closed: attempts under way go on, and the connections close behind the last one. A
    neighbour is forgotten when the model that was asked there points elsewhere; and by age and number, as the constants
    above say, unless an operator drained it.
    """

    def __init__(
        self,
        *,
        tenant: str,
        secrets: TenantSecrets,
        local_model: LocalModel | None,
        local_model_id: str | None,
        circuit_rules: CircuitRules,
        max_neighbours: int = MAX_NEIGHBOURS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tenant = tenant
        self._secrets = secrets
        self._local_model = local_model
        self._local_model_id = local_model_id
        self._circuit_rules = circuit_rules
        self._max_neighbours = max_neighbours
        self._clock = clock
        self._lock = threading.Lock()  # guards the three below
        self._neighbours: OrderedDict[_Place, _Neighbour] = OrderedDict()
        """The one that was come across last stands last."""
        self._server_circuits: WeakValueDictionary[str, WindowedCircuit] = WeakValueDictionary()
        """By base URL; each lives as long as a neighbour on it."""
        self._models: dict[tuple[str, str], AiModel] = {}
        """Those that were asked, as they were then, by tenant and id."""

    def upstream(self, tenant: str, model: AiModel) -> Upstream:
        """See Directory."""
        target = model.target
        with self._lock:
            neighbour = self._meet((tenant, target))
            self._note_asked(tenant, model)
            if isinstance(target, LocalTarget):
                return self._local(target)
            if neighbour.client is None:
                neighbour.client = self._connect(tenant, target)
            return neighbour.client

    def circuit(self, tenant: str, model: AiModel) -> OperatedCircuit:
        """See Directory."""
        with self._lock:
            return self._meet((tenant, model.target)).circuit

    def states(self, tenant: str) -> list[UpstreamState]:
        """Every AI model of the tenant that was asked and is not forgotten, by id.

        Of a model that was never asked there is nothing to tell: its circuit is closed.
        """
        with self._lock:
            asked = [
                (model, self._neighbours[owner, model.target])
                for (owner, _), model in self._models.items()
                if owner == tenant
            ]
        return sorted((self._state(model, neighbour) for model, neighbour in asked), key=lambda state: state.ai_model)

    def watched_circuits(self) -> list[WatchedCircuit]:
        """Those of every server and AI model that `states` tells of; a model's own, whatever its server's does."""
        with self._lock:
            servers = list(self._server_circuits.items())
            own = [
                (self._subject(tenant, model), self._neighbours[tenant, model.target])
                for (tenant, _), model in self._models.items()
            ]
        circuits: list[tuple[str, OperatedCircuit]] = [(origin_of(url), circuit) for url, circuit in servers]
        circuits += [(subject, neighbour.own_circuit) for subject, neighbour in own]
        snapshots = [(subject, circuit.state()) for subject, circuit in circuits]
        return [WatchedCircuit(subject, snapshot.state, snapshot.last_failure) for subject, snapshot in snapshots]

    def _subject(self, tenant: str, model: AiModel) -> str:
        """Operators see all tenants: another one's than the settings' stands before the name."""
        name = f"aiModels/{model.id}"
        return name if tenant == self._tenant else f"{tenant}/{name}"

    def local_process(self) -> LocalProcess | None:
        """The process of the local model; None where this replica runs none."""
        return None if self._local_model is None else _process(self._local_model.state())

    def servers(self) -> list[ProbedServer]:
        """Every server that was asked and is not forgotten, by the way that its latest model has to it."""
        found: dict[str, ProbedServer] = {}
        with self._lock:
            for (_, target), neighbour in self._neighbours.items():
                if isinstance(target, LocalTarget) or neighbour.client is None or neighbour.server_circuit is None:
                    continue
                url = target.base_url
                flows = (*(found[url].flows if url in found else ()), neighbour.own_circuit)
                found[url] = ProbedServer(origin_of(url), neighbour.server_circuit, flows, neighbour.client.answers)
        return list(found.values())

    def drain(self, tenant: str, ai_model: str) -> UpstreamState:
        """Let no turn ask this AI model until it is reset. Raises NotFound where none has asked it since the start."""
        model, neighbour = self._asked(tenant, ai_model)
        neighbour.circuit.drain()
        return self._state(model, neighbour)

    def reset(self, tenant: str, ai_model: str) -> UpstreamState:
        """Close the circuits of this AI model and its server. Raises NotFound as `drain`."""
        model, neighbour = self._asked(tenant, ai_model)
        neighbour.circuit.reset()
        return self._state(model, neighbour)

    def forget(self, tenant: str, ai_model: str) -> None:
        """The AI model is deleted: tell of it no more. Another with its target keeps the neighbour."""
        with self._lock:
            model = self._models.pop((tenant, ai_model), None)
            if model is not None and (tenant, model.target) not in self._places():
                self._neighbours.pop((tenant, model.target), None)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for neighbour in self._neighbours.values():
                if neighbour.client is not None:
                    neighbour.client.close()

    def _asked(self, tenant: str, ai_model: str) -> tuple[AiModel, _Neighbour]:
        with self._lock:
            model = self._models.get((tenant, ai_model))
            if model is None:
                raise NotFound.of(f"aiModels/{ai_model}")
            return model, self._neighbours[tenant, model.target]

    def _state(self, model: AiModel, neighbour: _Neighbour) -> UpstreamState:
        process = self.local_process() if model.kind is AiModelKind.LOCAL else None
        return UpstreamState(model.id, model.kind, neighbour.circuit.state(), process)

    def _meet(self, place: _Place) -> _Neighbour:
        """The neighbour at a place; with the lock held."""
        now_s = self._clock()
        neighbour = self._neighbours.get(place)
        if neighbour is None:
            neighbour = self._neighbours[place] = self._new_neighbour(place[1], now_s)
        neighbour.met_s = now_s
        self._neighbours.move_to_end(place)
        self._forget_old(place, now_s)
        return neighbour

    def _new_neighbour(self, target: Target, now_s: float) -> _Neighbour:
        own = WindowedCircuit(self._circuit_rules)
        if isinstance(target, LocalTarget):
            return _Neighbour(own, own, None, now_s)
        server = self._server_circuits.get(target.base_url)
        if server is None:
            server = self._server_circuits[target.base_url] = WindowedCircuit(self._circuit_rules)
        return _Neighbour(PairedCircuit(server, own), own, server, now_s)

    def _note_asked(self, tenant: str, model: AiModel) -> None:
        before = self._models.get((tenant, model.id))
        if before is not None and before.update_time > model.update_time:
            return  # As it was before a change: this turn began earlier, or over the mapping known last.
        self._models[tenant, model.id] = model
        if before is None or before.target == model.target:
            return
        if (tenant, before.target) not in self._places():
            self._neighbours.pop((tenant, before.target), None)

    def _forget_old(self, newest: _Place, now_s: float) -> None:
        """Forget from the front. One that is drained begins another day instead: only a reset ends that."""
        while (place := next(iter(self._neighbours))) != newest:
            neighbour = self._neighbours[place]
            if now_s - neighbour.met_s < FORGET_AFTER_S and len(self._neighbours) <= self._max_neighbours:
                return
            if neighbour.own_circuit.state().state is CircuitState.DRAINED:
                neighbour.met_s = now_s
                self._neighbours.move_to_end(place)
            else:
                del self._neighbours[place]
                self._models = {
                    (tenant, id): model
                    for (tenant, id), model in self._models.items()
                    if (tenant, model.target) != place
                }

    def _places(self) -> set[_Place]:
        return {(tenant, model.target) for (tenant, _), model in self._models.items()}

    def _local(self, target: LocalTarget) -> Upstream:
        if self._local_model is None:
            raise UpstreamError(FailureKind.OURS, "no_local_model")
        if target.model_file not in ("", self._local_model_id):
            raise UpstreamError(FailureKind.OURS, "model_file_not_loaded")
        return self._local_model

    def _connect(
        self, tenant: str, target: FlowiseTarget | OpenAiCompatibleTarget
    ) -> FlowiseUpstream | OpenAiCompatibleUpstream:
        try:
            key = self._secrets.of(tenant, target.api_key_secret)
        except UnknownSecret as error:
            raise UpstreamError(FailureKind.OURS, "unknown_secret") from error
        match target:
            case FlowiseTarget():
                return FlowiseUpstream(target.base_url, target.flow_id, key)
            case OpenAiCompatibleTarget():
                return OpenAiCompatibleUpstream(target.base_url, target.model, key)


def _process(state: LocalModelState) -> LocalProcess:
    return LocalProcess(
        status=LocalProcessStatus[state.status.upper()],
        model_file=state.model_id,
        engine=state.engine or "",
        restarts=state.restarts,
        queue_length=state.queue_length,
        running=state.running,
        last_failure=state.last_failure or "",
        memory_bytes=state.memory_bytes,
    )


def origin_of(base_url: str) -> str:
    """Scheme, host and port: a path may hold what is not for logs."""
    parts = urlsplit(base_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
