"""One system for all tests of the load: two replicas over a PostgreSQL of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from load.system import System, started


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    with started() as running:
        yield running


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where generated files stay."""
    return tmp_path_factory.mktemp("generated")
