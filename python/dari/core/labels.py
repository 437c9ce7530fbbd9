"""Labels of resources, and the selectors that choose by them, written as Kubernetes does.

    team=sales   team==sales   team!=sales   env in (prod, test)   env notin (dev)   secret   !secret

A comma means *and*. As there, `!=` and `notin` also hold for what has no such label. Not as there: an empty selector
chooses nothing, and `<` and `>` do not exist.

https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from dari.core.errors import FieldViolation

MAX_LABELS = 32
MAX_SELECTOR_CHARS = 1_024

Labels = tuple[tuple[str, str], ...]
"""(key, value), by key; each key once."""

_WORD = r"[A-Za-z0-9_.-]"
_KEY = re.compile(rf"(?=.{{1,317}}\Z)(?:(?=[^/]{{1,253}}/)[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?/)?{_WORD}{{1,63}}")
_VALUE = re.compile(rf"{_WORD}{{0,63}}")
_TOKEN = re.compile(r"\s*(?P<token>==|!=|[=!(),]|[A-Za-z0-9_./-]+|\Z)")
_MARKS = frozenset(("==", "!=", "=", "!", "(", ")", ",", ""))
_KEY_RULE = (
    "a label's key: 1 to 63 of letters, digits, '-', '_' and '.', with a DNS name and '/' before it where wanted"
)
_VALUE_RULE = "a label's value: 0 to 63 of letters, digits, '-', '_' and '.'"


class Operator(Enum):
    """What a requirement asks of one label."""

    IN = "IN"
    """It has one of the values."""
    NOT_IN = "NOT_IN"
    """It has none of the values, or is missing."""
    EXISTS = "EXISTS"
    """It is there, whatever its value."""
    ABSENT = "ABSENT"
    """It is missing."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One part of a selector; `values` is empty for EXISTS and ABSENT, and for no other."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


Selector = tuple[Requirement, ...]
"""All of them must hold; the empty one chooses nothing."""


class SelectorError(ValueError):
    """A text that is no selector: `position` is the character, from 1, at which `expected` was not found."""

    def __init__(self, position: int, expected: str) -> None:
        super().__init__(f"at character {position}: expected {expected}")
        self.position = position
        self.expected = expected


def parse_selector(text: str) -> Selector:
    """Read a selector; blanks between its parts mean nothing. Raises SelectorError."""
    tokens = _Tokens(text)
    if not tokens.next:
        return ()
    requirements = [_requirement(tokens)]
    while tokens.next:
        tokens.take_mark(",")
        requirements.append(_requirement(tokens))
    return tuple(requirements)


def label_violations(labels: Labels) -> Iterator[FieldViolation]:
    """What is wrong with the labels of a resource."""
    if len(labels) > MAX_LABELS:
        yield FieldViolation("labels", f"must be at most {MAX_LABELS}")
    for key, value in labels:
        if not _KEY.fullmatch(key):
            yield FieldViolation("labels", f"must each have {_KEY_RULE}")
        elif not _VALUE.fullmatch(value):
            yield FieldViolation(f"labels.{key}", f"must be {_VALUE_RULE}")


def selector_violations(field: str, text: str) -> Iterator[FieldViolation]:
    """What is wrong with a text that is to be a selector."""
    if len(text) > MAX_SELECTOR_CHARS:
        yield FieldViolation(field, f"must have at most {MAX_SELECTOR_CHARS} characters")
        return
    try:
        parse_selector(text)
    except SelectorError as error:
        yield FieldViolation(field, str(error))


class _Tokens:
    """The words and marks of a selector, one ahead; the last one is ""."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.next = ""
        self.position = 1
        self._read()

    def take(self) -> str:
        """The next token, and go on to the one behind it."""
        taken = self.next
        self._read()
        return taken

    def take_mark(self, mark: str) -> None:
        """Go on behind this mark."""
        if self.next != mark:
            raise SelectorError(self.position, f"'{mark}'")
        self._read()

    def take_word(self, rule: re.Pattern[str], expected: str) -> str:
        """A key or a value."""
        if self.next in _MARKS or not rule.fullmatch(self.next):
            raise SelectorError(self.position, expected)
        return self.take()

    def _read(self) -> None:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            blanks = len(self._text[self._at :]) - len(self._text[self._at :].lstrip())
            raise SelectorError(self._at + blanks + 1, "a word, or one of = == != ! ( ) ,")
        self.next, self.position, self._at = found["token"], found.start("token") + 1, found.end()


def _requirement(tokens: _Tokens) -> Requirement:
    if tokens.next == "!":
        tokens.take()
        return Requirement(tokens.take_word(_KEY, _KEY_RULE), Operator.ABSENT)
    key = tokens.take_word(_KEY, _KEY_RULE)
    if tokens.next in ("", ","):
        return Requirement(key, Operator.EXISTS)
    position, operator = tokens.position, tokens.take()
    match operator:
        case "=" | "==":
            return Requirement(key, Operator.IN, (_value(tokens),))
        case "!=":
            return Requirement(key, Operator.NOT_IN, (_value(tokens),))
        case "in":
            return Requirement(key, Operator.IN, _values(tokens))
        case "notin":
            return Requirement(key, Operator.NOT_IN, _values(tokens))
        case _:
            raise SelectorError(position, "= == != in notin or ,")


def _values(tokens: _Tokens) -> tuple[str, ...]:
    tokens.take_mark("(")
    if tokens.next == ")":
        raise SelectorError(tokens.position, _VALUE_RULE)
    values = {_value(tokens)}
    while tokens.next == ",":
        tokens.take()
        values.add(_value(tokens))
    tokens.take_mark(")")
    return tuple(sorted(values))


def _value(tokens: _Tokens) -> str:
    """A value, which may be empty."""
    return "" if tokens.next in ("", ",", ")") else tokens.take_word(_VALUE, _VALUE_RULE)
