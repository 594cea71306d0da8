"""Fixtures every test file may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; the test is skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FEAT_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}: set FEAT_SHARED_DATA")
    return folder
