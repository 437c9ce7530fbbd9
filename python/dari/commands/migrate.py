"""`dari migrate`: brings a PostgreSQL server of one's own to the tables of this version."""

from dari.commands.exit_codes import ExitCode
from dari.commands.serve import settings_or_none
from dari.commands.terminal import Terminal


def run(terminal: Terminal) -> ExitCode:
    """Apply what is missing, and say what it was. DSNs come from the settings: a command line shows in `ps`."""
    settings = settings_or_none(terminal, {})
    if settings is None:
        return ExitCode.CONFIG
    if settings.database_dsn is None:
        terminal.note("The embedded database needs no migration by hand; for one of your own set DARI_DATABASE_DSN.")
        return ExitCode.CONFIG
    from dari.adapters.postgres.migrate import MigrationError, migrate, user_of

    service_dsn = settings.database_dsn.get_secret_value()
    migration_dsn = settings.migration_dsn.get_secret_value() if settings.migration_dsn else service_dsn
    try:
        applied = migrate(migration_dsn, service_user=user_of(service_dsn))
    except MigrationError as error:
        terminal.note(str(error))
        return ExitCode.FAILED
    if terminal.as_json:
        terminal.json_line({"applied": [str(migration) for migration in applied]})
    else:
        for migration in applied:
            terminal.out.print(f"applied {migration}")
        terminal.note(f"{len(applied)} migrations applied; the database is up to date")
    return ExitCode.OK
