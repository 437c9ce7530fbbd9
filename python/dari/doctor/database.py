"""The database: whether it is reached and migrated, who the service is there, and what the server allows."""

import time
from collections.abc import Callable, Iterator

from dari.adapters.postgres.embedded import holder_of, running_dsn
from dari.adapters.postgres.inspection import isolation_problems, login_problems, server_facts
from dari.adapters.postgres.migrate import (
    DatabaseNewer,
    DatabaseUnreachable,
    MigrationError,
    NotMigrated,
    require_migrated,
)
from dari.doctor.findings import Finding, failed, ok, warning
from dari.settings import Settings

_CONNECTIONS_OF_OPERATORS = 5
"""For migrations, backups and people."""
_MAX_TOLD = 5
_SKEW_S, _LARGE_SKEW_S = 1.0, 30.0


def dsn_of(settings: Settings) -> str | None:
    """How the service logs in; None where the database is the embedded one, and no server runs that has it open."""
    if settings.database_dsn is not None:
        return settings.database_dsn.get_secret_value()
    if holder_of(settings.postgres_dir) is None:
        return None
    return running_dsn(settings.postgres_dir, "dari_service", "dari")


def look_at_server(settings: Settings, replicas: int, clock: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Version, encoding, order of texts, connections, clock."""
    dsn, where = dsn_of(settings), name_of(settings)
    if dsn is None:
        yield ok(where, "rests, since no server runs here; start one to have it examined")
        return
    try:
        facts = server_facts(dsn, clock)
    except MigrationError as error:
        yield _unreached(where, error)
        return
    yield ok(where, f"PostgreSQL {facts.version} answers in {facts.clock_error_s * 2_000:,.1f} ms")
    remake = "Make a database with ENCODING 'UTF8' and move over: docs/backup.md has the statement."
    if facts.encoding != "UTF8":
        yield failed(where, f"its encoding is {facts.encoding}", remake)
    elif facts.collation_is_stale:
        told = f"the rules of {facts.collation} changed beneath it: indexes on text may be wrong"
        yield failed(where, told, "REINDEX DATABASE, then ALTER DATABASE … REFRESH COLLATION VERSION.")
    elif facts.collation_provider == "builtin" or facts.collation.upper() in {"C", "POSIX", "C.UTF-8", "C.UTF8"}:
        yield ok(where, f"UTF-8 in the order of {facts.collation} ({facts.collation_provider})")
    else:
        told = (
            f"orders texts by {facts.collation} ({facts.collation_provider}), which an upgrade of the system may change"
        )
        yield warning(where, told, remake.replace("ENCODING 'UTF8'", "the locale C.UTF-8"))
    yield _connections(settings, facts.connections, facts.connections_of_others, replicas, where)
    skew_s = max(0.0, abs(facts.clock_ahead_s) - facts.clock_error_s)
    told = f"its clock is {abs(facts.clock_ahead_s):.1f} s {'ahead of' if facts.clock_ahead_s > 0 else 'behind'} ours"
    remedy = "Let both machines take their time from NTP: leases, expiry of tokens and times of data depend on it."
    if skew_s > _LARGE_SKEW_S:
        yield failed(where, told, remedy)
    elif skew_s > _SKEW_S:
        yield warning(where, told, remedy)
    else:
        yield ok(where, "its clock agrees with ours")


def look_at_migrations(settings: Settings) -> Iterator[Finding]:
    """Whether a server of this version would start on it, and as whom the service works there."""
    dsn, where = dsn_of(settings), name_of(settings)
    if dsn is None:
        return
    try:
        newer = require_migrated(dsn)
    except NotMigrated as error:
        yield failed(where, str(error), "dari migrate")
        return
    except DatabaseNewer as error:
        yield failed(where, str(error), "Upgrade this dari; docs/upgrade.md.")
        return
    except MigrationError as error:
        yield _unreached(where, error)
        return
    if newer:
        yield warning(where, f"is newer than this dari, which can work on it: {', '.join(newer)}", "Upgrade this dari.")
    else:
        yield ok(where, "is migrated, and the service may take on its roles")
    yield from _problems(
        login_problems, dsn, where, "the service's login owns nothing and goes around nothing", "the service's login"
    )


def look_at_isolation(settings: Settings) -> Iterator[Finding]:
    """Whether the catalogue leaves anything out of the isolation of tenants."""
    dsn, where = dsn_of(settings), name_of(settings)
    if dsn is None:
        return
    try:
        require_migrated(dsn)
    except MigrationError:
        return  # look_at_migrations tells.
    told = "every table, view, function, role and right is within the isolation of tenants"
    yield from _problems(isolation_problems, dsn, where, told, "isolation of tenants")


def name_of(settings: Settings) -> str:
    """The database as findings name it: a DSN may hold a password, a host or a user, and is shown nowhere."""
    return "database_dsn" if settings.database_dsn is not None else "the embedded database"


def _problems(problems: Callable[[str], list[str]], dsn: str, where: str, well: str, subject: str) -> Iterator[Finding]:
    try:
        found = problems(dsn)
    except MigrationError as error:
        yield warning(where, f"{subject}: not examined. {error}", "Examine again.")
        return
    if not found:
        yield ok(where, well)
    for problem in found[:_MAX_TOLD]:
        yield failed(where, f"{subject}: {problem}", "Take that back, by hand; nothing of dari's does it.")
    if len(found) > _MAX_TOLD:
        yield failed(where, f"{subject}: and {len(found) - _MAX_TOLD} more", "As above.")


def _unreached(where: str, error: MigrationError) -> Finding:
    remedy = (
        "Start it, or correct DARI_DATABASE_DSN." if isinstance(error, DatabaseUnreachable) else "See docs/tools.md."
    )
    return failed(where, str(error), remedy)


def _connections(settings: Settings, allowed: int, of_others: int, replicas: int, where: str) -> Finding:
    each = settings.database_max_connections
    needed = each * replicas + _CONNECTIONS_OF_OPERATORS
    servers = f"{replicas} servers" if replicas > 1 else "one server"
    told = f"{servers} and their operators may need {needed} connections; {allowed} are to be had"
    remedy = "Raise max_connections of PostgreSQL, or lower DARI_DATABASE_MAX_CONNECTIONS."
    if settings.database_dsn is None:
        return ok(where, f"lets {allowed} connections in")
    if each * replicas > allowed:
        return failed(where, told, remedy)
    if needed + of_others > allowed:
        return warning(where, f"{told}, and others have {of_others}", remedy)
    return ok(where, told)
