"""The models that the tests of this folder share beside the default one, and a tiny file for the fake engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dari.adapters.local_model.model_files import ModelFile, add_model_for_ctransformers
from dari.adapters.local_model.process import LocalModel
from tests.adapters.local_model.fakes import StartModel, fake_model
from tests.support.event_log import RecordedEvents


@pytest.fixture(scope="session")
def ctransformers_model(model_dir: Path, default_model: ModelFile) -> ModelFile:
    return add_model_for_ctransformers(model_dir, default_model.id)


@pytest.fixture
def small_file(tmp_path: Path) -> ModelFile:
    return fake_model(tmp_path)


@pytest.fixture
def start() -> Iterator[StartModel]:
    """Start models that are closed when the test ends."""
    models: list[LocalModel] = []

    def start_one(file: ModelFile, **arguments: object) -> LocalModel:
        models.append(LocalModel(file, RecordedEvents(), niceness=0, **arguments).start())  # type: ignore[arg-type]
        return models[-1]

    yield start_one
    for model in models:
        model.close()
