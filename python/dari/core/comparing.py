"""What changed between two versions of a knowledge base."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Difference:
    """Rows of two versions, counted; a row that a version has twice counts twice."""

    from_version: int
    to_version: int
    rows_added: int
    rows_removed: int
    rows_changed: int
    """Rows of one key whose other cells differ."""
    rows_unchanged: int


class VersionComparer(Protocol):
    """Compares versions."""

    def compare(
        self, tenant: str, knowledge_base: str, from_version: int, to_version: int, key_columns: Sequence[str]
    ) -> Difference:
        """0 for the current version, and for the one before it; without a key, the source's or the whole row.

        Raises NotFound, FailedPrecondition where the columns differ, InvalidArgument for an unknown key column,
        Unavailable.
        """
        ...
