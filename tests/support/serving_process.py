"""`dari serve` as a process of its own, to be killed, frozen and measured; and several of them behind one address."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.fix_postgres import PostgresDsns
from tests.fix_server import settings_for
from tests.support.fault_proxy import FaultProxy

MIB = 1024 * 1024
_LAST_CHARACTERS = 1_000


class ServingProcess:
    """A server over a test's database. Use in a `with` statement. After a kill it starts on the same address."""

    def __init__(
        self,
        database: PostgresDsns,
        data_dir: Path,
        program: tuple[str, ...] = ("-m", "dari"),
        log_file: Path | None = None,
        **settings: Any,
    ) -> None:
        """`program` are the arguments that make Python a dari. Its log goes to `log_file`, or to where ours goes.

        `settings` win over those of all tests; None leaves one as it is where nobody sets it.
        """
        self._program = program
        self._log_file = log_file
        self._settings = {**settings_for(database, data_dir), "local_model": "", **settings}
        self._process: subprocess.Popen[str] | None = None
        self.address = ""
        self.admin_address = ""
        """Where its health is served; the same after a restart."""
        self.metrics_address = ""
        """Where its metrics are, where the settings want any."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Id of the process that runs now."""
        assert self._process is not None
        return self._process.pid

    @property
    def target(self) -> tuple[str, int]:
        """The address as a proxy wants it."""
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    def start(self) -> None:
        """Return when it serves."""
        self.begin()
        self.wait_until_serving()

    def begin(self) -> None:
        """Start the process, and wait for nothing."""
        chosen = dict(self._settings)
        if self.address:
            chosen |= {"listen_address": self.address, "admin_address": self.admin_address}
        with ExitStack() as opened:
            self._process = subprocess.Popen(
                [sys.executable, *self._program, "--json", "serve"],
                env=environment(
                    **{f"DARI_{name.upper()}": str(value) for name, value in chosen.items() if value is not None}
                ),
                stdout=subprocess.PIPE,
                stderr=opened.enter_context(self._log_file.open("a")) if self._log_file is not None else None,
                text=True,
            )

    def wait_until_serving(self) -> None:
        """Behind `begin`."""
        assert self._process is not None
        assert self._process.stdout is not None
        told = self._process.stdout.readline()
        logged = self._log_file.read_text()[-_LAST_CHARACTERS:] if self._log_file is not None else ""
        assert told, f"the server did not start; its reason stands in the captured output {logged}"
        addresses = json.loads(told)
        self.address, self.admin_address = addresses["address"], addresses["adminAddress"]
        self.metrics_address = addresses["metricsAddress"]

    def wait_for_end(self, timeout_s: float) -> int:
        """The exit code of a process that ends by itself."""
        assert self._process is not None
        code = self._process.wait(timeout_s)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def kill(self) -> None:
        """SIGKILL, frozen or not, and wait for the end."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def restart(self) -> None:
        self.kill()
        self.start()

    def signal_another_thread(self, number: signal.Signals) -> None:
        """As if any thread but the main one took the signal, as the kernel may choose."""
        assert self._process is not None
        pid = self._process.pid
        other = next(task for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid))
        assert ctypes.CDLL(None, use_errno=True).tgkill(pid, int(other.name), number) == 0, os.strerror(
            ctypes.get_errno()
        )

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def is_alive(self) -> bool:
        assert self._process is not None
        return self._process.poll() is None

    def resident_bytes(self) -> int:
        """Its memory now."""
        return self._status_bytes("VmRSS")

    def peak_bytes(self) -> int:
        """The most memory that it had since `forget_peak`."""
        return self._status_bytes("VmHWM")

    def forget_peak(self) -> None:
        """Let the peak begin anew at the memory of now: proc_pid_clear_refs(5)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status_bytes(self, name: str) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith(f"{name}:"))
        return int(line.split()[1]) * 1024


class Replicas:
    """Several servers over one database behind one address, one of which serves. Use in a `with` statement.

    `kill` ends the one that serves; the next takes its place at once, and the killed one starts again meanwhile.
    """

    def __init__(self, database: PostgresDsns, data_dir: Path, count: int = 2, **settings: Any) -> None:
        self._servers = [ServingProcess(database, data_dir / str(number), **settings) for number in range(count)]
        self._restarts: list[threading.Thread | None] = [None] * count
        self._serving = 0
        self._opened = ExitStack()
        self.kills = 0

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            for server in self._servers:
                opened.enter_context(server)
            self.gateway = opened.enter_context(FaultProxy(self._servers[0].target))
            self.address = self.gateway.address
            opened.callback(self._join)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.close()

    def kill(self) -> None:
        """SIGKILL the one that serves. One thread at a time."""
        killed = self._serving
        self._serving = (killed + 1) % len(self._servers)
        self._servers[killed].kill()
        self.kills += 1
        restart = threading.Thread(target=self._servers[killed].start, name="restart")
        restart.start()
        self._restarts[killed] = restart
        self._join(self._serving)
        self.gateway.redirect(self._servers[self._serving].target)

    def _join(self, number: int | None = None) -> None:
        for restart in self._restarts if number is None else [self._restarts[number]]:
            if restart is not None:
                restart.join()


def environment(**variables: str) -> dict[str, str]:
    """That of this process with these variables, and none of dari's beside them."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("DARI_")}, **variables}
