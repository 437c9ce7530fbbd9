"""Servers and databases of a test's own, which it may kill, freeze and starve."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from dari.adapters.postgres.embedded import EmbeddedPostgres
from dari.adapters.postgres.migrate import create_database, migrate
from tests.fix_postgres import PostgresDsns
from tests.support.serving_process import Replicas, ServingProcess

StartProcess = Callable[..., ServingProcess]


@pytest.fixture
def start_process(database: PostgresDsns, tmp_path: Path) -> Iterator[StartProcess]:
    """Start servers over the test's database, or the one that is named, with settings of the test's choice."""
    with ExitStack() as opened:

        def start(dsns: PostgresDsns = database, **settings: Any) -> ServingProcess:
            return opened.enter_context(ServingProcess(dsns, tmp_path, **settings))

        yield start


@pytest.fixture
def replicas(database: PostgresDsns, tmp_path: Path) -> Iterator[Replicas]:
    """Two servers behind one address."""
    with Replicas(database, tmp_path) as replicas:
        yield replicas


@pytest.fixture
def own_postgres(postgres_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server of the test's own, to be killed and started again."""
    with EmbeddedPostgres(postgres_dir / "postgres", max_connections=100, durable=False) as postgres:
        yield postgres


@pytest.fixture
def own_database(own_postgres: EmbeddedPostgres) -> PostgresDsns:
    """A migrated database in it."""
    create_database(own_postgres.admin_dsn)
    migrate(own_postgres.admin_dsn, "dari", "dari_service")
    return PostgresDsns(own_postgres.admin_dsn, own_postgres.service_dsn()).to("dari")


class SmallDisk:
    """A tmpfs of a few megabytes: a disk that is truly full when it is."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self._size_bytes = size_bytes

    def __enter__(self) -> Self:
        try:
            self._mount("size", f"{self._size_bytes},mode=0711", "-t", "tmpfs", "tmpfs")
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("a small disk is a tmpfs, which only root may mount, and not in every container")
        return self

    def __exit__(self, *exception: object) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def enlarge(self, size_bytes: int) -> None:
        """Make room."""
        self._mount("remount,size", str(size_bytes))

    def _mount(self, option: str, value: str, *what: str) -> None:
        subprocess.run(["mount", "-o", f"{option}={value}", *what, str(self.folder)], check=True, capture_output=True)


@pytest.fixture
def mount_small_disk(postgres_dir: Path) -> Iterator[Callable[[int], SmallDisk]]:
    """Mount small disks where the database's system user can reach them."""
    with ExitStack() as opened:

        def mount(size_bytes: int) -> SmallDisk:
            folder = postgres_dir / "disk"
            folder.mkdir()
            return opened.enter_context(SmallDisk(folder, size_bytes))

        yield mount
