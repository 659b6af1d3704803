"""What only FCOS has: points, distances, a factor per level, and centre-ness."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from boxwright.boxes.anchors import DistanceCodec
from boxwright.boxes.geometry import xyxy_to_cxcywh
from boxwright.detectors import FCOS, FCOSConfig
from boxwright.losses import Centered, GIoULoss
from boxwright.types import Images, Target


def small(**options: Any) -> FCOS:
    fixed = {"backbone": "mobilenet_v3_small", "frozen_stages": 0, "channels": 16, "depth": 1}
    return FCOSConfig(**(fixed | options)).build(2)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_a_point_for_every_cell(offset: float) -> None:
    fcos = small(offset=offset)
    dense = fcos.anchors(fcos.features(torch.zeros(1, 3, 64, 96)))
    assert dense.levels == (8 * 12, 4 * 6, 2 * 3, 1 * 2, 1)
    assert dense.logits.shape == (1, 129, 2) and dense.deltas.shape == (1, 129, 1, 4)
    assert dense.quality is not None and dense.quality.shape == (1, 129)
    points = xyxy_to_cxcywh(dense.anchors)
    assert points[[1, 96 + 1]].tolist() == [
        [8 * (1 + offset), 8 * offset, 8, 8],
        [16 * (1 + offset), 16 * offset, 16, 16],
    ]


def test_a_factor_per_level_on_what_the_head_says_of_boxes() -> None:
    fcos, pixels = small(), 255 * torch.rand(1, 3, 64, 64)
    before = fcos.anchors(fcos.features(pixels))
    fcos.anchors.head.scales.data[1] = 3.0  # type: ignore[index]
    after = fcos.anchors(fcos.features(pixels))
    of_level = torch.cat(
        [torch.full((count,), 3.0 if level == 1 else 1.0) for level, count in enumerate(before.levels)]
    )
    torch.testing.assert_close(after.deltas, before.deltas * of_level[:, None, None])
    assert torch.equal(after.logits, before.logits)
    assert small(level_scales=False).anchors.head.scales is None


def test_torchvisions_conventions_are_options() -> None:
    """Distances by relu, no factors, points at corners, box losses of even weight."""
    stage = small(distances="relu", level_scales=False, offset=0.0, weight_by_centerness=False).anchors
    assert stage.codec == DistanceCodec("relu") and isinstance(stage.box_loss, GIoULoss)
    assert isinstance(small().anchors.box_loss, Centered)


def test_three_losses() -> None:
    images = Images(255 * torch.rand(1, 3, 64, 64), torch.tensor([[64, 64]]))
    losses = small().loss(images, [Target(torch.tensor([[8.0, 8.0, 40.0, 48.0]]), torch.tensor([1]))])
    assert list(losses) == ["class", "box", "quality"] and all(value > 0 for value in losses.values())
