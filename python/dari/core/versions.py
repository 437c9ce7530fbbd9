"""A version of a knowledge base as readers hold it: what stays the same from its first row to its last."""

from dataclasses import dataclass
from datetime import datetime

from dari.core.errors import NotFound


@dataclass(frozen=True, slots=True)
class Version:
    """One version. Its rows are numbered from 1 to `row_count`, in whatever segments they lie."""

    tenant: str
    knowledge_base: str
    number: int
    create_time: datetime
    """Tells it from the version that has its number after the knowledge base was deleted and made again."""
    row_count: int
    columns: tuple[str, ...]
    has_header: bool = True
    """Whether a file that it was made of named its columns; if none did, their names are dari's."""


def no_version(knowledge_base: str, number: int | None) -> NotFound:
    """The error for a version that is not, or no longer, there; without a number, for a knowledge base without any."""
    name = f"knowledgeBases/{knowledge_base}"
    if number is None:
        return NotFound(f"{name} has no version yet; upload a file into it.", {"resource": name})
    return NotFound(
        f"{name} has no version {number}; it may have been removed after a newer one took its place.",
        {"resource": name, "version": number},
    )
