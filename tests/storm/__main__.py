"""A storm over chat: thousands of turns while everything behind dari is killed, frozen and started again at random.

    python -m tests.storm                               5,000 turns, 16 at once; or `make storm`
    STORM_SEED=20267 python -m tests.storm --turns 500  the same weather and the same callers again

dari, two stand-ins for Flowise, the local model and PostgreSQL are real processes. Every turn is judged by what its
caller saw, what the stand-ins sent, who lived meanwhile, and what is stored when all is healed; see `judge`. The last
line on stdout is one JSON object. It and the timeline as a picture are left in target/storm. Exits with 1 where a turn
is wrong or something does not heal.
"""

import argparse
import json
import os
import secrets
import sys
from pathlib import Path

from dari.adapters.local_model.model_files import add_default_model
from tests.storm.picture import picture
from tests.storm.report import figures
from tests.storm.storm import Size, run

_REPOSITORY = Path(__file__).parents[2]
_TURNS_A_FAULT = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5_000)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--longest-fault-s", type=float, default=2.5)
    options = parser.parse_args()
    seed = os.environ.get("STORM_SEED") or str(secrets.randbelow(100_000))
    print(f"STORM_SEED={seed}", flush=True)
    model_dir = Path(os.environ.get("DARI_TEST_MODEL_DIR", _REPOSITORY / ".dari" / "models"))
    add_default_model(model_dir)
    size = Size(options.turns, options.at_once, max(options.turns // _TURNS_A_FAULT, 4), options.longest_fault_s)
    outcome = run(seed, size, model_dir)
    found = figures(outcome)
    folder = _REPOSITORY / "target" / "storm"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{seed}.svg").write_text(picture(outcome))
    (folder / f"{seed}.json").write_text(json.dumps(found, indent=2))
    print(f"{folder / seed}.svg\n{folder / seed}.json")
    print(json.dumps(found))
    return 1 if outcome.wrong or outcome.not_healed else 0


if __name__ == "__main__":
    sys.exit(main())
