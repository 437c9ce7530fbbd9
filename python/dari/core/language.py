"""The languages that dari speaks to people, and the one that a text is in."""

import re
from enum import Enum


class Language(Enum):
    """By its ISO 639 code."""

    KOREAN = "ko"
    ENGLISH = "en"


def language_of(text: str) -> Language:
    """Korean where it has any Hangul, English otherwise: a Korean question may name a product in Latin letters."""
    return Language.KOREAN if _HANGUL.search(text) else Language.ENGLISH


_HANGUL = re.compile("[\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3]")
"""Letters that are to be joined (as macOS writes file names), letters alone, and whole syllables."""
