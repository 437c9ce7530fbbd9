"""A real dari over a test's own database, on free ports, without a local model."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from dari.server import Server
from dari.settings import load_settings
from tests.fix_postgres import PostgresDsns, copied_database
from tests.support.running_dari import RunningDari
from tests.support.uploading import Uploader

SMALL_BATCH_BYTES = 64 * 1024
"""The smallest that the settings allow, so that a file of a test has several batches."""


@dataclass(frozen=True)
class ServedDari:
    """A server, a way to call it, and the database behind it."""

    server: Server
    dari: RunningDari
    uploader: Uploader
    dsns: PostgresDsns


StartServer = Callable[..., ServedDari]


@pytest.fixture
def start_server(database: PostgresDsns, tmp_path: Path) -> Iterator[StartServer]:
    """Start servers over the test's database, with settings of the test's choice; stopped at its end."""
    with ExitStack() as opened:

        def start(**settings: object) -> ServedDari:
            server = opened.enter_context(Server(load_settings(**{**settings_for(database, tmp_path), **settings})))
            dari = opened.enter_context(RunningDari(server.address))
            return ServedDari(server, dari, Uploader(dari.ingest), database)

        yield start


@pytest.fixture
def server(start_server: StartServer) -> ServedDari:
    """One server, with the knowledge base `kb` and nothing in it."""
    served = start_server()
    served.dari.make_knowledge_base("kb")
    return served


@pytest.fixture(scope="session")
def shared_server(
    postgres_server: PostgresDsns, migrated_template: PostgresDsns, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedDari]:
    """One server for all tests that only add uploads to its `kb`, under names of their own."""
    with copied_database(postgres_server, migrated_template) as dsns:
        settings = settings_for(dsns, tmp_path_factory.mktemp("shared_server"))
        with Server(load_settings(**settings)) as server, RunningDari(server.address) as dari:
            dari.make_knowledge_base("kb")
            yield ServedDari(server, dari, Uploader(dari.ingest), dsns)


def settings_for(database: PostgresDsns, data_dir: Path) -> dict[str, object]:
    """What a server of a test needs; a server in a process of its own gets the same through its environment."""
    return {
        "listen_address": "127.0.0.1:0",
        "admin_address": "127.0.0.1:0",
        "metrics_address": "",
        "data_dir": data_dir,
        "database_dsn": database.service_dsn,
        "local_model": None,
        "batch_bytes": SMALL_BATCH_BYTES,
        "log_level": "error",
        "drain_timeout_s": 5.0,
    }
