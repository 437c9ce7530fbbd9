"""Reads `accept-language`: RFC 9110, section 12.5.4, with the language ranges of RFC 4647."""

import re
from collections.abc import Iterator

from dari.core.language import Language

_RANGE = re.compile(
    r"[ \t]*(?P<primary>[A-Za-z]{1,8})(?:-[A-Za-z0-9]{1,8})*"
    r"(?:[ \t]*;[ \t]*[qQ]=(?P<weight>0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?[ \t]*"
)


def preferred_language(accept_language: str) -> Language | None:
    """The known language of the highest weight, of equal ones the first; None where none is known.

    `ko-KR` is Korean. What is malformed is passed over, and so is `*`: what is meant by it, the question tells better.
    """
    best = max(_known(accept_language), key=lambda known: known[0], default=None)
    return best[1] if best else None


def _known(accept_language: str) -> Iterator[tuple[float, Language]]:
    for element in accept_language.split(","):
        found = _RANGE.fullmatch(element)
        if found is None:
            continue
        weight = float(found["weight"] or 1)
        if weight and (language := _LANGUAGES.get(found["primary"].lower())):
            yield weight, language


_LANGUAGES = {language.value: language for language in Language}
