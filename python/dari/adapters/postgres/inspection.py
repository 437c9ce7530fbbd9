"""Looks at a PostgreSQL server as the service sees it, and changes nothing: for `dari doctor`."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from psycopg2.extensions import connection

from dari.adapters.postgres.isolation_catalogue import gaps, login_gaps
from dari.adapters.postgres.migrate import session_on

_STATEMENT_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What holds of the server and the database, whoever asks."""

    version: str
    encoding: str
    collation: str
    """As PostgreSQL names it, such as C.UTF-8."""
    collation_provider: str
    """builtin, icu or libc."""
    collation_is_stale: bool
    """Whether the system's rules have changed since the database was made: indexes on text may be wrong."""
    connections: int
    """Sessions that this login may have, if nobody else had one."""
    connections_of_others: int
    """Sessions of other logins now."""
    clock_ahead_s: float
    """How far the server's clock is ahead of ours; below 0, behind."""
    clock_error_s: float
    """How wrong that may be: half of the time that the answer took."""


def server_facts(dsn: str, clock: Callable[[], float] = time.time) -> ServerFacts:
    """`clock` is ours. Raises MigrationError where there is no session, as all of this module do."""
    with session_on(dsn) as session:
        _be_brief(session)
        (facts,) = _asked(session, _FACTS)
        version, encoding, collation, provider, is_stale, limit, reserved, of_login, of_database, others = facts
        ahead_s, error_s = _clock(session, clock)
    limits = [limit - reserved, *(each for each in (of_login, of_database) if each >= 0)]
    return ServerFacts(
        version=version,
        encoding=encoding,
        collation=collation,
        collation_provider=_PROVIDERS.get(provider, provider),
        collation_is_stale=is_stale,
        connections=min(limits),
        connections_of_others=others,
        clock_ahead_s=ahead_s,
        clock_error_s=error_s,
    )


def login_problems(dsn: str) -> list[str]:
    """What the service's login may do by itself, and must not. The database is migrated."""
    with session_on(dsn) as session, session.cursor() as cur:
        _be_brief(session)
        return list(login_gaps(cur, session.info.user))


def isolation_problems(dsn: str) -> list[str]:
    """What is left out of the isolation of tenants, as the catalogue tells. The database is migrated."""
    with session_on(dsn) as session:
        _be_brief(session)
        # One moment: an upload that ends meanwhile closes its table and changes its state.
        session.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with session, session.cursor() as cur:
            # Sees the uploads of all tenants.
            cur.execute("SET LOCAL ROLE dari_housekeeper")
            return gaps(cur, session.info.user)


def _be_brief(session: connection) -> None:
    with session, session.cursor() as cur:
        cur.execute("SELECT set_config('statement_timeout', %s, false)", (f"{_STATEMENT_TIMEOUT_S}s",))


def _clock(session: connection, clock: Callable[[], float]) -> tuple[float, float]:
    """How far the server's clock is ahead, and how wrong that may be."""
    before_s = clock()
    ((then_s,),) = _asked(session, "SELECT extract(epoch FROM clock_timestamp())::double precision")
    after_s = clock()
    return then_s - (before_s + after_s) / 2, (after_s - before_s) / 2


def _asked(session: connection, question: str) -> list[tuple[Any, ...]]:
    with session, session.cursor() as cur:
        cur.execute(question)
        return cur.fetchall()


_PROVIDERS = {"b": "builtin", "i": "icu", "c": "libc", "d": "default"}
# By JSON: before PostgreSQL 17 the locale has another name, and before 16 the second reserve is not there.
_FACTS = """
SELECT
    current_setting('server_version'),
    pg_encoding_to_char(encoding),
    coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', datcollate),
    datlocprovider::text,
    coalesce(datcollversion <> pg_database_collation_actual_version(oid), false),
    current_setting('max_connections')::integer,
    current_setting('superuser_reserved_connections')::integer
        + coalesce(current_setting('reserved_connections', true), '0')::integer,
    (SELECT rolconnlimit FROM pg_roles WHERE rolname = session_user),
    datconnlimit,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename <> session_user)
FROM pg_database d WHERE datname = current_database()
"""
