"""Where a kind of call saturates, and on what: read off the steps with more and more clients."""

from collections.abc import Sequence
from dataclasses import dataclass

from load.matrix import CLIENTS, Step
from load.system import POSTGRES

_NEAR_BEST = 0.95
_BUSY_MACHINE = 0.85
"""A machine whose cores are busier than this share has no more to give."""
_OTHERS = 0.2
"""Cores that other work must take to be told."""
_BUSY_REPLICA = 0.85
"""Cores. A Python process runs Python on one core at a time, whatever the machine has."""


@dataclass(frozen=True, slots=True)
class Saturation:
    """What the steps of one kind against one server say."""

    best_rate: float
    from_clients: int
    """With so many clients, 95 % of the best was reached."""
    on: str


def saturation(steps: Sequence[Step], cores: int) -> Saturation:
    """`steps` are of one kind and one server, with more and more clients each."""
    best = max(steps, key=lambda step: step.rate)
    knee = next(step for step in steps if step.rate >= _NEAR_BEST * best.rate)
    return Saturation(best.rate, knee.clients, _bound_by(best, cores))


def _bound_by(step: Step, cores: int) -> str:
    most = max(step.cores, key=lambda name: step.cores[name], default="")
    replicas = {name: used for name, used in step.cores.items() if name not in (POSTGRES, CLIENTS)}
    told = ", ".join(f"{name} {used:.2f}" for name, used in sorted(step.cores.items(), key=lambda one: -one[1]))
    others = step.machine_cores - sum(step.cores.values())
    if others >= _OTHERS:
        told += f", other work {others:.2f}"
    if step.machine_cores >= _BUSY_MACHINE * cores:
        what = "its clients" if most == CLIENTS else most
        return f"the CPU of this machine ({step.machine_cores:.1f} of {cores} cores busy, most by {what}: {told})"
    if replicas and max(replicas.values()) >= _BUSY_REPLICA:
        return f"one core of {max(replicas, key=lambda name: replicas[name])}, which is all that Python uses ({told})"
    return f"no CPU: it waits, for a pace or a disk ({step.machine_cores:.1f} of {cores} cores busy: {told})"
