"""The models that the tests of this folder share: real ones, fetched once, and a tiny file for the fake engine."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dari.adapters.local_model.model_files import ModelFile, add_default_model, add_model_for_ctransformers
from dari.adapters.local_model.process import LocalModel
from tests.adapters.local_model.fakes import StartModel, fake_model
from tests.support.event_log import RecordedEvents

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """Where real models are kept between runs: `DARI_TEST_MODEL_DIR`, or `.dari/models` in the repository."""
    return Path(os.environ.get("DARI_TEST_MODEL_DIR", REPOSITORY / ".dari" / "models")).absolute()


@pytest.fixture(scope="session")
def default_model(model_dir: Path) -> ModelFile:
    return add_default_model(model_dir)


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
