"""Fixtures for callers of dari: a fake server, a client of it, a store of files, a terminal without surprises."""

from collections.abc import Iterator
from typing import Any

import fsspec
import pytest

from dari.client import Client
from dari.settings import TOOL_VARIABLES
from tests.support.fake_dari import FakeDari


@pytest.fixture
def dari() -> Iterator[FakeDari]:
    with FakeDari() as fake:
        yield fake


@pytest.fixture
def client(dari: FakeDari) -> Iterator[Client]:
    with Client(dari.address) as opened:
        yield opened


@pytest.fixture
def store() -> Iterator[Any]:
    """The file system in memory that fsspec has, emptied afterwards."""
    file_system = fsspec.filesystem("memory")
    yield file_system
    file_system.store.clear()
    file_system.pseudo_dirs[:] = [""]


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fetched from this machine does not go through the proxy that it may have."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are not folded, and no variable of the machine takes part."""
    monkeypatch.setenv("COLUMNS", "200")
    for name in (*TOOL_VARIABLES, "DARI_ADMIN_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
