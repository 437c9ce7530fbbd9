"""One system for all tests of the load: two replicas over a PostgreSQL of their own."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from load.system import System


@pytest.fixture(scope="session")
def system() -> "Iterator[System]":
    # Here, since pytest wants to be the first to import the fixtures of `tests`, whichever folder it is given first.
    from load.system import started

    with started() as running:
        yield running


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where generated files stay."""
    return tmp_path_factory.mktemp("generated")
