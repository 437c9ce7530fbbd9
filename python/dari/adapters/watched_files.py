"""Keeps in memory what some files say, and reads them again when they change."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Self, TypeVar

from dari.core.event_log import EventLog

Content = TypeVar("Content")
Read = Callable[[Sequence[bytes]], Content]
"""Makes content of the bytes of each file, or raises UnusableFile."""


class UnusableFile(Exception):
    """A file cannot be read, or does not say what it must. The text is for people, and holds nothing of the file's."""


class WatchedFiles(Generic[Content]):
    """The content of one or several files that belong together. Use in a `with` statement, which has the thread.

    A thread compares what stat(2) tells (it follows links, as orchestrators swap a folder of secrets by one) and never
    a caller's: `current` is a look at memory. Files that turn unusable leave the former content in place, and are
    logged; an overwrite that was read half done is read again, since its end changes what stat tells.
    """

    def __init__(
        self,
        setting: str,
        paths: Sequence[Path],
        read: Read[Content],
        log: EventLog,
        check_interval_s: float,
    ) -> None:
        """Reads at once, and raises UnusableFile. `setting` names the files in the log."""
        self._setting = setting
        self._paths = tuple(paths)
        self._read = read
        self._log = log
        self._check_interval_s = check_interval_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"watch-{setting}", daemon=True)
        self._seen = self._look()
        self._current = self._load()  # Replaced as a whole, by the thread alone: reading it needs no lock.

    @property
    def current(self) -> Content:
        """What the files said when they were last usable."""
        return self._current

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(self._check_interval_s):
            seen = self._look()
            if seen != self._seen:
                self._seen = seen
                self._load_again()

    def _load_again(self) -> None:
        try:
            self._current = self._load()
        except UnusableFile as error:
            self._log.error("file_not_reloaded", setting=self._setting, problem=str(error))
        else:
            self._log.info("file_reloaded", setting=self._setting)

    def _look(self) -> tuple[object, ...]:
        return tuple(_signature(path) for path in self._paths)

    def _load(self) -> Content:
        try:
            return self._read([path.read_bytes() for path in self._paths])
        except OSError as error:
            raise UnusableFile(f"{self._setting}: a file cannot be read ({type(error).__name__})") from error


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns
