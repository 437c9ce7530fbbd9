"""`dari serve`: runs the server until SIGTERM or Ctrl-C, and ends by the drain deadline whatever hangs."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from dari.commands.exit_codes import ExitCode
from dari.commands.terminal import Terminal
from dari.settings import Settings, SettingsError, load_settings

EXIT_GRACE_S = 1.0
"""After the server has stopped, how long leftover threads may delay the end of the process."""


def settings_or_none(terminal: Terminal, overrides: dict[str, Any]) -> Settings | None:
    """The settings; where they cannot be used, every problem on stderr and None."""
    try:
        return load_settings(**{name: value for name, value in overrides.items() if value is not None})
    except SettingsError as error:
        terminal.note(str(error))
        return None


def run(terminal: Terminal, overrides: dict[str, Any]) -> ExitCode:
    """Serve until a signal comes. `overrides` are settings by name; None leaves one as it is."""
    settings = settings_or_none(terminal, overrides)
    if settings is None:
        return ExitCode.CONFIG
    from dari.server import START_ERRORS, Server, StoppedAtStart

    server = Server(settings)
    _stop_on_signals(server, settings.stop_delay_s)
    try:
        server.start()
    except StoppedAtStart:
        return ExitCode.OK
    except START_ERRORS as error:
        terminal.note(str(error))
        return _exit_code(error)
    metrics = f"metrics on {server.metrics_address}" if server.metrics_address else "no metrics"
    if terminal.as_json:
        terminal.json_line(
            {
                "address": server.address,
                "adminAddress": server.admin_address,
                "metricsAddress": server.metrics_address,
            }
        )
    else:
        terminal.note(f"dari serves on {server.address}, health on {server.admin_address}, {metrics}")
    server.wait()
    _end_within(EXIT_GRACE_S)
    return ExitCode.OK


def _exit_code(error: Exception) -> ExitCode:
    """What a start that failed tells whoever would start it again."""
    from dari.adapters.postgres.migrate import DatabaseAway

    if isinstance(error, SettingsError):
        return ExitCode.CONFIG
    return ExitCode.UNAVAILABLE if isinstance(error, DatabaseAway) else ExitCode.FAILED


def _stop_on_signals(server: Any, delay_s: float) -> None:
    """Stop in a thread: a handler runs between two bytecodes of the main thread, which may hold any lock.

    SIGTERM comes from what runs replicas, and leaves its balancer time; Ctrl-C, and any second signal, does not. Where
    the stop itself hangs, nobody need send a second signal: the process ends by the time that was promised.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        delay = delay_s if number == signal.SIGTERM else 0.0
        _end_within(server.longest_stop_s(delay) + EXIT_GRACE_S, server.log_hanging)
        threading.Thread(target=server.stop, args=(delay,), name="dari-stop").start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _end_within(grace_s: float, before: Callable[[], None] = lambda: None) -> None:
    """Python waits at its end for the threads of every pool; a handler that never returns would hold it for ever."""

    def end() -> None:
        before()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ExitCode.OK)

    timer = threading.Timer(grace_s, end)
    timer.daemon = True
    timer.start()
