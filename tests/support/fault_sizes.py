"""How much the fault tests do: little in CI, more by hand.

DARI_TEST_SEEDS=200 pytest tests/faults              as many seeds a test; 12 by default
DARI_TEST_BIG_BYTES=10000000000 pytest tests/faults  the size of the largest file; 64 MB by default
"""

import os

SEEDS = int(os.environ.get("DARI_TEST_SEEDS", "12"))
BIG_BYTES = int(os.environ.get("DARI_TEST_BIG_BYTES", "64000000"))
