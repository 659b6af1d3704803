"""What a process of its own takes, and what it says when it cannot."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from boxwright.checkpoint import load_detector, save_detector
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import FastRCNNConfig
from boxwright.measure import footprint as measuring
from boxwright.measure.footprint import footprint
from boxwright.proposals import CachedProposer, SlidingWindow

CONFIG = FastRCNNConfig("mobilenet_v3_small", channels=16, proposer="sliding_window", proposals=20, hidden=16)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    save_detector(path, CONFIG.build(2), CONFIG, ("a", "b"), Preprocess(short=64, long=96))
    return path


@pytest.fixture(scope="module")
def make_images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{number} of two.png" for number in (1, 2)]
    for path in paths:
        PIL.Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path)
    return paths


def test_a_process_says_what_it_took(checkpoint: Path, make_images: list[Path]):
    started = time.perf_counter()
    found = footprint(checkpoint, make_images)
    passed = time.perf_counter() - started
    assert 0 < found.first < passed
    assert found.device_memory is None
    if os.name == "posix":
        assert found.memory is not None and 2**26 < found.memory < 2**32  # torch alone is more than 64 MB


def test_what_went_wrong_is_the_last_that_it_said(tmp_path: Path, make_images: list[Path]):
    with pytest.raises(RuntimeError, match=r"nothing.safetensors failed in a process of its own: .*no such file"):
        footprint(tmp_path / "nothing.safetensors", make_images)


def test_a_process_that_takes_too_long_is_ended(checkpoint: Path, make_images: list[Path]):
    with pytest.raises(TimeoutError, match=r"best.safetensors took more than 0.01 s for 2 images"):
        footprint(checkpoint, make_images, timeout=0.01)


def test_one_image_at_least(checkpoint: Path):
    with pytest.raises(ValueError, match="one image at least"):
        footprint(checkpoint, [])


def test_proposals_are_those_of_new_images(
    checkpoint: Path, make_images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Nothing is looked up on disk, and nothing left there."""
    loaded = load_detector(checkpoint)
    loaded.detector.propose = CachedProposer(SlidingWindow(count=5), tmp_path / "cache")
    monkeypatch.setattr(measuring, "load_detector", lambda *_: loaded)
    found = measuring._measure(checkpoint, torch.device("cpu"), time.time() - 100, make_images)
    assert 100 < found.first < 200
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says what is in memory now")
def test_the_peak_memory_is_no_less_than_what_is_in_use():
    held = np.ones(2**24)  # 128 MB
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    peak = measuring.peak_memory()
    assert peak is not None and peak >= pages * os.sysconf("SC_PAGE_SIZE") >= held.nbytes
