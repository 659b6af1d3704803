"""R-CNN: what the network sees of a region, in portions, and both ways of choosing the output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwright.detectors import RCNN, RCNNConfig
from boxwright.detectors.base import best, build_select, least_background
from boxwright.detectors.rcnn import nothing_shared
from boxwright.detectors.region_stage import GlobalAveragePool, RegionHead, build_region_stage
from boxwright.layers.warp import WarpRegions
from boxwright.types import Images, Target

SMALL: dict[str, Any] = {"backbone": "mobilenet_v3_small", "levels": (3,), "warp_size": 32, "context": 4}


class Colours(nn.Module):
    """Three maps as wide as the region: its red, green and blue."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels


def test_a_region_is_what_lies_in_its_box() -> None:
    """An image red on the left and blue on the right: the network reads the colour of each half, and of both."""
    pixels = torch.zeros(1, 3, 40, 80)
    pixels[:, 0, :, :40], pixels[:, 2, :, 40:] = 200.0, 100.0
    boxes = torch.tensor([[[4.0, 4.0, 36.0, 36.0], [44.0, 4.0, 76.0, 36.0], [0.0, 0.0, 80.0, 40.0]]])
    head = RegionHead(GlobalAveragePool(Colours()), 3, 2, class_agnostic=True)
    config = RCNNConfig(**SMALL)
    regions = build_region_stage(config, WarpRegions(16, context=0), head, build_select(config, 2))
    pooled = GlobalAveragePool(Colours())(regions.pool(nothing_shared(pixels), boxes))
    colours = torch.tensor([[200.0, 0.0, 0.0], [0.0, 0.0, 100.0], [100.0, 0.0, 50.0]])
    torch.testing.assert_close(pooled, colours, atol=0.5, rtol=0)  # the border between them is sampled unevenly


def test_portions_change_nothing() -> None:
    torch.manual_seed(0)
    detector = RCNNConfig(**SMALL, chunk=3).build(2).eval()
    pixels, boxes = 255 * torch.rand(2, 3, 64, 96), 40 * torch.rand(2, 7, 2, 2).cumsum(2).flatten(2)
    images = Images(pixels, torch.tensor([[64, 96]] * 2), boxes)
    parts = detector.detect(images)
    detector.regions.chunk = None
    for one, other in zip(parts, detector.detect(images), strict=True):
        assert len(one) > 0
        torch.testing.assert_close(one.boxes, other.boxes, atol=1e-3, rtol=0)
        torch.testing.assert_close(one.scores, other.scores)


def test_a_batch_of_eight_has_the_papers_sample() -> None:
    """32 positive and 96 background regions."""
    detector = RCNNConfig(**SMALL).build(1)
    assigned = torch.tensor([0] * 20 + [-1] * 80).expand(8, -1)
    drawn = detector.regions.sample(assigned)
    assert (drawn & (assigned == 0)).sum() == 32 and drawn.sum() == 128


def test_both_ways_of_choosing() -> None:
    threshold = RCNNConfig(**SMALL, score_threshold=(0.3,)).build(2).regions
    assert threshold.choose is best and threshold.select.score_threshold == 0.3
    assert RCNNConfig(**SMALL, score_threshold=(0.3, 0.5)).build(2).regions.select.score_threshold == (0.3, 0.5)
    fewest = RCNNConfig(**SMALL, choose="least_background", max_detections=4).build(2)
    assert fewest.regions.choose is least_background and fewest.regions.select.score_threshold == 0.0
    proposals = 40 * torch.rand(1, 40, 2, 2).cumsum(2).flatten(2)
    (found,) = fewest.eval().detect(Images(255 * torch.rand(1, 3, 64, 96), torch.tensor([[64, 96]]), proposals))
    assert len(found) == 4  # whatever they score


def test_what_does_not_exist_is_said() -> None:
    with pytest.raises(ValueError, match="one for each of 3 classes, got 2"):
        RCNNConfig(**SMALL, score_threshold=(0.1, 0.2)).build(3)
    with pytest.raises(ValueError, match="threshold or least_background, got 'most'"):
        RCNNConfig(**SMALL, choose="most").build(3)  # type: ignore[arg-type]


def test_learns_through_the_network_of_each_region() -> None:
    detector: RCNN = RCNNConfig(**SMALL, frozen_stages=0).build(2)
    images = Images(255 * torch.rand(1, 3, 64, 96), torch.tensor([[64, 96]]))
    loss = detector.loss(images, [Target(torch.tensor([[5.0, 5.0, 42.0, 48.0]]), torch.tensor([1]))])
    (loss["class"] + loss["box"]).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in detector.parameters())
