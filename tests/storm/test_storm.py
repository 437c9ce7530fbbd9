"""The storm in short; `make storm` runs it in full, and tells how to run a seed again."""

import secrets
from pathlib import Path

import pytest

from tests.storm.picture import picture
from tests.storm.report import figures
from tests.storm.storm import Size, run

SHORT = Size(turns=75, at_once=16, faults=5, longest_fault_s=1.2)


@pytest.mark.parametrize("known_seed", ["20261", None], ids=["a known seed", "another every time"])
def test_no_turn_is_wrong_and_all_heals_while_everything_behind_dari_dies_at_random(
    known_seed: str | None, model_dir: Path
) -> None:
    seed = known_seed or str(secrets.randbelow(100_000))
    outcome = run(seed, SHORT, model_dir)
    found = figures(outcome)
    assert (outcome.wrong, list(outcome.not_healed)) == ([], []), f"STORM_SEED={seed}: {found}"
    assert {fault.neighbour for fault in outcome.faults} == {"first", "second", "local", "postgres"}
    assert sum(one.is_owed for one in outcome.judged) >= SHORT.turns // 2, found
    assert picture(outcome).count("<circle") == len(outcome.judged)
