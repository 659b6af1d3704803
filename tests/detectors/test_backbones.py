"""Backbones x meta-architectures, as Huang et al. 2017 compared them: each builds, makes a training step and infers.

What is too heavy for a test is shallower (`SHALLOW`); widths are the real ones but ConvNeXt's and Swin's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from boxwright.backbones import Backbone, build_backbone, resnet
from boxwright.detectors import base
from boxwright.types import Images, Target

BACKBONES = (
    "alexnet",
    "vgg16",
    "resnet50",
    "resnet101",
    "resnext101_32x8d",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "timm:inception_v3",
    "timm:inception_resnet_v2",
    "timm:convnext_tiny",
    "timm:vit_tiny_patch16_224",
    "timm:swin_tiny_patch4_window7_224",
)

DETECTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "faster_rcnn": ("faster_rcnn", {}),
    "ssd": ("ssd", {}),
    "r_fcn": ("r_fcn", {"variant": "dc5"}),
}
"""To a detector and what is not usual about it: R-FCN as published has one map, of stride 16."""

SHALLOW: dict[str, dict[str, Any]] = {
    "timm:convnext_tiny": {"depths": (1, 1, 2, 1), "dims": (24, 48, 96, 192)},
    "timm:vit_tiny_patch16_224": {"depth": 4},
    "timm:swin_tiny_patch4_window7_224": {"depths": (1, 1, 2, 1), "embed_dim": 24},
}
"""Options of timm's; the ResNets of 101 layers have 5 blocks for 33."""

IMAGES = Images(
    255 * torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)), torch.tensor([[64, 96], [60, 90]])
)
TARGETS = [Target(torch.tensor([[8.0, 8.0, 40.0, 48.0]]), torch.tensor([1])), Target.empty()]


@pytest.fixture(scope="module")
def built() -> Callable[..., Backbone]:
    """`build_backbone`, shallow, that builds what all detectors ask for once."""
    return cache(lambda name, *rest, **options: build_backbone(name, *rest, **SHALLOW.get(name, {}), **options))


@pytest.fixture(autouse=True)
def light(built: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(resnet.DEPTHS, 101, (1, 1, 2, 1))
    monkeypatch.setattr(base, "build_backbone", lambda *args, **options: copy.deepcopy(built(*args, **options)))
    torch.manual_seed(0)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("detector", DETECTORS)
def test_every_backbone_trains_and_infers_in_every_meta_architecture(
    detector: str, backbone: str, small_configs: dict[str, Any]
) -> None:
    name, options = DETECTORS[detector]
    train_and_infer(altered(small_configs[name], backbone=backbone, **options))


@pytest.mark.parametrize("backbone", ["alexnet", "resnet50", "mobilenet_v2", "timm:resnet18"])
def test_the_rest_of_a_network_runs_on_every_region(backbone: str, small_configs: dict[str, Any]) -> None:
    train_and_infer(altered(small_configs["faster_rcnn"], backbone=backbone, variant="c4", region_samples=8))


def altered(config: Any, **options: Any) -> Any:
    """The config with other options; those that are then no longer read take their defaults."""
    defaults = type(config)()
    return replace(config, **{option: getattr(defaults, option) for option in config.unread(options)}, **options)


def train_and_infer(config: Any) -> None:
    """With the detectors' two frozen stages; norms are the batch's, because weights are random."""
    config = replace(config, frozen_stages=2, norm="batch")
    detector = config.build(num_classes=3)
    before = {key: value.clone() for key, value in detector.named_parameters()}

    loss = torch.stack(list(detector.loss(IMAGES, TARGETS).values())).sum()
    loss.backward()
    torch.optim.SGD(detector.parameters(), lr=1e-3).step()
    assert loss.isfinite() and loss > 0

    after = dict(detector.named_parameters())
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    frozen = {key for key, value in after.items() if not value.requires_grad}
    assert all(value.isfinite().all() for value in after.values())
    assert frozen and not moved & frozen and all(key.startswith("features.backbone.") for key in frozen)
    assert any(key.startswith("features.backbone.") for key in moved)
    assert any(not key.startswith("features.") for key in moved)

    for found, (height, width) in zip(detector.eval().detect(IMAGES), IMAGES.sizes.tolist(), strict=True):
        assert len(found) <= config.max_detections
        assert (found.boxes >= 0).all() and (found.boxes <= torch.tensor([width, height, width, height])).all()
