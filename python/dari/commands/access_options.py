"""What the command line is told of token and TLS: files and variables, read when a command connects.

There is no option for a token itself: a command line shows in `ps`, and stays in the history of the shell.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dari.client import Access

TOKEN_VARIABLE = "DARI_TOKEN"  # noqa: S105 - its name


@dataclass(frozen=True, slots=True)
class AccessOptions:
    """Where token and certificates are."""

    token_file: Path | None = None
    """Holds a token alone. Default: the token is in DARI_TOKEN, if there is one."""
    tls: bool = False
    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def read(self) -> "Access":
        """Raises OSError where a file cannot be read, ValueError where certificate and key do not come together."""
        from dari.client import Access

        token = os.environ.get(TOKEN_VARIABLE, "") if self.token_file is None else self.token_file.read_text()
        return Access(
            token=token.strip(),
            tls=self.tls,
            authorities=_bytes(self.authorities),
            certificate=_bytes(self.certificate),
            key=_bytes(self.key),
        )


def _bytes(path: Path | None) -> bytes | None:
    return path.read_bytes() if path is not None else None
