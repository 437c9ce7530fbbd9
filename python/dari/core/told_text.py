"""Makes text that strangers wrote fit to stand in a prompt: one line, and nothing that a model could take for ours.

Cells, column names and descriptions all come from outside. The markers around data are made of angle brackets, rows
are numbered in square brackets, cells are parted by semicolons, and the markers of chat formats (`<|im_start|>`,
`[INST]`, `### System`) are made of the same: so none of these is left in such text, whatever character it was spelled
by. Invisible characters go, as they could hide text from people or tear apart what is looked for.
"""

import re
import unicodedata
from functools import lru_cache

_PLAIN = {"<": "(", ">": ")", "[": "(", "]": ")", ";": ",", "`": "'", "#": "#"}
"""What the characters of markers become; # stays, but not twice in a row."""
_OPENING = "‹«〈⟨《⟪❬❮❰≪˂ᐸ⦅〔【〖〚⟦❲"  # noqa: RUF001 - what looks alike is what is looked for
_CLOSING = "›»〉⟩》⟫❭❯❱≫˃ᐳ⦆〕】〗〛⟧❳"  # noqa: RUF001
_LOOK_ALIKES = {**dict.fromkeys(_OPENING, "("), **dict.fromkeys(_CLOSING, ")")}
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_NO_EQUALS = str.maketrans("=\uff1d", "::")
_RULE = re.compile(r"#{2,}|([-=*_~|'])\1{2,}")
"""A heading in Markdown, and the lines and fences that part texts."""


def cut(text: str, most_chars: int) -> str:
    """The text, or its beginning and an ellipsis: `most_chars` long at most."""
    return text if len(text) <= most_chars else text[: most_chars - 1] + "…"


def inline(text: str, most_chars: int) -> str:
    """The text as data in a prompt: in one line, without a marker of any kind, `most_chars` long at most."""
    text = text[: 2 * most_chars]
    plain = text.translate({ord(character): _plain(character) for character in set(text)})
    return cut(_RULE.sub(lambda rule: rule.group(0)[0], " ".join(plain.split())), most_chars)


def inline_name(text: str, most_chars: int) -> str:
    """The same for a column's name, behind which an equals sign begins the cell."""
    return inline(text, most_chars).translate(_NO_EQUALS)


@lru_cache(maxsize=4_096)  # A prompt has the same few hundred characters over and over.
def _plain(character: str) -> str:
    folded = unicodedata.normalize("NFKC", character)
    if character in _LOOK_ALIKES or folded in _LOOK_ALIKES:
        return _LOOK_ALIKES[character if character in _LOOK_ALIKES else folded]
    if any(part in _PLAIN for part in folded):
        return "".join(_PLAIN.get(part, part) for part in folded)
    if _is_invisible(character):
        return ""
    return " " if unicodedata.category(character) in ("Cc", "Zl", "Zp") else character


def _is_invisible(character: str) -> bool:
    """Format characters and lone surrogates, variation selectors, and fillers that look like nothing."""
    is_selector = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    return unicodedata.category(character) in ("Cf", "Cs") or is_selector or character in _INVISIBLE
