"""Replicas of dari over one database, and the real Envoy in front of them, on this machine."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.fix_postgres import PostgresDsns
from tests.support.envoy import Envoy
from tests.support.serving_process import ServingProcess


class Cluster:
    """Use in a `with` statement. `address` is where callers come in."""

    def __init__(
        self,
        database: PostgresDsns,
        folder: Path,
        *,
        count: int = 2,
        port: int = 0,
        program: tuple[str, ...] = ("-m", "dari"),
        **settings: Any,
    ) -> None:
        """`program` and `settings` are as ServingProcess takes them; the same for all."""
        self._folder = folder
        self._port = port
        self.replicas = [
            ServingProcess(database, folder / f"dari-{number}", program, folder / f"dari-{number}.log", **settings)
            for number in range(1, count + 1)
        ]
        self.address = ""
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            for replica in self.replicas:
                opened.enter_context(replica)
            addresses = [(replica.address, replica.admin_address) for replica in self.replicas]
            self.envoy = opened.enter_context(Envoy(addresses, self._folder / "envoy.log", port=self._port))
            self.address = self.envoy.address
            self.wait_until_whole()
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.close()

    def wait_until_whole(self) -> None:
        """Return when every replica gets calls."""
        self.envoy.wait_for_replicas({replica.address for replica in self.replicas})

    def logs(self) -> Iterator[Path]:
        """Files with all that was written to logs."""
        yield from self._folder.glob("*.log")
