"""Which work an event belongs to: ids that go along with a thread, so that no module hands them on by argument.

A call and a sync are each a piece of work. Whoever begins one opens it by `new_work`; what is found out on the way
(who calls, which turn it became) is added by `note`; every event that a thread logs meanwhile has all of it
(`dari.logs`). A thread that works for another's work runs what `carried` made.

Ids and names only: what is noted here stands in every log.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# A dictionary of its own for each piece of work. It is changed in place, so that who opened the work sees what was
# noted further in; single assignments and copies of a dict of strings are atomic.
_fields: ContextVar[dict[str, str] | None] = ContextVar("dari_event_fields", default=None)


def new_work(**ids: str) -> AbstractContextManager[dict[str, str]]:
    """What this thread does inside belongs to these ids, and to no other work."""
    return _under(ids)


def part_of_work(**ids: str) -> AbstractContextManager[dict[str, str]]:
    """What this thread does inside belongs to these ids, and to the work that it is a part of."""
    return _under({**event_fields(), **ids})


@contextmanager
def _under(fields: dict[str, str]) -> Iterator[dict[str, str]]:
    before = _fields.get()
    _fields.set(fields)
    try:
        yield fields
    finally:
        # Else a generator that was left is closed on another thread, which has work of its own.
        if _fields.get() is fields:
            _fields.set(before)


def note(**ids: str) -> None:
    """The work that this thread does has these ids as well, from now on and on all of its threads."""
    fields = _fields.get()
    if fields is not None:
        fields.update(ids)


def event_fields() -> Mapping[str, str]:
    """The ids of the work that this thread does; empty between two pieces of work."""
    return _fields.get() or {}


def carried(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The same function, to be run once by another thread as a part of this thread's work."""
    return partial(copy_context().run, function)
