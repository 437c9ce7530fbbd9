"""Real PostgreSQL for tests: one server a run, and a freshly migrated database a test.

The server is dari's embedded one, in a temporary folder, or the one that DARI_TEST_POSTGRES_DSN names: a DSN whose
user may create databases and roles. A test's database is a copy of one that was migrated once, which takes a tenth of
the time.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extensions import make_dsn

from dari.adapters.postgres.embedded import EmbeddedPostgres
from dari.adapters.postgres.migrate import create_database, migrate

SERVER_VARIABLE = "DARI_TEST_POSTGRES_DSN"


class PostgresDsns(NamedTuple):
    """Two ways into one database: as who may do everything, and as the service logs in."""

    admin_dsn: str
    service_dsn: str

    def to(self, database: str) -> "PostgresDsns":
        """The same users, another database."""
        return PostgresDsns(make_dsn(self.admin_dsn, dbname=database), make_dsn(self.service_dsn, dbname=database))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresDsns]:
    """The server of this run, without dari's tables: databases are the tests' own to make and drop."""
    given_dsn = os.environ.get(SERVER_VARIABLE)
    with _given_server(given_dsn) if given_dsn else _own_server() as dsns:
        yield dsns


@pytest.fixture(scope="session")
def migrated_template(postgres_server: PostgresDsns) -> Iterator[PostgresDsns]:
    """A migrated database that nobody may be connected to: it is there to be copied."""
    service_user = psycopg2.extensions.parse_dsn(postgres_server.service_dsn)["user"]
    name = f"dari_template_{secrets.token_hex(4)}"
    create_database(postgres_server.admin_dsn, name, service_user)
    migrate(postgres_server.admin_dsn, name, service_user)
    yield postgres_server.to(name)
    _drop(postgres_server, name)


@pytest.fixture
def database(postgres_server: PostgresDsns, migrated_template: PostgresDsns) -> Iterator[PostgresDsns]:
    """A migrated database of the test's own, empty; dropped after it, with whoever is connected."""
    with copied_database(postgres_server, migrated_template) as dsns:
        yield dsns


@pytest.fixture(scope="session")
def shared_database(postgres_server: PostgresDsns, migrated_template: PostgresDsns) -> Iterator[PostgresDsns]:
    """A migrated database that all tests share. For reading only, or for what is rolled back."""
    with copied_database(postgres_server, migrated_template) as dsns:
        yield dsns


@pytest.fixture
def postgres_dir() -> Iterator[Path]:
    """An empty folder that the server's system user can reach; pytest's own `tmp_path` lies below a closed one."""
    with open_folder() as folder:
        yield folder


@contextmanager
def _own_server() -> Iterator[PostgresDsns]:
    with open_folder() as folder, EmbeddedPostgres(folder / "postgres", max_connections=100, durable=False) as server:
        yield PostgresDsns(server.admin_dsn, server.service_dsn("postgres"))


@contextmanager
def _given_server(admin_dsn: str) -> Iterator[PostgresDsns]:
    """A server that others use too: our login user has a name and a password of this run."""
    user, password = f"dari_test_{secrets.token_hex(4)}", secrets.token_urlsafe()
    create = sql.SQL("CREATE ROLE {} LOGIN NOINHERIT PASSWORD {}")
    _execute(admin_dsn, create, sql.Identifier(user), sql.Literal(password))
    yield PostgresDsns(admin_dsn, make_dsn(admin_dsn, user=user, password=password))
    _execute(admin_dsn, sql.SQL("DROP ROLE {}"), sql.Identifier(user))


@contextmanager
def copied_database(server: PostgresDsns, template: PostgresDsns) -> Iterator[PostgresDsns]:
    """A migrated database, dropped at the end with whoever is connected."""
    name = f"dari_test_{secrets.token_hex(4)}"
    source = psycopg2.extensions.parse_dsn(template.admin_dsn)["dbname"]
    # FILE_COPY took half the time of the default, which writes the whole copy into the log.
    copy = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER dari_owner STRATEGY FILE_COPY")
    _execute(server.admin_dsn, copy, sql.Identifier(name), sql.Identifier(source))
    yield server.to(name)
    _drop(server, name)


def _drop(server: PostgresDsns, database: str) -> None:
    _execute(server.admin_dsn, sql.SQL("DROP DATABASE {} WITH (FORCE)"), sql.Identifier(database))


def _execute(dsn: str, statement: sql.SQL, *values: sql.Composable) -> None:
    """Run what cannot stand in a transaction."""
    with closing(psycopg2.connect(dsn)) as session:
        session.autocommit = True
        with session.cursor() as cur:
            cur.execute(statement.format(*values))


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that any user may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="dari-test-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
