"""Checkpoints rebuild their detector, and a write that fails leaves what was there."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from boxwright import checkpoint
from boxwright.checkpoint import CheckpointError, load_detector, save_detector
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import FasterRCNNConfig, RetinaNetConfig
from boxwright.detectors.config import name_of
from boxwright.types import Images

CONFIGS = [
    FasterRCNNConfig("mobilenet_v3_small", channels=16, proposals=20, hidden=16, aspect_ratios=(0.5, 2.0)),
    RetinaNetConfig("mobilenet_v3_small", channels=16, depth=1, frozen_stages=0),
]
NAMES = ("cat", "dög")
PREPROCESS = Preprocess(mode="letterbox", height=64, width=96)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_there_and_back(config: FasterRCNNConfig | RetinaNetConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = config.build(len(NAMES)).eval()
    save_detector(tmp_path / "a" / "b.safetensors", detector, config, NAMES, PREPROCESS, {"threshold": 0.25})
    loaded = load_detector(tmp_path / "a" / "b.safetensors")
    assert (loaded.config, loaded.names, loaded.preprocess) == (config, NAMES, PREPROCESS)
    assert loaded.metadata["threshold"] == 0.25
    assert not loaded.detector.training
    images = Images(torch.rand(1, 3, 64, 96) * 255, torch.tensor([[64, 96]]))
    with torch.inference_mode():
        ours, theirs = (d.slots(images) for d in (detector, loaded.detector))
    assert torch.equal(ours.boxes, theirs.boxes) and torch.equal(ours.scores, theirs.scores)


def test_half_precision_is_half_the_size_and_comes_back_whole(tmp_path: Path) -> None:
    detector = CONFIGS[1].build(2)
    for half in (False, True):
        save_detector(tmp_path / f"{half}.safetensors", detector, CONFIGS[1], NAMES, PREPROCESS, half=half)
    sizes = [(tmp_path / f"{half}.safetensors").stat().st_size for half in (False, True)]
    assert 0.45 < sizes[1] / sizes[0] < 0.55
    weights = load_detector(tmp_path / "True.safetensors").detector.state_dict()
    assert {value.dtype for value in weights.values()} == {torch.float32}
    for key, value in detector.state_dict().items():
        assert torch.equal(weights[key], value.half().float())


def test_other_weights_may_take_the_place_of_the_detectors(tmp_path: Path) -> None:
    detector = CONFIGS[1].build(2)
    zeros = {key: torch.zeros_like(value) for key, value in detector.state_dict().items()}
    save_detector(tmp_path / "z.safetensors", detector, CONFIGS[1], NAMES, PREPROCESS, weights=zeros)
    assert not any(value.any() for value in load_detector(tmp_path / "z.safetensors").detector.state_dict().values())


def test_layouts_and_empty_tensors_survive(tmp_path: Path) -> None:
    tensors = {
        "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "transposed": torch.rand(2, 3).T,
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(3),
    }
    checkpoint.write(tmp_path / "t.safetensors", tensors, {"a": [1, None, "ö"]})
    read, described = checkpoint.read(tmp_path / "t.safetensors")
    assert described == {"a": [1, None, "ö"]}
    assert read.keys() == tensors.keys() and all(torch.equal(read[key], value) for key, value in tensors.items())


def test_a_write_that_fails_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.safetensors"
    checkpoint.write(path, {"a": torch.ones(3)}, {})
    whole = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot be written \(No space left.*unchanged: .*last\.safetensors"):
        checkpoint.write(path, {"a": torch.zeros(3)}, {})
    assert path.read_bytes() == whole
    assert [file.name for file in tmp_path.iterdir()] == ["last.safetensors"]


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_detector(path)
    save_file({"a": torch.ones(3)}, path)
    with pytest.raises(CheckpointError, match="not one that boxwright wrote"):
        load_detector(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"\(\d+ bytes\) is not a whole safetensors file"):
        load_detector(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_detector(path)
    checkpoint.write(path, {}, {"run": {}})
    with pytest.raises(CheckpointError, match=r"load best\.safetensors beside it"):
        load_detector(path)
    checkpoint.write(path, {}, {"detector": "yolo"})
    with pytest.raises(CheckpointError, match="holds a 'yolo'; this boxwright knows localizer, sliding_window"):
        load_detector(path)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    config = CONFIGS[1]
    detector = config.build(2)
    save_detector(path, detector, replace(config, channels=32), NAMES, PREPROCESS)
    with pytest.raises(CheckpointError, match="of another shape"):
        load_detector(path)
    weights = detector.state_dict()
    key, value = weights.popitem()
    save_detector(path, detector, config, NAMES, PREPROCESS, weights={**weights, "surplus": value})
    with pytest.raises(CheckpointError, match=rf"1 tensors missing \['{key}'\], 1 not expected \['surplus'\]"):
        load_detector(path)


def test_a_field_that_this_version_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_detector(path, CONFIGS[1].build(2), CONFIGS[1], NAMES, PREPROCESS)
    tensors, described = checkpoint.read(path)
    described["config"]["attention"] = True
    checkpoint.write(path, tensors, json.loads(json.dumps(described)))
    with pytest.raises(CheckpointError, match="RetinaNetConfig knows no attention; update boxwright"):
        load_detector(path)


def test_only_configs_of_detectors_have_a_name() -> None:
    assert [name_of(config) for config in CONFIGS] == ["faster_rcnn", "retinanet"]
    with pytest.raises(ValueError, match="expected the config of one of localizer, .*, got a Preprocess"):
        name_of(PREPROCESS)
