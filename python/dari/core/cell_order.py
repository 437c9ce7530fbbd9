"""Puts the cells of a row in the order in which they help to answer a question.

First those that hold a word of the question, then those whose column is named in it, then the others as in the row.
"""

import re
import unicodedata
from collections.abc import Sequence

from dari.core.conversations import Citation
from dari.core.search import named_cells

_WORD = re.compile(r"[가-힣]+|[^\W가-힣]+")
_KOREAN = re.compile(r"[가-힣]+")
_MAX_WORDS = 32
_MAX_PARTICLE_SYLLABLES = 3
_LOOKED_AT_CHARS = 400


def by_relevance(question: str, citation: Citation) -> list[int]:
    """Places, from 0, of the cells with a text, those first that matter most to the question."""
    words = _words(question)
    cells = [(place, *named) for place, named in enumerate(named_cells(citation.columns, citation.cells)) if named[1]]
    return [
        place
        for place, _, _ in sorted(cells, key=lambda cell: (not _holds(cell[2], words), not _holds(cell[1], words)))
    ]


def _words(question: str) -> list[str]:
    """The words of a question that may stand in a cell: of two characters and more, and without Korean particles."""
    found = [word for word in _WORD.findall(_folded(question))[:_MAX_WORDS] if len(word) > 1]
    return [word[: max(2, len(word) - _MAX_PARTICLE_SYLLABLES)] if _KOREAN.fullmatch(word) else word for word in found]


def _holds(text: str, words: Sequence[str]) -> bool:
    folded = _folded(text[:_LOOKED_AT_CHARS])
    apart = set(_WORD.findall(folded))
    return any(word in folded if _KOREAN.fullmatch(word) else word in apart for word in words)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
