"""The program `dari` with a parser handed in that panics, at the bytes of MARKER or at the end of a file.

    python panicking_dari.py serve

PyO3 raises a panic as PanicException, which is a BaseException and no Exception; so is the one here. Everything else is
the product's.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import dari.adapters.native
from dari.cli import main
from dari.core.uploads import Batch, FileParser

MARKER = b"PANIC NOW"
MARKER_AT_END = b"PANIC AT THE END"
SECRET = "a row's content, which a panic's text may quote"


class PanicException(BaseException):
    """As PyO3's."""


class PanickingParser:
    """A FileParser in front of the real one."""

    def __init__(self, parser: FileParser) -> None:
        self._parser = parser
        self._ends_in_panic = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._parser, name)

    def feed(self, data: bytes) -> Sequence[Batch]:
        if MARKER in data:
            raise PanicException(SECRET)
        self._ends_in_panic |= MARKER_AT_END in data
        return self._parser.feed(data)

    def finish(self) -> Sequence[Batch]:
        if self._ends_in_panic:
            raise PanicException(SECRET)
        return self._parser.finish()


class PanickingParserFactory(dari.adapters.native.ParserFactory):
    """Makes such parsers, with the arguments of the real ones."""

    def __call__(self, *arguments: object) -> PanickingParser:  # type: ignore[override]
        return PanickingParser(super().__call__(*arguments))  # type: ignore[arg-type]


if __name__ == "__main__":
    # The server, which is imported by the command, finds this one in its place.
    dari.adapters.native.ParserFactory = PanickingParserFactory  # type: ignore[misc]
    main()
