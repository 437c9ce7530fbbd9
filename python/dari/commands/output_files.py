"""Writes what a command gives to a file, whole or not at all, or to stdout."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from dari.commands.exit_codes import ExitCode
from dari.commands.terminal import Terminal


def save_to(terminal: Terminal, output: Path | None, save: Callable[[Path | BinaryIO], int]) -> ExitCode:
    """Have `save` write to a file and say how large it is; to stdout where `output` is None.

    NO_OUTPUT where the file cannot be written. A reader of stdout that goes away is BrokenPipeError, as everywhere.
    """
    if output is None:
        save(sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return ExitCode.OK
    try:
        size_bytes = save(output)
    except OSError as error:
        terminal.note(f"{output}: {error.strerror or error}")
        return ExitCode.NO_OUTPUT
    if terminal.as_json:
        terminal.json_line({"output": str(output), "sizeBytes": str(size_bytes)})
    else:
        terminal.note(f"{output}: {size_bytes:,} bytes")
    return ExitCode.OK
