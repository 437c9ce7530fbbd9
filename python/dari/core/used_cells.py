"""Tells which cells of a cited row stand in an answer.

A cell stands in an answer where its text does, as a whole: no letter and no digit goes on before or behind it, save a
Korean particle or unit behind it (서울은, 3,200원). Case, width (NFKC), the kind of white space and commas that group
digits make no difference. A number is whole: 14 stands neither in 3.14 nor in 2024-14 nor in -14. Of one letter, digit
or syllable a cell says too little to be told from chance: it counts only right behind a colon or an equals sign, or
between quotes or emphasis, and nothing but a particle behind it. Numbers of citations ([1]) are no part of an answer.

Only the first MAX_ANSWER_CHARS of an answer are looked at. A cell that is used in other words is not found.
"""

import re
import unicodedata
from collections.abc import Iterable

MAX_ANSWER_CHARS = 32 * 1024
_CITATION_NUMBER = re.compile(r"\[\d{1,3}\]")
_GROUPING_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PARTICLE = (
    "(?:은|는|이|가|을|를|과|와|의|도|만|인|랑|이랑|이나|하고|에|에는|에도|에서|에서는|에게|께서|부터|까지|보다|처럼|마다"
    "|로|으로|로는|으로는|로서|으로서|로써|으로써|라고|이라고|라는|이라는|이고|이며|이다|이었다|였다|입니다|이에요|예요"
    "|이었습니다|였습니다)"
)
_BEHIND_WORD = re.compile(rf"{_PARTICLE}{{0,2}}(?!\w)")
_BEHIND_NUMBER = re.compile(r"(?:[가-힣]*(?!\w)|[a-z%°]{1,3}(?!\w))(?![.,:/-]\d)")
"""A unit may follow: 3200원, 5km."""
_BEHIND_SHORT = re.compile(rf"[\"'”’*`)]*{_PARTICLE}?(?!\w)(?![.,:/-]\d)")  # noqa: RUF001 - quotes of all kinds
_BEFORE_SHORT = re.compile(r"(?:[:=]\s?[\"'“‘*`(]*|[\"'“‘*`]+)$")  # noqa: RUF001
_BEFORE_NUMBER = re.compile(r"(?:\w|\d[.,:/-]|-)$")
_WORD_AT_END = re.compile(r"\w$")
_LOOK_BACK_CHARS = 8


def used_cells(answer: str, cells: Iterable[str]) -> tuple[int, ...]:
    """Places, from 0, of the cells that stand in the answer; see the rule above."""
    text = _folded(_CITATION_NUMBER.sub(" ", answer[:MAX_ANSWER_CHARS]))
    known: dict[str, bool] = {}
    used: list[int] = []
    for place, cell in enumerate(cells):
        if len(cell) <= 2 * MAX_ANSWER_CHARS:
            folded = _folded(cell)
            if folded not in known:
                known[folded] = _stands_in(folded, text)
            if known[folded]:
                used.append(place)
    return tuple(used)


def _folded(text: str) -> str:
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return _GROUPING_COMMA.sub("", plain)


def _stands_in(cell: str, text: str) -> bool:
    if not any(map(str.isalnum, cell)):
        return False
    place = text.find(cell)
    while place >= 0:
        if _is_whole(cell, text, place):
            return True
        place = text.find(cell, place + 1)
    return False


def _is_whole(cell: str, text: str, place: int) -> bool:
    before = text[max(0, place - _LOOK_BACK_CHARS) : place]
    end = place + len(cell)
    if len(cell) == 1:
        return bool(_BEFORE_SHORT.search(before) and _BEHIND_SHORT.match(text, end))
    if cell[0].isdigit() and _BEFORE_NUMBER.search(before):
        return False
    if cell[0].isalnum() and _WORD_AT_END.search(before):
        return False
    if not cell[-1].isalnum():
        return True
    return (_BEHIND_NUMBER if cell[-1].isdigit() else _BEHIND_WORD).match(text, end) is not None
