"""Structured logs on standard error: one JSON object a line, or readable lines for a terminal.

Events carry names, ids, codes and numbers, and the ids of the call that they belong to (`core.event_context`).
Content, secrets and exception texts are never handed to a logger; what prints a traceback by itself (`exc_info`) is
dropped here, since a traceback's last line is such a text.

Others write on standard error too, and know no such rule: gRPC's server logs the text of an exception that came out
of a handler, of a callback, or of bytes that are no message; Python prints the traceback of a thread that failed. So
`captured` takes what libraries log, and tells of it only where it was said and by which type of exception.
"""

import logging
import sys
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog

from dari.core.event_context import event_fields
from dari.core.event_log import EventLog, failure_fields


def make_log(level: str, style: str) -> EventLog:
    """A log at or above the level; style is json or console."""
    log: EventLog = structlog.wrap_logger(
        structlog.WriteLogger(_STANDARD_ERROR),
        processors=_processors(style),
        wrapper_class=structlog.make_filtering_bound_logger(_threshold(level)),
    )
    return log


@contextmanager
def captured(log: EventLog, level: str, style: str) -> Iterator[None]:
    """While it is open, whatever in this process logs, warns or fails does so in our form, without a text.

    That is: `structlog.get_logger`, the standard library's loggers from WARNING on, `warnings`, threads that end by an
    exception, and exceptions that nobody can catch. A hook that is not Python's own stays: pytest has such.
    """
    former = structlog.get_config()
    structlog.configure(
        processors=_processors(style),
        wrapper_class=structlog.make_filtering_bound_logger(_threshold(level)),
        logger_factory=structlog.WriteLoggerFactory(_STANDARD_ERROR),
    )
    handler = _LibraryHandler(log)
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(True)
    hooks = _Hooks(log)
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = hooks.thread_failed
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = hooks.unraisable
    try:
        yield
    finally:
        if threading.excepthook == hooks.thread_failed:
            threading.excepthook = threading.__excepthook__
        if sys.unraisablehook == hooks.unraisable:
            sys.unraisablehook = sys.__unraisablehook__
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(handler)
        structlog.configure(**former)


class _StandardError:
    """`sys.stderr` as it is at the moment of writing: tests put another in its place, and close it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


_STANDARD_ERROR: Any = _StandardError()


class _LibraryHandler(logging.Handler):
    """Makes events of the records of other libraries. Their messages are not read: they hold values."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        tell = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        fields: dict[str, object] = {"library": record.name, "said_at": f"{record.module}:{record.lineno}"}
        if record.exc_info:
            fields |= failure_fields(record.exc_info[0], record.exc_info[2])
        tell("library_log", **fields)


class _Hooks:
    """What Python calls for exceptions that have left the last frame."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def thread_failed(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            name = args.thread.name if args.thread else None
            self._log.error("thread_failed", thread=name, **failure_fields(args.exc_type, args.exc_traceback))

    def unraisable(self, args: Any) -> None:
        self._log.error("unraisable_exception", **failure_fields(args.exc_type, args.exc_traceback))


def _threshold(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


def _processors(style: str) -> list[Any]:
    renderer = structlog.processors.JSONRenderer() if style == "json" else structlog.dev.ConsoleRenderer(colors=False)
    return [
        structlog.processors.add_log_level,
        _with_ids,
        _without_exceptions,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        renderer,
    ]


def _with_ids(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What the event says of itself stands above the ids of the work that it belongs to."""
    del logger, method
    for name, id in event_fields().items():
        event.setdefault(name, id)
    return event


def _without_exceptions(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    del logger, method
    for key in ("exc_info", "exception", "stack_info", "stack"):
        event.pop(key, None)
    return event
