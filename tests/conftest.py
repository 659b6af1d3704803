"""What all tests share: where the real data is, and as many threads as a small machine has to spare."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder shared/: $BOXWRIGHT_SHARED, or beside the checkout. It need not exist."""
    return Path(os.environ.get("BOXWRIGHT_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared_data(shared: Path) -> Path:
    """The folder shared/data; without it the test is skipped."""
    folder = shared / "data"
    if not folder.is_dir():
        pytest.skip(f"there is no real data at {folder}; BOXWRIGHT_SHARED names the folder that holds data/")
    return folder
