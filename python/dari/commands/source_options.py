"""The source of a knowledge base as options say it: one that is made, and one of which some parts change."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from dari.v1.mapping_pb2 import KnowledgeBase


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What was given; None and no key columns are not."""

    uri: str | None = None
    """Empty: there is to be no source."""
    every: str | None = None
    cron: str | None = None
    key_columns: tuple[str, ...] = ()
    key_secret: str | None = None
    max_shrink: float | None = None
    paused: bool | None = None

    @property
    def is_given(self) -> bool:
        """Whether there is anything to do."""
        return self != SourceOptions()

    def apply(self, base: "KnowledgeBase") -> None:
        """Change the source in a message, whose other parts stay. Raises BadParameter where there is none to change."""
        if self.uri == "":
            base.ClearField("source")
            return
        if self.uri is None and not base.HasField("source"):
            raise typer.BadParameter("a source has a URI: give --source")
        source = base.source
        source.uri = source.uri if self.uri is None else self.uri
        self._schedule(base)
        if self.key_columns:
            source.key_columns[:] = self.key_columns
        if self.key_secret is not None:
            source.credentials_secret = self.key_secret
        if self.max_shrink is not None:
            source.max_shrink_share = self.max_shrink
        if self.paused is not None:
            source.paused = self.paused

    def _schedule(self, base: "KnowledgeBase") -> None:
        """An interval takes the place of a cron line, and the other way round; an empty one leaves none."""
        if self.every is None and self.cron is None:
            return
        base.source.ClearField("interval")
        base.source.cron = self.cron or ""
        if self.every:
            base.source.interval.FromSeconds(_seconds(self.every))


def _seconds(text: str) -> int:
    unit = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}.get(text[-1])
    if unit is None or not (text[:-1].isascii() and text[:-1].isdecimal()):
        raise typer.BadParameter("must be a number with s, m, h or d, such as 15m", param_hint="--every")
    return int(text[:-1]) * unit
