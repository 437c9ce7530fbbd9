"""Runs `bench.chat_flowise` as a process that can be killed, and comes back on the same port."""

import json
import signal
import subprocess
import sys
import urllib.request
from typing import Self


class FlowiseProcess:
    """The stand-in. Use in a `with` statement."""

    def __init__(self) -> None:
        self._port = 0
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None
        return self._process.pid

    def url(self, *, tokens: int, gap_ms: int) -> str:
        """The base URL under which it answers so."""
        return f"{self._root}/{tokens}-tokens/{gap_ms}-ms"

    @property
    def silent_url(self) -> str:
        """The base URL under which it never says a word."""
        return f"{self._root}/silent"

    def start(self) -> None:
        """Return when it listens."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.chat_flowise", str(self._port)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """From now on connections are refused."""
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def signal(self, number: signal.Signals) -> None:
        """Freeze it, or let it go on."""
        assert self._process is not None
        self._process.send_signal(number)

    def hang_ups(self) -> list[float]:
        """When connections were closed in the middle of an answer, by time.monotonic."""
        with urllib.request.urlopen(f"{self._root}/hang-ups") as answer:  # noqa: S310 - loopback
            times: list[float] = json.loads(answer.read())
            return times

    @property
    def _root(self) -> str:
        return f"http://127.0.0.1:{self._port}"
