"""`dari serve`: runs the server until SIGTERM or Ctrl-C, and ends by the drain deadline whatever hangs."""

import gc
import os
import signal
import socket
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
    # What the start made stays until the end: a hundred thousand objects, which a full collection would look at again
    # and again while it holds every thread.
    gc.collect()
    gc.freeze()
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
    """Stop when a signal comes, in a thread: the main thread may hold any lock at that moment.

    SIGTERM comes from what runs replicas, and leaves its balancer time; Ctrl-C, and any second signal, does not. Where
    the stop itself hangs, nobody need send a second signal: the process ends by the time that was promised.

    Python's own handlers run on the main thread alone, which a signal wakes only where it took it itself. On a busy
    machine another thread may: one that has just unblocked all signals, as each does that starts a thread. Whoever took
    it writes it to the wakeup descriptor.
    """
    told, tells = socket.socketpair()
    tells.setblocking(False)
    signal.set_wakeup_fd(tells.detach())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _do_nothing)

    def listen() -> None:
        while True:
            for number in told.recv(1):
                delay = delay_s if number == signal.SIGTERM else 0.0
                _end_within(server.longest_stop_s(delay) + EXIT_GRACE_S, server.log_hanging)
                threading.Thread(target=server.stop, args=(delay,), name="dari-stop").start()

    threading.Thread(target=listen, name="signals", daemon=True).start()


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Where a signal has no handler of Python's, it is not written to the wakeup descriptor."""


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
