"""Small detectors, one of them of every kind, and a picture that they have learnt by heart."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F

from boxwright.boxes.convert import hflip
from boxwright.detectors import DETECTORS, Detector
from boxwright.types import Images, Target

NAMES = ("red", "blue")
HEIGHT, WIDTH = 96, 128
CANVAS = (128, 160)
STEPS = 90

SMALL: dict[str, dict[str, Any]] = {
    "faster_rcnn": {"hidden": 64, "proposals": 50, "rpn_samples": 64, "region_samples": 32},
    "retinanet": {"depth": 1},
}
"""What makes a detector small, beside what all share. A new one has its line here, or needs none."""

VARIANTS = {name: (name, {}) for name in DETECTORS} | {"faster_rcnn, agnostic": ("faster_rcnn", {"agnostic": True})}


class Learnt(NamedTuple):
    """A detector, the config that built it, the picture and its mirror image, these padded, and what is on them."""

    config: Any
    detector: Detector
    images: Images
    padded: Images
    targets: list[Target]


def small(variant: str) -> Any:
    """The narrow config of a variant."""
    name, options = VARIANTS[variant]
    shared = {"backbone": "mobilenet_v3_small", "frozen_stages": 0, "channels": 32, "detections": 10}
    return DETECTORS[name](**(shared | SMALL.get(name, {}) | options))


def picture_and_mirror() -> tuple[Images, list[Target]]:
    """A red and a blue rectangle on grey noise, and the same from left to right."""
    pixels = 100 + 40 * torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[12.0, 20.0, 60.0, 64.0], [72.0, 30.0, 118.0, 84.0]])
    for color, (left, top, right, bottom) in zip(((230, 30, 30), (30, 60, 230)), boxes.long().tolist(), strict=True):
        pixels[:, top:bottom, left:right] = torch.tensor(color)[:, None, None]
    target = Target(boxes, torch.tensor([0, 1]))
    images = Images(torch.stack([pixels, pixels.flip(2)]), torch.tensor([[HEIGHT, WIDTH]] * 2))
    return images, [target, target.replace(boxes=hflip(boxes, WIDTH))]


def on_canvas(images: Images) -> Images:
    """Padded as `data.batch` pads: right and below, with grey."""
    height, width = images.pixels.shape[2:]
    return images.replace(pixels=F.pad(images.pixels, (0, CANVAS[1] - width, 0, CANVAS[0] - height), value=114.0))


@pytest.fixture(scope="session", params=VARIANTS)
def learnt(request: pytest.FixtureRequest) -> Learnt:
    """Ninety steps on one picture and its mirror image, with and without padding."""
    torch.manual_seed(1)
    config, (images, targets) = small(request.param), picture_and_mirror()
    detector = config.build(len(NAMES))
    optimizer = torch.optim.AdamW(detector.parameters())
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, 2 * (1 - step / STEPS))
        loss = torch.stack(list(detector.loss(on_canvas(images) if step % 2 else images, targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimizer.step()
    return Learnt(config, detector.eval(), images, on_canvas(images), targets)


@pytest.fixture(scope="session")
def small_configs() -> dict[str, Any]:
    """The narrow config of every detector."""
    return {name: small(name) for name in DETECTORS}
