"""Which files a command line means: from paths, folders, glob patterns and URIs to what is sent, in order."""

import fnmatch
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NoReturn

from dari.client import SourceUnreadable
from dari.client.source import is_http, name_of, path_of, remote_files

STDIN = "-"

DEFAULT_PATTERNS = tuple(f"*.{kind}{packed}" for kind in ("csv", "tsv", "tab") for packed in ("", ".gz", ".zst"))
"""Files of a folder that are taken where no pattern is given. Which of them are packed is told by their bytes."""

InputFile = str | Path
"""`-` for stdin, a URI, or a path."""


def input_files(arguments: Sequence[str], patterns: Sequence[str], note: Callable[[str], None]) -> list[InputFile]:
    """All files, those of a folder in the order of their paths.

    `patterns` choose among the files of folders, by name, capitals or not; `note` is told how many they leave out. What
    begins with a dot is left out, unless it is named. Raises OSError where a file or folder is not there, and
    SourceUnreadable where a folder or pattern has no file.
    """
    return [file for argument in arguments for file in _expanded(argument, patterns or DEFAULT_PATTERNS, note)]


def shown_name(file: InputFile) -> str:
    """How a file is called in messages; keys that a URI may hold are left out."""
    return "stdin" if file == STDIN else name_of(file)


def _expanded(argument: str, patterns: Sequence[str], note: Callable[[str], None]) -> list[InputFile]:
    if argument == STDIN or is_http(argument):
        return [argument]
    path = path_of(argument)
    if path is None:
        return list(_remote(argument, patterns, note))
    if path.is_dir():
        return _in_folder(path, patterns, note)
    if path.exists() or not glob.has_magic(argument):
        path.stat()  # raises for what is not there, before anything is sent
        return [path]
    found: list[InputFile] = []
    for match in sorted(_matches(path)):
        found += _in_folder(match, patterns, note) if match.is_dir() else [match]
    return found or _refuse_pattern(argument)


def _remote(uri: str, patterns: Sequence[str], note: Callable[[str], None]) -> list[str]:
    files = remote_files(uri)
    if files == [uri]:
        return files
    if glob.has_magic(uri):
        return files or _refuse_pattern(uri)
    return _chosen(name_of(uri), files, patterns, note)


def _refuse_pattern(pattern: str) -> NoReturn:
    raise SourceUnreadable(f"{name_of(pattern)}: no file has such a name")


def _matches(pattern: Path) -> Iterator[Path]:
    """What fits a pattern, of which `**` is any folders. As in a shell, names with a dot in front fit none."""
    relative = pattern.relative_to(pattern.anchor) if pattern.anchor else pattern
    for match in Path(pattern.anchor).glob(str(relative)):
        below = match.relative_to(pattern.anchor) if pattern.anchor else match
        if not any(part.startswith(".") and part not in relative.parts for part in below.parts):
            yield match


def _in_folder(folder: Path, patterns: Sequence[str], note: Callable[[str], None]) -> list[InputFile]:
    chosen = _chosen(str(folder), [str(path.relative_to(folder)) for path in _below(folder)], patterns, note)
    return [folder / name for name in chosen]


def _chosen(folder: str, names: list[str], patterns: Sequence[str], note: Callable[[str], None]) -> list[str]:
    """Those whose last part fits a pattern."""
    chosen = [
        name
        for name in names
        if any(fnmatch.fnmatchcase(PurePosixPath(name).name.lower(), pattern.lower()) for pattern in patterns)
    ]
    if not chosen:
        raise SourceUnreadable(f"{folder}: none of its {len(names):,} files fits {' '.join(patterns)}; see --pattern")
    if len(chosen) < len(names):
        note(f"{folder}: files left out for their names: {len(names) - len(chosen):,}; see --pattern")
    return chosen


def _below(folder: Path) -> Iterator[Path]:
    """The files of a folder and of its folders, in the order of their paths; links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))
