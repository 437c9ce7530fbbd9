"""Puts two replicas of dari under load, breaks things meanwhile, and writes a report.

    python -m load                            all of it; or `make load`
    python -m load --short                    the same in seconds, to see that it works
    python -m load --minutes 3 --report r.html

Everything runs on this machine, over loopback, in a database of its own that goes away; `load/README.md` tells how to
read the report. The last line on stdout is one JSON object. Exits with 1 where a call failed that must not, or where
something is not stored exactly once.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from bench.ingest import machine
from load import matrix
from load.report import figures, page
from load.system import started

_STEPS_AND_FAULTS_S = 24 * matrix.FULL.step_s + 2 * matrix.FULL.step_s + matrix.FULL.fault_s
_LEAST_STEP_S = 0.5


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=_STEPS_AND_FAULTS_S / 60, help="of load, in all")
    parser.add_argument("--short", action="store_true", help="a few clients for some seconds")
    parser.add_argument("--report", type=Path, default=Path("target/load/report.html"))
    parser.add_argument("--cache", type=Path, default=Path(".dari/bench"), help="where generated files stay")
    options = parser.parse_args()
    share = min(1.0, options.minutes * 60 / _STEPS_AND_FAULTS_S)
    size = matrix.SHORT if options.short else matrix.FULL
    if not options.short and share < 1:
        size = replace(
            size,
            step_s=max(_LEAST_STEP_S, size.step_s * share),
            fault_s=max(matrix.SHORT.fault_s, size.fault_s * share),
            fault_rounds=max(1, round(size.fault_rounds * share)),
        )
    facts = machine()
    with started() as system:
        outcome = matrix.run(system, size, options.cache, lambda text: print(text, flush=True))
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(page(outcome, facts))
    print(options.report)
    told = figures(outcome, facts)
    print(json.dumps(told))
    return 0 if told["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
