"""A real server over a test's database, and the neighbours that its models point at."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dari.server import Server
from dari.settings import load_settings
from tests.fix_postgres import PostgresDsns
from tests.flowise_stand_in import StandIn
from tests.support.running_dari import RunningDari

StartDari = Callable[..., RunningDari]


@pytest.fixture
def start_dari(database: PostgresDsns, tmp_path: Path) -> Iterator[StartDari]:
    """Start servers over the test's database, with settings of the test's choice."""
    with ExitStack() as opened:

        def start(**settings: object) -> RunningDari:
            chosen = {
                "listen_address": "127.0.0.1:0",
                "admin_address": "127.0.0.1:0",
                "data_dir": tmp_path,
                "database_dsn": database.service_dsn,
                "local_model": None,
                "log_level": "error",
                "drain_timeout_s": 5.0,
                **settings,
            }
            server = opened.enter_context(Server(load_settings(**chosen)))
            return opened.enter_context(RunningDari(server.address))

        yield start


@pytest.fixture
def dari(start_dari: StartDari) -> RunningDari:
    """One server with no local model."""
    return start_dari()


@pytest.fixture
def flowise() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def openai() -> Iterator[StandIn]:
    """The model behind Flowise in most chains: a server with OpenAI's API."""
    with StandIn() as stand_in:
        yield stand_in
