"""`dari notify`: whether messages reach operators, and which were sent. Works by the settings of where it runs."""

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from dari.commands.exit_codes import ExitCode
from dari.commands.serve import settings_or_none
from dari.commands.terminal import Terminal
from dari.settings import Settings

if TYPE_CHECKING:
    from dari.adapters.postgres.outbox_store import StoredAlert


def run_test(terminal: Terminal) -> ExitCode:
    """Send a message to each target and say where it arrived: OK where all took it, UNAVAILABLE otherwise."""
    settings = settings_or_none(terminal, {})
    if settings is None:
        return ExitCode.CONFIG
    if not settings.notify_urls:
        terminal.note("No targets are set: DARI_NOTIFY_URLS names them, each with its apprise URL.")
        return ExitCode.CONFIG
    from dari.adapters.notifier import apprise_targets
    from dari.core.alerts import Alert, AlertKind, message_of

    targets, unknown = apprise_targets(settings.notify_urls)
    results = {
        target.name: target.send(message_of(Alert(AlertKind.TEST, f"notifyTargets/{target.name}"), 0))
        for target in targets
    }
    _show_results(terminal, results, unknown)
    if unknown:
        return ExitCode.CONFIG
    return ExitCode.OK if all(results.values()) else ExitCode.UNAVAILABLE


def run_list(terminal: Terminal, limit: int) -> ExitCode:
    """Print the newest alerts, and how many targets have each."""
    settings = settings_or_none(terminal, {})
    if settings is None:
        return ExitCode.CONFIG
    if settings.database_dsn is None:
        terminal.note("Only its own server can read the embedded database; for one of your own set DARI_DATABASE_DSN.")
        return ExitCode.CONFIG
    from dari.core.errors import DariError

    try:
        alerts = _latest(settings, settings.database_dsn.get_secret_value(), limit)
    except DariError as error:
        terminal.note(error.message)
        return ExitCode.UNAVAILABLE
    _show_alerts(terminal, alerts)
    return ExitCode.OK


def _latest(settings: Settings, dsn: str, limit: int) -> "list[StoredAlert]":
    from dari.adapters.postgres.database import Database
    from dari.adapters.postgres.outbox_store import PostgresOutbox

    database = Database(
        dsn,
        max_connections=1,
        wait_timeout_s=settings.database_wait_timeout_s,
        statement_timeout_s=settings.database_statement_timeout_s,
    )
    with closing(database):
        return PostgresOutbox(database).latest(limit)


def _show_results(terminal: Terminal, results: dict[str, bool], unknown: Sequence[str]) -> None:
    rows = [(name, "arrived" if arrived else "did not arrive") for name, arrived in results.items()]
    rows += [(name, "its URL fits no service of apprise") for name in unknown]
    if terminal.as_json:
        for name, result in rows:
            terminal.json_line({"target": name, "result": result})
    else:
        terminal.table(("target", "result"), rows)


def _show_alerts(terminal: Terminal, alerts: "Sequence[StoredAlert]") -> None:
    if terminal.as_json:
        for stored in alerts:
            terminal.json_line(_as_json(stored))
        return
    terminal.table(
        ("time", "kind", "subject", "cause", "state", "held back", "arrived", "attempts"),
        [
            (
                f"{stored.alert.happen_time:%Y-%m-%d %H:%M:%S %Z}",
                stored.alert.kind.value.lower().replace("_", " "),
                stored.alert.subject,
                stored.alert.code.replace("_", " "),
                stored.state.lower(),
                stored.held_back or None,
                f"{stored.delivered} of {stored.targets}",
                stored.attempts,
            )
            for stored in alerts
        ],
        title="Alerts",
    )


def _as_json(stored: "StoredAlert") -> dict[str, Any]:
    alert = stored.alert
    return {
        "kind": alert.kind.value,
        "subject": alert.subject,
        "item": alert.item,
        "code": alert.code,
        "tenant": alert.tenant,
        "host": alert.host,
        "happenTime": alert.happen_time.isoformat(),
        "state": stored.state,
        "heldBack": str(stored.held_back),
        "targets": stored.targets,
        "delivered": stored.delivered,
        "attempts": stored.attempts,
    }
