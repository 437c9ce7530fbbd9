"""Where a command speaks: its result on stdout, everything else on stderr.

With `--json` a result is one JSON object, or one a line, in the canonical JSON of protobuf that grpcurl prints too
(lowerCamelCase, 64-bit integers as strings), and stdout holds nothing else.
"""

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from dari.client import CallFailed, Client
    from dari.commands.access_options import AccessOptions


class Terminal:
    """One run of a command: which server, and how to print."""

    def __init__(self, address: str | None, *, as_json: bool, access: "AccessOptions | None" = None) -> None:
        """`address` None means the default one, and tells `demo` to start a server of its own."""
        self.given_address = address
        self._access = access
        self.as_json = as_json
        # Markup and emoji codes are off: what is printed comes from files and models.
        self.out = Console(markup=False, emoji=False, highlight=False)
        self.err = Console(markup=False, emoji=False, highlight=False, stderr=True)

    @property
    def address(self) -> str:
        """HOST:PORT of the server."""
        from dari.client import DEFAULT_ADDRESS

        return self.given_address or DEFAULT_ADDRESS

    def connect(self, address: str | None = None) -> "Client":
        """A client of the server, or of one at another address; the caller closes it."""
        from dari.client import Client

        return Client(address or self.address, access=self._access.read() if self._access else None)

    def note(self, text: str) -> None:
        """Say something that is not the result."""
        self.err.print(clean(text), soft_wrap=True)

    def json_line(self, result: "Message | Mapping[str, Any]") -> None:
        """Print one result."""
        fields = result if isinstance(result, Mapping) else as_json(result)
        self.out.file.write(json.dumps(fields, ensure_ascii=False) + "\n")
        self.out.file.flush()

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
        """Print a table; None is shown as nothing, a rich Text as it is, and a table without rows in words."""
        rows = list(rows)
        if not rows:
            self.out.print(f"{clean(title)}: none" if title else "none")
            return
        table = Table(*columns, title=clean(title) if title else None, title_justify="left")
        for column in table.columns:
            column.overflow = "fold"
        for row in rows:
            table.add_row(
                *(cell if isinstance(cell, Text) else clean("" if cell is None else str(cell)) for cell in row)
            )
        self.out.print(table)

    def facts(self, facts: Iterable[tuple[str, object]], title: str | None = None) -> None:
        """Print names with their values."""
        if title:
            self.out.print(clean(title))
        grid = Table.grid(padding=(0, 2))
        grid.add_column()
        grid.add_column(overflow="fold")
        for name, value in facts:
            grid.add_row(f"  {name}", clean(str(value)))
        self.out.print(grid)

    def failure(self, failure: "CallFailed") -> None:
        """Say on stderr why a call failed."""
        if self.as_json:
            error = {
                "code": failure.code.name,
                "reason": failure.reason,
                "message": failure.message,
                "metadata": failure.metadata,
            }
            self.err.print(json.dumps({"error": error}, ensure_ascii=False), soft_wrap=True)
            return
        self.note(str(failure))
        for violation in failure.violations:
            self.note(f"  {violation.field}: {violation.description}")


def as_json(message: "Message") -> dict[str, Any]:
    """The message in protobuf's canonical JSON, fields without a value included."""
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, always_print_fields_with_no_presence=True)


def clean(text: str) -> str:
    """The text without control characters, which a terminal would obey; line ends and tabs stay."""
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) != "Cc")


def short_name(enum_name: str, prefix: str) -> str:
    """UPLOAD_MODE_REPLACE, UPLOAD_MODE_ → replace."""
    return enum_name.removeprefix(prefix).lower().replace("_", " ")


def resource_name(collection: str, name: str) -> str:
    """`sales` and `knowledgeBases/sales` are the same: people type ids."""
    return name if name.startswith(f"{collection}/") else f"{collection}/{name}"
