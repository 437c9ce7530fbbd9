"""The program `dari` whose stop never comes to its end, and whose time for it is short.

    python never_stopped_dari.py serve

Everything else is the product's.
"""

import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import dari.core.housekeeping
import dari.server
from dari.cli import main


def never_closed(self: dari.core.housekeeping.Housekeeping) -> None:
    """Never returns."""
    del self
    threading.Event().wait()


if __name__ == "__main__":
    dari.core.housekeeping.Housekeeping.close = never_closed  # type: ignore[method-assign]
    dari.server._CLOSE_TIMEOUT_S = 0.5
    main()
