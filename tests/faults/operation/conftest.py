"""Replicas behind the real Envoy, with a Flowise stand-in behind them, and callers that never stop."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fix_postgres import PostgresDsns
from tests.flowise_stand_in import StandIn
from tests.support.cluster import Cluster

StartCluster = Callable[..., Cluster]


@pytest.fixture
def start_cluster(database: PostgresDsns, tmp_path: Path) -> Iterator[StartCluster]:
    """Start replicas over the test's database, or the one that is named, with settings of the test's choice."""
    with ExitStack() as opened:

        def start(dsns: PostgresDsns = database, **settings: Any) -> Cluster:
            return opened.enter_context(Cluster(dsns, tmp_path / "cluster", **settings))

        yield start


@pytest.fixture
def flowise() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in
