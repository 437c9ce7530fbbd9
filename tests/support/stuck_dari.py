"""The program `dari` whose searches never come back, and which nothing can end but the process itself.

    python stuck_dari.py serve

Everything else is the product's.
"""

import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import dari.core.search
from dari.cli import main


def hang(*arguments: object, **options: object) -> None:
    """Wait for what never comes."""
    threading.Event().wait()


if __name__ == "__main__":
    dari.core.search.Search.find = hang  # type: ignore[assignment]
    main()
