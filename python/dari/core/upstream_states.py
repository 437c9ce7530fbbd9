"""What operators see of the neighbours behind the AI models: their circuits, and the local model's process."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from dari.core.circuit import CircuitSnapshot
from dari.core.mapping import AiModelKind


class LocalProcessStatus(Enum):
    """How the process of the local model does."""

    LOADING = "LOADING"
    READY = "READY"
    RESTARTING = "RESTARTING"
    """It ended, and will be started again after a while."""
    FAILED = "FAILED"
    """It cannot load its model; tried again at long intervals."""
    STOPPED = "STOPPED"


@dataclass(frozen=True, slots=True)
class LocalProcess:
    """The process of the local model at one moment."""

    status: LocalProcessStatus
    model_file: str
    engine: str
    """Empty until it was ready once."""
    restarts: int
    queue_length: int
    running: int
    last_failure: str
    """Why it ended last, as one word; empty where it never did."""
    memory_bytes: int
    """Memory that it holds itself, without the mapped model file; 0 while there is no process."""


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """What stands behind one AI model, as this process sees it."""

    ai_model: str
    kind: AiModelKind
    circuit: CircuitSnapshot
    process: LocalProcess | None = None
    """Of the local model only."""

    @property
    def told_changes(self) -> tuple[object, ...]:
        """What makes a change that is told. Counters and clocks alone do not: they move with every turn."""
        process = self.process
        return (
            self.kind,
            self.circuit.state,
            self.circuit.last_failure,
            process and (process.status, process.model_file, process.engine, process.restarts, process.last_failure),
        )


class Upstreams(Protocol):
    """What this replica knows of the neighbours that it has asked for a tenant. `drain` and `reset` raise NotFound."""

    def states(self, tenant: str) -> Sequence[UpstreamState]:
        """By AI model."""
        ...

    def drain(self, tenant: str, ai_model: str) -> UpstreamState: ...
    def reset(self, tenant: str, ai_model: str) -> UpstreamState: ...


def watch_upstreams(
    read: Callable[[], Sequence[UpstreamState]], looks: Iterator[None]
) -> Iterator[Sequence[UpstreamState]]:
    """All upstreams at the first look, also where there are none; then those that have changed, whenever some have.

    Raises what `looks` does.
    """
    told: dict[str, tuple[object, ...]] | None = None
    for _ in looks:
        states = read()
        changed = states if told is None else [each for each in states if told.get(each.ai_model) != each.told_changes]
        if changed or told is None:
            yield changed
        told = {each.ai_model: each.told_changes for each in states}
