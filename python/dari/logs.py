"""Structured logs on standard error: one JSON object a line, or readable lines for a terminal.

Events carry names, ids, codes and numbers. Content, secrets and exception texts are never handed to a logger; what
prints a traceback by itself (`exc_info`) is dropped here, since a traceback's last line is such a text.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from dari.core.event_log import EventLog


def make_log(level: str, style: str) -> EventLog:
    """A log at or above the level; style is json or console. Other libraries' warnings go the same way."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=max(threshold, logging.WARNING), stream=sys.stderr, format="%(name)s: %(levelname)s")
    renderer: Any = (
        structlog.processors.JSONRenderer() if style == "json" else structlog.dev.ConsoleRenderer(colors=False)
    )
    log: EventLog = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            _without_exceptions,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
    )
    return log


def _without_exceptions(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    del logger, method
    event.pop("exc_info", None)
    return event
