"""Makes resource ids of names that people gave: readable, ASCII, each one once.

The rule, in order:

1. Hangul syllables are written in Latin letters, letter by letter as the Revised Romanization has them, without the
   changes of sound between syllables: 고객 상담 → gogaek-sangdam.
2. Accents fall away (Café → cafe), letters become small, and whatever else is not a-z or 0-9 becomes one '-'.
3. What is empty then, or begins with a digit, gets the kind of the resource before it: kb-2024, kb-1.
4. It is cut to 63 characters; one that is taken already gets -2, -3 and so on.
"""

import re
import unicodedata

_MAX_ID_CHARS = 63
_FIRST_SYLLABLE, _LAST_SYLLABLE = 0xAC00, 0xD7A3
_INITIALS = ["g", "kk", "n", "d", "tt", "r", "m", "b", "pp", "s", "ss", "-", "j", "jj", "ch", "k", "t", "p", "h"]
_VOWELS = [
    "a",
    "ae",
    "ya",
    "yae",
    "eo",
    "e",
    "yeo",
    "ye",
    "o",
    "wa",
    "wae",
    "oe",
    "yo",
    "u",
    "wo",
    "we",
    "wi",
    "yu",
    "eu",
    "ui",
    "i",
]
_FINALS = [
    "-",
    "k",
    "k",
    "ks",
    "n",
    "nj",
    "nh",
    "t",
    "l",
    "lk",
    "lm",
    "lb",
    "ls",
    "lt",
    "lp",
    "lh",
    "m",
    "p",
    "ps",
    "t",
    "t",
    "ng",
    "t",
    "t",
    "k",
    "t",
    "p",
    "t",
]
"""Finals as they sound at the end of a word; '-' is none."""


class ReadableIds:
    """Gives ids for the resources of one kind. Not thread-safe."""

    def __init__(self, prefix: str) -> None:
        """`prefix` stands before what would not begin with a letter: model, chat, kb."""
        self._prefix = prefix
        self._taken: set[str] = set()

    def id_for(self, name: str) -> str:
        """An id that was not given before; the same names in the same order give the same ids."""
        wanted = readable(name)
        if not wanted or wanted[0].isdigit():
            wanted = f"{self._prefix}-{wanted or 1}"
        wanted = wanted[:_MAX_ID_CHARS].rstrip("-")
        id, number = wanted, 1
        while id in self._taken:
            number += 1
            id = f"{wanted[: _MAX_ID_CHARS - len(str(number)) - 1].rstrip('-')}-{number}"
        self._taken.add(id)
        return id


def readable(name: str) -> str:
    """The name in a-z, 0-9 and '-'; empty where nothing of it can be written so."""
    latin = "".join(map(_latin, unicodedata.normalize("NFKC", name)))
    plain = unicodedata.normalize("NFKD", latin).encode("ascii", "ignore").decode()
    # One '-' between words: "It's" is one word, as its letters say.
    return re.sub(r"[^a-z0-9]+", "-", plain.lower().replace("'", "")).strip("-")


def _latin(char: str) -> str:
    if not _FIRST_SYLLABLE <= ord(char) <= _LAST_SYLLABLE:
        # What has no letters of ASCII still parts the words beside it.
        return char if unicodedata.normalize("NFKD", char)[0].isascii() else " "
    rest, final = divmod(ord(char) - _FIRST_SYLLABLE, len(_FINALS))
    initial, vowel = divmod(rest, len(_VOWELS))
    return f"{_INITIALS[initial]}{_VOWELS[vowel]}{_FINALS[final]}".replace("-", "")
