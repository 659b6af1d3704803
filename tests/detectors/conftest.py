"""Small detectors, one of them of every kind, and an image that they have learnt by heart."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.boxes.geometry import clip
from boxwright.boxes.view import View
from boxwright.detectors import DETECTORS, Detector
from boxwright.types import Images, Size, Target

NAMES = ("red", "blue")
HEIGHT, WIDTH = 96, 128
CANVAS = (128, 160)
STEPS = 90


class Small(NamedTuple):
    """What makes a detector small, beside what all share, and what it cannot be expected to do.

    options  of its config
    single   it answers one object: the larger one is all there is to find
    tight    overlap of its boxes with the objects that it has learnt by heart
    stable   the same where the image is flipped or padded
    """

    options: dict[str, Any] = {}
    single: bool = False
    tight: float = 0.7
    stable: float = 0.6


SMALL: dict[str, Small] = {
    "localizer": Small({"max_detections": 1, "hidden": 64}, single=True),
    "sliding_window": Small({"shapes": ((4, 4), (5, 4)), "scales": 3, "samples": 64}, tight=0.5, stable=0.4),
    "rcnn": Small({"levels": (3,), "warp_size": 32, "context": 8, "region_samples": 24}),
    "spp_net": Small({"levels": (3,), "hidden": 64, "region_samples": 32}),
    "fast_rcnn": Small({"hidden": 64, "region_samples": 32}),
    "faster_rcnn": Small({"hidden": 64, "proposals": 50, "rpn_samples": 64, "region_samples": 32}),
    "r_fcn": Small({"proposals": 50, "rpn_samples": 64, "region_samples": 32}),
    "retinanet": Small({"depth": 1}),
    "fcos": Small({"depth": 1}),
}
"""A new detector has its line here, or needs none."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in DETECTORS} | {
    "faster_rcnn, cascade": ("faster_rcnn", {"cascade": (0.5, 0.6, 0.7)}),
    "ssd, lite, boxes of every class": ("ssd", {"lite": True, "class_agnostic": False}),
}


class Trained(NamedTuple):
    """A detector, the config that built it, the image and its mirror image, these padded, and what is on them."""

    config: Any
    detector: Detector
    images: Images
    padded: Images
    targets: list[Target]
    traits: Small


def small(variant: str) -> Any:
    """The narrow config of a variant."""
    name, options = VARIANTS[variant]
    shared: dict[str, Any] = {
        "backbone": "mobilenet_v3_small", "frozen_stages": 0, "channels": 32, "max_detections": 10
    }  # fmt: skip
    known = {field.name for field in fields(DETECTORS[name])}
    shared = {option: value for option, value in shared.items() if option in known}
    return DETECTORS[name](**(shared | SMALL.get(name, Small()).options | options))


def image_and_mirror() -> tuple[Images, list[Target]]:
    """A red and a blue rectangle on grey noise, and the same from left to right; proposals are around and about."""
    noise = torch.Generator().manual_seed(0)
    pixels = 100 + 40 * torch.rand(3, HEIGHT, WIDTH, generator=noise)
    boxes = torch.tensor([[12.0, 20.0, 60.0, 64.0], [72.0, 30.0, 118.0, 84.0]])
    for color, (left, top, right, bottom) in zip(((230, 30, 30), (30, 60, 230)), boxes.long().tolist(), strict=True):
        pixels[:, top:bottom, left:right] = torch.tensor(color)[:, None, None]
    target = Target(boxes, torch.tensor([0, 1]))
    proposals = proposals_around(boxes, noise)
    flip = View.flip(Size(HEIGHT, WIDTH))
    both = torch.stack([F.pad(boxes, (0, 0, 0, 4)) for boxes in (proposals, flip.forward(proposals))])
    images = Images(torch.stack([pixels, pixels.flip(2)]), torch.tensor([[HEIGHT, WIDTH]] * 2), both)
    return images, [target, flip.move(target)]


def proposals_around(boxes: Tensor, noise: torch.Generator) -> Tensor:
    """Each box moved by up to a tenth of itself, eight times, then 24 boxes anywhere: what a proposer would say."""
    extent = (boxes[:, 2:] - boxes[:, :2]).repeat(8, 2)
    near = boxes.repeat(8, 1) + 0.2 * extent * (torch.rand(extent.shape, generator=noise) - 0.5)
    corners = (torch.rand(24, 2, 2, generator=noise) * torch.tensor([WIDTH, HEIGHT])).sort(dim=1).values
    return clip(torch.cat([near, corners.flatten(1)]), Size(HEIGHT, WIDTH))


def on_canvas(images: Images) -> Images:
    """Padded as `data.batch` pads: right and below, with grey."""
    height, width = images.pixels.shape[2:]
    return images.replace(pixels=F.pad(images.pixels, (0, CANVAS[1] - width, 0, CANVAS[0] - height), value=114.0))


@pytest.fixture(scope="session", params=VARIANTS)
def trained(request: pytest.FixtureRequest) -> Trained:
    """Ninety steps on one image and its mirror image, with and without padding."""
    torch.manual_seed(1)
    config, (images, targets) = small(request.param), image_and_mirror()
    traits = SMALL.get(VARIANTS[request.param][0], Small())
    if traits.single:
        targets = [target[target.area == target.area.max()] for target in targets]
    detector = config.build(len(NAMES))
    if detector.propose is None:
        images = images.replace(proposals=images.proposals[:, :0])
    optimizer = torch.optim.AdamW(detector.parameters())
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, 2 * (1 - step / STEPS))
        loss = torch.stack(list(detector.loss(on_canvas(images) if step % 2 else images, targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimizer.step()
    return Trained(config, detector.eval(), images, on_canvas(images), targets, traits)


@pytest.fixture(scope="session")
def small_configs() -> dict[str, Any]:
    """The narrow config of every detector."""
    return {name: small(name) for name in DETECTORS}
