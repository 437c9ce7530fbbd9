"""The faults that each neighbour of dari can have: of real processes, killed, frozen and started again."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial

import psutil

from dari.adapters.postgres.embedded import EmbeddedPostgres
from tests.storm.flowise_process import FlowiseProcess, Mood
from tests.storm.weather import Fault
from tests.support.waiting import until

_LOADS_WITHIN_S = 60.0
"""How long the local model may take until it is there again, before the storm fails."""


def flowise_faults(flowise: FlowiseProcess) -> dict[str, Fault]:
    """It is killed or frozen, or its model is in some mood."""

    @contextmanager
    def killed() -> Iterator[None]:
        flowise.kill()
        try:
            yield
        finally:
            flowise.start()

    @contextmanager
    def of_model(mood: Mood) -> Iterator[None]:
        flowise.feel(mood)
        try:
            yield
        finally:
            flowise.feel(Mood.WELL)

    moods: dict[str, Fault] = {f"model {mood.value}": partial(of_model, mood) for mood in Mood if mood is not Mood.WELL}
    return {"killed": killed, "frozen": lambda: _frozen([flowise.process.pid]), **moods}


def local_faults(server_pid: Callable[[], int]) -> dict[str, Fault]:
    """The child process of this server is killed or frozen; the server itself brings it back."""

    @contextmanager
    def killed() -> Iterator[None]:
        child = local_child(server_pid())
        if child is not None:
            child.kill()
        yield
        until(lambda: local_child(server_pid()) not in (None, child), _LOADS_WITHIN_S)

    def frozen() -> AbstractContextManager[None]:
        child = local_child(server_pid())
        return _frozen([child.pid] if child is not None else [])

    return {"killed": killed, "frozen": frozen}


def postgres_faults(postgres: EmbeddedPostgres) -> dict[str, Fault]:
    """The server is killed as a whole, restarted by its operator, or frozen with all its sessions."""

    @contextmanager
    def stopped(number: signal.Signals) -> Iterator[None]:
        os.kill(postgres.pid, number)
        try:
            yield
        finally:
            postgres.stop()
            postgres.start()

    def frozen() -> AbstractContextManager[None]:
        server = psutil.Process(postgres.pid)
        # The server first: it makes no more sessions then.
        server.suspend()
        return _frozen([server.pid, *(session.pid for session in server.children(recursive=True))])

    return {
        "killed": partial(stopped, signal.SIGKILL),
        "restarted": partial(stopped, signal.SIGINT),
        "frozen": frozen,
    }


def local_child(server_pid: int) -> psutil.Process | None:
    """The process of the server's local model, while there is one."""
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(server_pid).children():
            with suppress(psutil.NoSuchProcess):
                if any("local_model" in argument for argument in process.cmdline()):
                    return process
    return None


@contextmanager
def _frozen(pids: Sequence[int]) -> Iterator[None]:
    _signal_all(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal_all(pids, signal.SIGCONT)


def _signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
