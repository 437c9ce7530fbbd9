"""How many tokens a text may cost a model: an upper estimate that needs no tokenizer.

A byte-level vocabulary spends one token on a byte at most, and that is what scripts cost which it hardly knows. Only
runs of Latin letters are surely cheaper. Measured with the vocabulary of SmolLM2 (49,152 entries, made for English;
larger ones only spend less), in tokens a character: English prose 0.20, foreign names 0.37, random lower case 0.60,
random upper case 0.68, digits and dates 1.00, Korean tables 2.23, random Hangul 2.98, random Han 2.68. So a letter
behind another of its case counts 0.6 or 0.7, and everything else its bytes in UTF-8: Hangul and Han 3.
"""

import math
import re

_LOWER_RUN = re.compile(r"[a-z]{2,}")
_UPPER_RUN = re.compile(r"[A-Z]{2,}")
_BLANK_BEFORE_WORD = re.compile(r" (?=[A-Za-z])")
_LOWER_SAVED, _UPPER_SAVED, _BLANK_SAVED = 0.4, 0.3, 0.6
"""What such a character costs less than a token."""


def most_tokens(text: str) -> int:
    """How many tokens the text costs at most."""
    saved = (
        _LOWER_SAVED * _length_behind_first(_LOWER_RUN, text)
        + _UPPER_SAVED * _length_behind_first(_UPPER_RUN, text)
        + _BLANK_SAVED * len(_BLANK_BEFORE_WORD.findall(text))
    )
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) - saved)


def likely_tokens(text: str) -> int:
    """How many tokens the text costs by a rule of thumb, for counting and not for fitting.

    Four characters of ASCII a token, and one of any other script. A small vocabulary spends more (see above).
    """
    others = 0 if text.isascii() else sum(character > "\x7f" for character in text)
    return math.ceil((len(text) - others) / 4) + others


def cut_to_tokens(text: str, tokens: int) -> str:
    """The text, or as much of its beginning as costs no more than so many tokens with an ellipsis; "" of none."""
    if most_tokens(text) <= tokens:
        return text
    shortest, longest = 0, min(len(text), 2 * max(0, tokens))
    while shortest < longest:
        middle = (shortest + longest + 1) // 2
        if most_tokens(text[:middle] + "…") <= tokens:
            shortest = middle
        else:
            longest = middle - 1
    return text[:shortest] + "…" if shortest else ""


def _length_behind_first(run: re.Pattern[str], text: str) -> int:
    return sum(len(found) - 1 for found in run.findall(text))
