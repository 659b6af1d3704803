"""Checkpoints rebuild their detector, and a write that fails leaves what was there."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import resource
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from boxwright import checkpoint
from boxwright.checkpoint import CheckpointError, load_detector, save_detector
from boxwright.cli import training
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import (
    KINDS,
    FasterRCNNConfig,
    FastRCNNConfig,
    FCOSConfig,
    LocalizerConfig,
    RCNNConfig,
    RetinaNetConfig,
    RFCNConfig,
    RPNConfig,
    SlidingWindowConfig,
    SPPNetConfig,
    SSDConfig,
)
from boxwright.detectors.config import DetectorConfig, name_of
from boxwright.types import Images
from boxwright.zoo import bundled

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
    with pytest.raises(OSError, match=r"cannot be written \(No space left.*unchanged.*: .*last\.safetensors"):
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
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=r"\(\d+ bytes\) is not a whole safetensors file"):
        load_detector(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_detector(path)
    checkpoint.write(path, {}, {"run": {}})
    with pytest.raises(CheckpointError, match=r"load best\.safetensors beside it"):
        load_detector(path)
    checkpoint.write(path, {}, {"detector": "yolo"})
    with pytest.raises(CheckpointError, match="holds a 'yolo', expected one of localizer, sliding_window"):
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
    with pytest.raises(CheckpointError, match="RetinaNetConfig has no option attention; update boxwright"):
        load_detector(path)


def test_only_configs_of_detectors_have_a_name() -> None:
    assert [name_of(config) for config in CONFIGS] == ["faster_rcnn", "retinanet"]
    with pytest.raises(ValueError, match="expected the config of one of localizer, .*, got a Preprocess"):
        name_of(PREPROCESS)


_ALL = {
    "backbone": "mobilenet_v3_small", "frozen_stages": 1, "norm": "batch", "pixel_mean": [1.0, 2.0, 3.0],
    "pixel_std": [], "score": [0.25], "nms": 0.3, "candidates": 50, "detections": 9, "conventions": "detectron2",
}  # fmt: skip
_REGIONS = {"region_samples": 12, "agnostic": True, "box_weight": 2.0}
_SHARED = _REGIONS | {
    "variant": "fpn", "pool": "pool", "channels": 8, "canonical": 100.0, "hidden": 16, "head_layers": 1,
    "head_convolutions": 1,
}  # fmt: skip
_RPN = {
    "anchor_scales": [3.0], "anchor_sizes": [], "ratios": [1.0], "proposals": 20, "rpn_samples": 12, "rpn_depth": 2,
    "rpn_score": 0.1, "rpn_nms": 0.6, "rpn_candidates": 40,
}  # fmt: skip
_LEVELS = {"levels": [3, 4, 5]}
_PROPOSED: dict[str, Any] = {"proposer": "sliding_window", "proposals": 20}
_SELECT = {"score_threshold": (0.25,), "max_detections": 9, "nms_threshold": 0.3, "pre_nms_top_k": 50}
_BACKBONE = {"backbone": "mobilenet_v3_small", "frozen_stages": 1, "norm": "batch", "pixel_mean": (1.0, 2.0, 3.0)}
_NEW = _BACKBONE | _SELECT
_NEW_RPN = _BACKBONE | {
    "convention": "detectron2", "channels": 8, "anchor_scales": (3.0,), "aspect_ratios": (1.0,), "proposals": 20,
    "rpn_samples": 12, "rpn_depth": 2, "rpn_score_threshold": 0.1, "rpn_nms_threshold": 0.6, "rpn_pre_nms_top_k": 40,
}  # fmt: skip
_NEW_REGIONS = {"region_samples": 12, "class_agnostic": True, "box_weight": 2.0}
_NEW_HEAD = _NEW_REGIONS | {"pool": "pool", "canonical_size": 100.0, "hidden": 16, "head_layers": 1, "head_convs": 1}

OLD: dict[str, tuple[str, dict[str, Any], DetectorConfig]] = {
    "localizer": (
        "localizer",
        _ALL | {"levels": [4], "channels": 8, "grid": 3, "hidden": 16, "agnostic": True, "box_weight": 2.0},
        LocalizerConfig(
            **_BACKBONE, levels=(4,), score_threshold=(0.25,), max_detections=9, channels=8, grid=3, hidden=16,
            class_agnostic=True, box_weight=2.0,
        ),
    ),
    "sliding_window": (
        "sliding_window",
        _ALL | {"levels": [4], "channels": 8, "shapes": [[3, 3]], "scales": 2, "shrink": 0.5, "samples": 12},
        SlidingWindowConfig(**_NEW, levels=(4,), channels=8, shapes=((3, 3),), scales=2, shrink=0.5, samples=12),
    ),
    "rcnn": (
        "rcnn",
        _ALL | _LEVELS | _REGIONS | _PROPOSED | {"warp": 32, "context": 4, "chunk": 5, "choose": "threshold"},
        RCNNConfig(**_NEW, **_NEW_REGIONS, **_PROPOSED, levels=(5,), warp_size=32, context=4, chunk=5),
    ),
    "rcnn, least background": (
        "rcnn",
        _ALL | _LEVELS | {"choose": "least_background"},
        RCNNConfig(**_BACKBONE, max_detections=9, nms_threshold=0.3, pre_nms_top_k=50, choose="least_background"),
    ),
    "spp_net": (
        "spp_net",
        _ALL | _REGIONS | _PROPOSED | {"levels": [3, 4], "zooms": [1], "grids": [2, 1], "hidden": 16},
        SPPNetConfig(
            "mobilenet_v3_small", pixel_mean=(1.0, 2.0, 3.0), **_SELECT, **_NEW_REGIONS, **_PROPOSED,
            levels=(4,), zooms=(1,), grids=(2, 1), hidden=16,
        ),
    ),
    "fast_rcnn": (
        "fast_rcnn",
        _ALL | _LEVELS | _SHARED | _PROPOSED,
        FastRCNNConfig(**_NEW, **_NEW_HEAD, **_PROPOSED, convention="detectron2", channels=8),
    ),
    "fast_rcnn, c4": (
        "fast_rcnn",
        _ALL | _LEVELS | _SHARED | _PROPOSED | {"variant": "c4"},
        FastRCNNConfig(**_NEW, **_NEW_REGIONS, **_PROPOSED, convention="detectron2", variant="c4", pool="pool"),
    ),
    "faster_rcnn": (
        "faster_rcnn",
        _ALL | _LEVELS | _SHARED | _RPN,
        FasterRCNNConfig(**_NEW_RPN, **_SELECT, **_NEW_HEAD),
    ),
    "faster_rcnn, dc5, sizes in pixels": (
        "faster_rcnn",
        _ALL | {"levels": [2, 3]} | _SHARED | _RPN | {"variant": "dc5", "anchor_sizes": [32.0, 64.0]},
        FasterRCNNConfig(
            **{name: value for name, value in (_NEW_RPN | _SELECT | _NEW_HEAD).items()
               if name not in ("channels", "canonical_size", "anchor_scales")},
            variant="dc5", anchor_sizes=(32.0, 64.0),
        ),
    ),
    "r_fcn": (
        "r_fcn",
        _ALL | _LEVELS | _SHARED | _RPN | {"cells": 3},
        RFCNConfig(**_NEW_RPN, **_SELECT, **_NEW_REGIONS, pool="pool", canonical_size=100.0, cells=3),
    ),
    "r_fcn, dc5": (
        "r_fcn",
        _ALL | _LEVELS | _SHARED | _RPN | {"variant": "dc5", "cells": 3},
        RFCNConfig(**_NEW_RPN, **_SELECT, **_NEW_REGIONS, variant="dc5", pool="pool", cells=3),
    ),
    "ssd": (
        "ssd",
        _ALL | _LEVELS | {
            "extra": [16], "unstrided": 1, "lite": True, "head_norm": "batch", "lengths": [5.0], "box_scale": 2.0,
            "box_sizes": [], "box_steps": [], "box_limit": 200.0, "ratios": [2.0], "end_ratios": [3.0],
            "agnostic": False, "per_class": True,
        },
        SSDConfig(
            **_NEW, convention="detectron2", extra=(16,), unstrided=1, lite=True, head_norm="batch", lengths=(5.0,),
            box_scale=2.0, box_limit=200.0, aspect_ratios=(2.0,), end_aspect_ratios=(3.0,), class_agnostic=False,
            per_class=True, widen=0,
        ),
    ),
    "retinanet": (
        "retinanet",
        _ALL | _LEVELS | {
            "channels": 8, "extra_from": "backbone", "depth": 1, "head_norm": "none", "anchor_scales": [2.0],
            "anchor_sizes": [], "ratios": [1.0], "prior": 0.2, "agnostic": False,
        },
        RetinaNetConfig(
            **_NEW, convention="detectron2", channels=8, extra_from="backbone", depth=1, head_norm="none",
            anchor_scales=(2.0,), aspect_ratios=(1.0,), prior=0.2, class_agnostic=False, assignment="max_iou",
            class_loss="focal", box_loss="smooth_l1",
        ),
    ),
    "retinanet, group norms": (
        "retinanet",
        _ALL | _LEVELS | {"channels": 16, "depth": 1},
        RetinaNetConfig(**_NEW, convention="detectron2", channels=16, depth=1, group_channels=8),
    ),
    "ssd, group norms": (
        "ssd",
        _ALL | _LEVELS | {"extra": [16]},
        SSDConfig(**_NEW, convention="detectron2", extra=(16,), group_channels=8, widen=0),
    ),
    "fcos": (
        "fcos",
        _ALL | _LEVELS | {
            "channels": 8, "depth": 1, "distances": "relu", "scaled": False, "offset": 0.0, "radius": 2.0, "reach": 4.0,
            "centered": False, "prior": 0.2,
        },
        FCOSConfig(
            **_NEW, convention="detectron2", channels=8, depth=1, distances="relu", level_scales=False, offset=0.0,
            center_sampling_radius=2.0, regress_range=4.0, weight_by_centerness=False, prior=0.2, group_channels=8,
            assignment="center", class_loss="focal",
        ),
    ),
    "rpn": ("rpn", _ALL | _LEVELS | _SHARED | _RPN, RPNConfig(**_NEW_RPN)),
    "rpn, c4": (
        "rpn",
        _ALL | _LEVELS | _SHARED | _RPN | {"variant": "c4"},
        RPNConfig(**{name: value for name, value in _NEW_RPN.items() if name != "channels"}, variant="c4"),
    ),
}  # fmt: skip
"""Configs as earlier versions wrote them, options with other values than their defaults, and the configs of today."""


@pytest.mark.parametrize("name", OLD)
def test_files_of_before_load(name: str, tmp_path: Path) -> None:
    kind, old, config = OLD[name]
    detector = config.build(1 if kind == "rpn" else 2)
    described = {"detector": kind, "config": old, "names": NAMES[: 1 if kind == "rpn" else 2], "preprocess": {}}
    norms = [key.removesuffix("running_mean") for key in detector.state_dict() if key.endswith("running_mean")]
    counts = {f"{norm}num_batches_tracked": torch.tensor(7) for norm in norms}  # SPP-net had them too
    checkpoint.write(tmp_path / "old.safetensors", counts | detector.state_dict(), described)
    loaded = load_detector(tmp_path / "old.safetensors")
    assert loaded.config == config
    weights = loaded.detector.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in detector.state_dict().items())
    assert checkpoint.read_config(kind, json.loads(json.dumps(asdict(config)))) == config


def test_every_detector_has_a_file_of_before() -> None:
    assert {kind for kind, _, _ in OLD.values()} == KINDS.keys()


def test_the_bundled_model_is_such_a_file() -> None:
    path = bundled()["voc9"]
    assert "canonical" in checkpoint.read(path)[1]["config"]
    assert load_detector(path).config == FasterRCNNConfig(
        anchor_scales=(4.0, 5.7), canonical_size=160.0, class_agnostic=True
    )


def test_a_run_of_before_goes_on(tmp_path: Path) -> None:
    kind, old, config = OLD["faster_rcnn"]
    content = {
        "detector": kind, "config": old, "preprocess": Preprocess().to_dict(), "training": {"epochs": 2}, "options": {},
        "data": str(tmp_path),
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(content))
    options = training.read_options(tmp_path / "config.json")
    assert options.detector == config
    assert (options.training.momentum, options.training.peak_momentum) == (0.9, 0.9)


def flipped(content: bytes, bit: int) -> bytes:
    """With one bit changed, counted over the whole file."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


