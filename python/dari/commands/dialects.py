"""How a file is written, in words for people and as options of `dari ingest`."""

import shlex

from dari.v1.ingest_pb2 import Dialect, Encoding

ENCODINGS: dict[str, "Encoding.ValueType"] = {
    "utf-8": Encoding.ENCODING_UTF_8,
    "utf-16le": Encoding.ENCODING_UTF_16LE,
    "utf-16be": Encoding.ENCODING_UTF_16BE,
    "cp949": Encoding.ENCODING_CP949,
    "shift-jis": Encoding.ENCODING_SHIFT_JIS,
    "gb18030": Encoding.ENCODING_GB18030,
    "windows-1252": Encoding.ENCODING_WINDOWS_1252,
}
"""What `--encoding` takes."""

_ENCODING_NAMES = {value: name for name, value in ENCODINGS.items()} | {Encoding.ENCODING_ASCII: "ascii"}

_WORDS = {"\t": "tab", " ": "blank"}
"""For characters that are hard to type, or to see."""


def character(typed: str) -> str:
    r"""A character as people type it: itself, its word, or `\t`."""
    return {word: sign for sign, word in _WORDS.items()}.get(typed, "\t" if typed == r"\t" else typed)


def codec(dialect: Dialect) -> str:
    """Python's name of the encoding; UTF-8 where it is not known."""
    return _ENCODING_NAMES.get(dialect.encoding, "utf-8")


def described(dialect: Dialect) -> str:
    """What is worth telling, such as `cp949, delimiter ;, quote ", 1 header row`."""
    return ", ".join(
        part
        for part in (
            _ENCODING_NAMES.get(dialect.encoding, ""),
            f"delimiter {_shown(dialect.delimiter)}" if dialect.delimiter else "",
            "no quotes" if dialect.quote == "none" else f"quote {_shown(dialect.quote)}" if dialect.quote else "",
            f"escape {dialect.escape}" if dialect.escape not in ("", "none") else "",
            f"comments behind {dialect.comment}" if dialect.comment not in ("", "none") else "",
            "blanks around cells dropped" if dialect.trims_blanks else "",
            _number(dialect.preamble_lines, "line before the header", "lines before the header"),
            _number(dialect.header_rows, "header row", "header rows") or "no header",
        )
        if part
    )


def options_of(dialect: Dialect, *, unlike: Dialect) -> str:
    """The options of `dari ingest` that choose this dialect where it is unlike another one."""
    options = {
        "delimiter": ("--delimiter", _shown(dialect.delimiter)),
        "quote": ("--quote", dialect.quote),
        "escape": ("--escape", dialect.escape),
        "comment": ("--comment", dialect.comment),
        "trims_blanks": ("--trim-blanks",) if dialect.trims_blanks else ("--no-trim-blanks",),
        "preamble_lines": ("--preamble-lines", str(dialect.preamble_lines)),
        "header_rows": ("--header-rows", str(dialect.header_rows)),
        # ASCII is an answer only; as a hint it is UTF-8.
        "encoding": ("--encoding", next((name for name in ENCODINGS if ENCODINGS[name] == dialect.encoding), "utf-8")),
    }
    return " ".join(
        shlex.join(option) for field, option in options.items() if getattr(dialect, field) != getattr(unlike, field)
    )


def _shown(typed: str) -> str:
    return _WORDS.get(typed, typed)


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}" if count else ""
