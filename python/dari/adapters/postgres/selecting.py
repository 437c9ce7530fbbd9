"""Selectors as SQL. The text is of this module's making; keys and values are parameters, and never a part of it."""

import json
from typing import NamedTuple

from psycopg2 import sql

from dari.core.labels import Operator, Requirement, Selector


class Condition(NamedTuple):
    """A piece of SQL and the named parameters that it asks for."""

    text: sql.Composable
    parameters: dict[str, str]


def chooses(selector: Selector, labels: sql.Composable, prefix: str) -> Condition:
    """Whether `labels`, a jsonb column, is chosen; parameters are called `prefix` and a number.

    The column's GIN index (jsonb_ops) serves `@>` and `?`; what a selector must not find is asked of the rest.
    """
    if not selector:
        return Condition(sql.SQL("false"), {})
    parts: list[sql.Composable] = []
    parameters: dict[str, str] = {}
    for requirement in selector:
        names = []
        for value in _operands(requirement):
            names.append(f"{prefix}{len(parameters)}")
            parameters[names[-1]] = value
        parts.append(_part(requirement.operator, labels, names))
    return Condition(sql.SQL("({})").format(sql.SQL(" AND ").join(parts)), parameters)


_SIGN = {Operator.IN: "@>", Operator.NOT_IN: "@>", Operator.EXISTS: "?", Operator.ABSENT: "?"}
_NEGATED = (Operator.NOT_IN, Operator.ABSENT)


def _operands(requirement: Requirement) -> list[str]:
    """What labels are compared with: objects of one pair, or the key alone."""
    return [json.dumps({requirement.key: value}) for value in requirement.values] or [requirement.key]


def _part(operator: Operator, labels: sql.Composable, names: list[str]) -> sql.Composable:
    sign = sql.SQL(f" {_SIGN[operator]} ")
    alternatives = sql.SQL(" OR ").join(labels + sign + sql.Placeholder(name) for name in names)
    return sql.SQL("NOT ({})" if operator in _NEGATED else "({})").format(alternatives)
