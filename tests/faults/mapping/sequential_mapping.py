"""The mapping as one who does one thing after the other would have it, and the steps that clients of both can take.

A state is a dictionary that no step changes in place. Its keys are resources, ("aiModels", id), and lines between two,
(table, id, id).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dari.core.labels import parse_selector
from dari.core.mapping import Choice, LinkEffect
from tests.support.choosing import chooses

MODELS, CHATS, BASES = "aiModels", "chatConfigurations", "knowledgeBases"


class Table(NamedTuple):
    """Which two collections a line is between, in the order in which a missing end is told."""

    first: str
    second: str


CHAIN, LINKS, GRANTS = Table(CHATS, MODELS), Table(CHATS, BASES), Table(MODELS, BASES)
TABLES = (CHAIN, LINKS, GRANTS)

Key = tuple[Any, ...]
State = Mapping[Key, Any]
Result = tuple[Any, ...]


WRITTEN = frozenset(("made", "revision", "deleted", "put", "taken"))
"""Results of steps that may have changed something; every other is of a read or a refusal."""


class Made(NamedTuple):
    """What a resource has: its revision, and its labels or its selector."""

    revision: int
    labels: tuple[tuple[str, str], ...] = ()
    selector: str = ""


@dataclass(frozen=True)
class Create:
    """Makes a resource without labels."""

    collection: str
    id: str

    def after(self, state: State) -> tuple[State, Result]:
        key = (self.collection, self.id)
        if key in state:
            return state, ("AlreadyExists",)
        return {**state, key: Made(1)}, ("made",)


@dataclass(frozen=True)
class Change:
    """Gives a knowledge base labels, or another resource a selector."""

    collection: str
    id: str
    value: str
    """A label's value, or a selector."""
    etag: str

    def after(self, state: State) -> tuple[State, Result]:
        key = (self.collection, self.id)
        refusal = _refusal(state, key, self.etag)
        if refusal:
            return state, refusal
        revision = state[key].revision + 1
        if self.collection == BASES:
            return {**state, key: Made(revision, (("team", self.value),))}, ("revision", revision)
        return {**state, key: Made(revision, (), self.value)}, ("revision", revision)


@dataclass(frozen=True)
class Delete:
    """Deletes a resource, with its lines by force only."""

    collection: str
    id: str
    etag: str
    force: bool

    def after(self, state: State) -> tuple[State, Result]:
        key = (self.collection, self.id)
        refusal = _refusal(state, key, self.etag)
        if refusal:
            return state, refusal
        linked = {line: other for line in state if (other := _other_end(line, key)) is not None}
        if linked and not self.force:
            return state, ("StillLinked", frozenset(linked.values()))
        return {each: value for each, value in state.items() if each != key and each not in linked}, ("deleted",)


@dataclass(frozen=True)
class Put:
    """Makes a line between two, or changes what it says."""

    table: Table
    first: str
    second: str
    value: Any
    """A priority in the chain, else an effect."""

    def after(self, state: State) -> tuple[State, Result]:
        missing = _missing_end(state, self.table, self.first, self.second)
        if missing:
            return state, ("NotFound", missing)
        return {**state, (self.table, self.first, self.second): self.value}, ("put",)


@dataclass(frozen=True)
class Take:
    """Takes a line away, if it is there."""

    table: Table
    first: str
    second: str

    def after(self, state: State) -> tuple[State, Result]:
        missing = _missing_end(state, self.table, self.first, self.second)
        if missing:
            return state, ("NotFound", missing)
        key = (self.table, self.first, self.second)
        return {each: value for each, value in state.items() if each != key}, ("taken",)


@dataclass(frozen=True)
class Read:
    """Reads a chat with all that is linked, granted, blocked and chosen."""

    id: str

    def after(self, state: State) -> tuple[State, Result]:
        chat = state.get((CHATS, self.id))
        if chat is None:
            return state, ("NotFound", f"{CHATS}/{self.id}")
        models = sorted((value, key[2]) for key, value in state.items() if key[0] == CHAIN and key[1] == self.id)
        bases = {
            id: choice
            for id in _ids(state, BASES)
            if (choice := _choice(state, chat, (LINKS, self.id, id), id)) != Choice()
        }
        grants = {
            (model, id): choice
            for _, model in models
            for id in bases
            if (choice := _choice(state, state[MODELS, model], (GRANTS, model, id), id)) != Choice()
        }
        return state, ("read", tuple(models), _items(bases), _items(grants))


Step = Create | Change | Delete | Put | Take | Read


def _choice(state: State, chooser: Made, line: Key, base: str) -> Choice:
    """What is said of a knowledge base; one that is only not chosen has no line, and is `Choice()`."""
    effect: LinkEffect | None = state.get(line)
    return Choice(effect, chooses(parse_selector(chooser.selector), dict(state[BASES, base].labels)))


def _items(choices: Mapping[Any, Choice]) -> frozenset[Any]:
    return frozenset(choices.items())


def _ids(state: State, collection: str) -> list[str]:
    return sorted(key[1] for key in state if key[0] == collection)


def _refusal(state: State, key: Key, etag: str) -> Result | None:
    if key not in state:
        return ("NotFound", "/".join(key))
    return ("EtagMismatch",) if etag and etag != str(state[key].revision) else None


def _missing_end(state: State, table: Table, first: str, second: str) -> str | None:
    ends = ((table.first, first), (table.second, second))
    return next(("/".join(end) for end in ends if end not in state), None)


def _other_end(line: Key, resource: Key) -> str | None:
    """The other end of a line of this resource."""
    if line[0] not in TABLES:
        return None
    table, first, second = line
    if (table.first, first) == resource:
        return f"{table.second}/{second}"
    return f"{table.first}/{first}" if (table.second, second) == resource else None
