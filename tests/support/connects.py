"""Which addresses this process connects to, as the interpreter itself tells it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

_recorders: list[list[tuple[str, int]]] = []
"""An audit hook cannot be taken away, so that there is one for all who ever ask."""


@contextmanager
def connects() -> Iterator[list[tuple[str, int]]]:
    """A list that gets (address, port) of every attempt to connect from Python, before its first packet.

    What libraries in C connect to, such as gRPC's and PostgreSQL's, is not in it.
    """
    _listen()
    made: list[tuple[str, int]] = []
    _recorders.append(made)
    try:
        yield made
    finally:
        _recorders[:] = [each for each in _recorders if each is not made]


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        for made in _recorders:
            made.append(arguments[1][:2])


@lru_cache
def _listen() -> None:
    sys.addaudithook(_hear)
