"""Detectors that take external proposals: R-CNN, SPP-net and Fast R-CNN are one region stage with other parts."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.boxes.geometry import clip
from boxwright.detectors.base import MIN_SIZE, Detector
from boxwright.detectors.region_stage import RegionStage
from boxwright.proposals import Propose
from boxwright.types import Images, Losses, Slots, Target


class ProposedDetector(Detector):
    """features -> RegionStage, over the proposals that come with the images.

    features  pixels to what regions are pooled from
    propose   from an image to proposals; any callable may be set in its place
    """

    def __init__(self, features: Callable[[Tensor], list[Tensor]], regions: RegionStage, propose: Propose) -> None:
        super().__init__()
        self.features, self.regions, self.propose = features, regions, propose

    def compute_loss(self, images: Images, targets: list[Target]) -> Losses:
        """Scalars `class` and `box`, of sampled proposals. The objects themselves are among them."""
        return self.regions.loss(self.features(images.pixels), given(images), targets)

    def slots(self, images: Images) -> Slots:
        """Slots (N, S), boxes in pixels of the batch."""
        return self.regions.detect(self.features(images.pixels), given(images), images.sizes)


def given(images: Images) -> Slots:
    """The proposals (N, P) of the images, clipped to each; a box without extent is not valid."""
    boxes = clip(images.proposals, images.sizes)
    boxes = F.pad(boxes, (0, 0, 0, int(boxes.shape[1] == 0)))  # one slot at least
    valid = (boxes[..., 2:] - boxes[..., :2]).amin(-1) >= MIN_SIZE
    return Slots(boxes, valid.float(), torch.zeros_like(valid, dtype=torch.int64), valid)
