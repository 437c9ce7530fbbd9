"""The model that the storms share, fetched once."""

import os
from pathlib import Path

import pytest

from dari.adapters.local_model.model_files import add_default_model

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """Where real models are kept between runs: `DARI_TEST_MODEL_DIR`, or `.dari/models` in the repository."""
    folder = Path(os.environ.get("DARI_TEST_MODEL_DIR", REPOSITORY / ".dari" / "models")).absolute()
    add_default_model(folder)
    return folder
