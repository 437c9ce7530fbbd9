"""Selectors as SQL. The text is of this module's making; keys and values are parameters, and never a part of it."""

import json
from typing import NamedTuple

from dari.core.labels import Operator, Requirement, Selector


class Condition(NamedTuple):
    """A piece of SQL, and a parameter for each %s in it, in order."""

    text: str
    parameters: tuple[str, ...]


def chooses(selector: Selector, labels: str) -> Condition:
    """Whether `labels`, a jsonb column, is chosen. Selectors of one form have one text.

    The column's GIN index (jsonb_ops) serves `@>` and `?`; what a selector must not find is asked of the rest.
    """
    if not selector:
        return Condition("false", ())
    parts = [_part(requirement, labels) for requirement in selector]
    parameters = [operand for requirement in selector for operand in _operands(requirement)]
    return Condition(f"({' AND '.join(parts)})", tuple(parameters))


_SIGN = {Operator.IN: "@>", Operator.NOT_IN: "@>", Operator.EXISTS: "?", Operator.ABSENT: "?"}
_NEGATED = (Operator.NOT_IN, Operator.ABSENT)


def _operands(requirement: Requirement) -> list[str]:
    """What labels are compared with: objects of one pair, or the key alone."""
    return [json.dumps({requirement.key: value}) for value in requirement.values] or [requirement.key]


def _part(requirement: Requirement, labels: str) -> str:
    sign = _SIGN[requirement.operator]
    alternatives = " OR ".join(f"{labels} {sign} %s" for _ in _operands(requirement))
    return f"NOT ({alternatives})" if requirement.operator in _NEGATED else f"({alternatives})"
