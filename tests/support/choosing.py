"""What a selector means, said a second time and without SQL, to compare with."""

from collections.abc import Mapping

from dari.core.labels import Operator, Requirement, Selector


def chooses(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Whether these labels are chosen."""
    return bool(selector) and all(_holds(requirement, labels) for requirement in selector)


def _holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case Operator.IN:
            return value in requirement.values
        case Operator.NOT_IN:
            return value not in requirement.values
        case Operator.EXISTS:
            return value is not None
        case Operator.ABSENT:
            return value is None
