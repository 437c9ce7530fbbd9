"""Servers as processes of their own, for tests that kill, freeze and starve them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fix_postgres import PostgresDsns
from tests.support.serving_process import Replicas, ServingProcess

StartProcess = Callable[..., ServingProcess]


@pytest.fixture
def start_process(database: PostgresDsns, tmp_path: Path) -> Iterator[StartProcess]:
    """Start servers over the test's database, or the one that is named, with settings of the test's choice."""
    with ExitStack() as opened:

        def start(dsns: PostgresDsns = database, **settings: object) -> ServingProcess:
            return opened.enter_context(ServingProcess(dsns, tmp_path, **settings))

        yield start


@pytest.fixture
def replicas(database: PostgresDsns, tmp_path: Path) -> Iterator[Replicas]:
    """Two servers behind one address."""
    with Replicas(database, tmp_path) as replicas:
        yield replicas
