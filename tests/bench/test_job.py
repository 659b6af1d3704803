"""The files of a job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from boxwright.bench.run.job import load_detections, save_detections
from boxwright.types import Detections


def test_damaged_detections_are_named(tmp_path: Path) -> None:
    found = Detections(torch.ones(2, 4), torch.ones(2), torch.zeros(2, dtype=torch.int64))
    path = tmp_path / "test.npz"
    save_detections(path, [found, found[:0]])
    assert [len(image) for image in load_detections(path)] == [2, 0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"test\.npz \(\d+ bytes\) is not a whole archive of numpy"):
        load_detections(path)
    np.savez(path, boxes=np.ones((2, 4)), scores=np.ones(2), labels=np.zeros(2), counts=np.array([3]))
    with pytest.raises(ValueError, match=r"test\.npz has other counts than detections"):
        load_detections(path)
