"""Where a kind of call saturates, read off made-up steps."""

import pytest

from load.matrix import CLIENTS, DARI, PYTHON, Step
from load.saturation import saturation
from load.system import POSTGRES
from load.worker import UNARY

CORES = 2


def _step(clients: int, calls: int, cores: dict[str, float], machine_cores: float) -> Step:
    return Step(UNARY, DARI, clients, PYTHON, 0.0, 1.0, calls, {}, 0.0, {}, {}, cores, machine_cores)


@pytest.mark.parametrize(
    ("cores", "machine_cores", "on"),
    [
        (
            {POSTGRES: 0.9, "replica 1": 0.5, CLIENTS: 0.5},
            1.9,
            "the CPU of this machine (1.9 of 2 cores busy, most by P",
        ),
        (
            {POSTGRES: 0.2, "replica 1": 0.4, CLIENTS: 1.2},
            1.9,
            "the CPU of this machine (1.9 of 2 cores busy, most by i",
        ),
        ({POSTGRES: 0.1, "replica 1": 0.98, CLIENTS: 0.2}, 1.3, "one core of replica 1"),
        ({POSTGRES: 0.1, "replica 1": 0.2, CLIENTS: 0.2}, 0.5, "no CPU"),
    ],
)
def test_what_binds_is_told_of_the_best_step(cores: dict[str, float], machine_cores: float, on: str) -> None:
    quiet = {POSTGRES: 0.1, "replica 1": 0.1, CLIENTS: 0.1}
    steps = [_step(1, 100, quiet, 0.3), _step(4, 290, cores, machine_cores), _step(16, 300, cores, machine_cores)]
    found = saturation(steps, CORES)
    assert (found.best_rate, found.from_clients) == (300.0, 4)
    assert found.on.startswith(on)