TINY = {"model.a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2]), "none": torch.zeros(0, 4)}


@pytest.mark.parametrize("described", [
    {"run": {"epochs": 2}, "epoch": 1, "batch": 0, "sums": {"total": 0.5}, "scaler": {}},
    {"detector": "fcos", "config": {}, "names": ["cat", "dög"], "preprocess": {}, "metrics": {"val": {"ap": None}}},
], ids=["resume", "best"])  # fmt: skip
def test_flipped_bits_are_detected(described: dict[str, Any], tmp_path: Path) -> None:
    """200 of them; all 6,000 are detected too, but take 20 s."""
    path = tmp_path / "x.safetensors"
    checkpoint.write(path, TINY, described)
    whole = path.read_bytes()
    assert checkpoint.read(path)[1] == described and len(whole) < 1000
    taken = []
    for bit in random.Random(0).sample(range(8 * len(whole)), 200):
        path.write_bytes(flipped(whole, bit))
        try:
            checkpoint.read(path)
            taken.append(bit)
        except CheckpointError as error:
            assert str(path) in str(error)
    assert taken == []
    for content in (whole[:-1], whole + b"\0", whole.replace(b"sha256", b"sha255"), whole[:64]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            checkpoint.read(path)


def test_the_digest_covers_what_the_file_says_of_itself(tmp_path: Path) -> None:
    """Rewritten by other means, with one name, shape, dtype or word of the metadata changed."""
    path = tmp_path / "x.safetensors"
    checkpoint.write(path, TINY, {"epoch": 1})
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(TINY, path, metadata)
    assert checkpoint.read(path)[1] == {"epoch": 1}
    others = [
        (TINY | {"model.a": torch.arange(6.0).reshape(3, 2)}, metadata),
        (TINY | {"b": torch.tensor([1, 2]).view(torch.float64)}, metadata),
        ({key.replace("model.a", "model.c"): value for key, value in TINY.items()}, metadata),
        (TINY, {"boxwright": metadata["boxwright"].replace('"epoch": 1', '"epoch": 2')}),
        (TINY, {"boxwright": json.dumps({"format": 2, "epoch": 1})}),
    ]
    for tensors, about in others:
        save_file(tensors, path, about)
        with pytest.raises(CheckpointError, match="is damaged: its SHA-256 is not the one"):
            checkpoint.read(path)


def test_files_without_a_digest_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for about in ({"epoch": 1}, {"format": 1, "epoch": 1}):
        save_file(TINY, path, {"boxwright": json.dumps(about)})
        assert checkpoint.read(path)[1] == {"epoch": 1}


ABSURD: list[dict[str, Any]] = [
    {"proposals": 10**9}, {"max_detections": 10**9}, {"hidden": 10**9}, {"channels": 4096, "hidden": 16_384},
    {"channels": 10**9}, {"levels": [1000]}, {"levels": 3}, {"levels": ["3"]}, {"head_convs": 10**6},
    {"head_convs": 64, "channels": 2048}, {"anchor_scales": [1.0] * 5000}, {"anchor_scales": [-1.0]},
    {"anchor_scales": [float("nan")]}, {"nms_threshold": None}, {"score_threshold": 0.5}, {"score_threshold": ["a"]},
    {"backbone": ["a"]}, {"backbone": "nothing"},
    {"aspect_ratios": {}}, {"box_weight": 1e300}, {"class_agnostic": "yes"}, {"pool": ["align"]}, {"rpn_depth": True},
]  # fmt: skip


def test_absurd_configs_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    config = {"backbone": "mobilenet_v3_small", "channels": 8, "hidden": 8}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for absurd in ABSURD:
        about = {"detector": "faster_rcnn", "config": config | absurd, "names": ["a"], "preprocess": {}}
        checkpoint.write(path, {"a": torch.zeros(3)}, about)
        with pytest.raises(CheckpointError, match=re.escape(f"{path}: ")):
            load_detector(path)
    preprocesses: list[dict[str, Any]] = [
        {"divisor": 20_000}, {"short": 10**6}, {"long": "512"}, {"fill": "grey"}, {"mode": 3}, {"zoom": 1},
    ]  # fmt: skip
    for preprocess in preprocesses:
        checkpoint.write(path, {}, {"detector": "fcos", "config": {}, "names": ["a"], "preprocess": preprocess})
        with pytest.raises(CheckpointError, match=re.escape(f"{path}: ")):
            load_detector(path)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 300  # MB


def test_a_backbone_of_which_most_is_not_read_is_loaded(tmp_path: Path) -> None:
    """A VGG has 120 M numbers in layers that a detector does not have, far more than in its file."""
    path = tmp_path / "x.safetensors"
    config = RetinaNetConfig("alexnet", channels=8, depth=0)
    save_detector(path, config.build(1), config, ("cat",), PREPROCESS)
    assert load_detector(path).config == config
