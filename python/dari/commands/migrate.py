"""`dari migrate`: brings a PostgreSQL server of one's own to the tables of this version."""

from dari.adapters.postgres.migrate import MigrationError, migrate
from dari.commands.exit_codes import ExitCode
from dari.commands.terminal import Terminal


def run(terminal: Terminal, admin_dsn: str, service_user: str | None) -> ExitCode:
    """Apply what is missing, and say what it was."""
    try:
        applied = migrate(admin_dsn, service_user=service_user)
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
