"""What the files in docker/ give a container, read as its settings."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dari.commands.serve import EXIT_GRACE_S
from dari.server import Server
from dari.settings import TOOL_VARIABLES, Settings, load_settings

DOCKER = Path(__file__).parents[2] / "docker"


def made_secrets(folder: Path) -> dict[str, Path]:
    """What docker/make_secrets.py writes, by the file's name."""
    spec = importlib.util.spec_from_file_location("make_secrets", DOCKER / "make_secrets.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.write(folder), "nothing was there, so that all of it is written"
    assert module.write(folder) == [], "what is there stays"
    return {file.name: file for file in folder.iterdir()}


def settings_of(
    environment: Mapping[str, str], mounted: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """The settings of a container with this environment, whose paths of secrets are those of `mounted`.

    Without the container's other variables: those are the machine's own.
    """
    unknown = {name.removeprefix("DARI_").lower() for name in environment if name not in TOOL_VARIABLES}
    assert unknown <= set(Settings.model_fields)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(mounted.get(value, value)))
    return load_settings()


def longest_stop_s(settings: Settings) -> float:
    """From SIGTERM to the end of the process, whatever hangs."""
    return Server(settings).longest_stop_s(settings.stop_delay_s) + EXIT_GRACE_S


def seconds(span: str) -> float:
    """Of a span as compose writes it."""
    assert span.endswith("s")
    return float(span.removesuffix("s"))


def port_of(address: Any) -> int:
    return int(str(address).rpartition(":")[2])
