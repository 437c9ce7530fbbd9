"""`dari token`: makes the tokens that a server's tokens file knows. Works on this machine, not over the wire."""

from datetime import UTC, datetime, timedelta

from dari.adapters.credentials.token_file import is_caller_name, is_tenant, new_token, token_entry
from dari.commands.exit_codes import ExitCode
from dari.commands.terminal import Terminal
from dari.core.callers import ROLES, Caller


class NoSuchCaller(Exception):
    """The name or the tenant cannot be one; the message says what can."""


def run_create(terminal: Terminal, name: str, tenant: str, role: str, expires_in_days: int | None) -> ExitCode:
    """Print a new token, which nothing keeps, and the entry by which a server knows it. Raises NoSuchCaller."""
    if not is_caller_name(name):
        raise NoSuchCaller("--name must have 1 to 200 printable characters without quotes or backslashes")
    if not is_tenant(tenant):
        raise NoSuchCaller("--tenant must be 1 to 63 of a-z, 0-9 and '-', beginning with a letter")
    expires = None if expires_in_days is None else datetime.now(UTC) + timedelta(days=expires_in_days)
    token = new_token()
    entry = token_entry(token, Caller(name, tenant, ROLES[role]), expires)
    if terminal.as_json:
        terminal.json_line({"token": token, "entry": entry})
        return ExitCode.OK
    terminal.note("The token, shown this once; give it to its holder, as DARI_TOKEN or in a file:")
    terminal.out.print(token, soft_wrap=True)
    terminal.note("Its entry, for the tokens_file of the server:")
    terminal.out.print(entry, soft_wrap=True)
    return ExitCode.OK
