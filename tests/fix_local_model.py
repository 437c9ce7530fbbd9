"""The real local model, fetched once and kept between runs."""

import os
from pathlib import Path

import pytest

from dari.adapters.local_model.model_files import ModelFile, add_default_model

_REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """Where real models are kept between runs: `DARI_TEST_MODEL_DIR`, or `.dari/models` in the repository."""
    return Path(os.environ.get("DARI_TEST_MODEL_DIR", _REPOSITORY / ".dari" / "models")).absolute()


@pytest.fixture(scope="session")
def default_model(model_dir: Path) -> ModelFile:
    """The model that dari runs where nobody chose another."""
    return add_default_model(model_dir)
