"""Classification and localization: one object per image, its class and its box.

The regression of a box from the features that classify is Sermanet et al. 2014, "OverFeat", section 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.assign import BACKGROUND, IGNORED, BalancedSampler, Prediction
from boxwright.boxes.anchors import DeltaCodec
from boxwright.boxes.geometry import area
from boxwright.detectors.base import Detector, Select, build_pyramid, score_threshold
from boxwright.detectors.region_stage import RegionHead, RegionStage, mlp_head
from boxwright.layers.regions import RegionAlign
from boxwright.losses import DeltaLoss
from boxwright.types import Images, Losses, Slots, Target

if TYPE_CHECKING:
    from boxwright.detectors.config import LocalizerConfig


class Localizer(Detector):
    """features -> RegionStage, to which the whole image is the only proposal, with two losses."""

    def __init__(self, features: nn.Module, region: RegionStage) -> None:
        super().__init__()
        self.features, self.region = features, region

    def compute_loss(self, images: Images, targets: list[Target]) -> Losses:
        """Scalars `class` and `box`, of the largest object of each image."""
        return self.region.loss(self.features(images.pixels), whole(images), targets)

    def slots(self, images: Images) -> Slots:
        """Slots (N, S), each of another class, boxes in pixels of the batch."""
        return self.region.detect(self.features(images.pixels), whole(images), images.sizes)


def whole(images: Images) -> Slots:
    """Each image without its padding as the only proposal, slots (N, 1)."""
    boxes = F.pad(images.sizes.flip(1), (2, 0)).to(images.pixels.dtype)[:, None]  # (N, 1, 4)
    label = torch.zeros_like(images.sizes[:, :1])
    return Slots(boxes, torch.ones_like(boxes[..., 0]), label, torch.ones_like(label, dtype=torch.bool))


def largest(prediction: Prediction, target: Target) -> Tensor:
    """(A,) int64: the first candidate, the image, learns the object with the largest box.

    An image without objects is background. One with nothing but a crowd is ignored, as are the other candidates.
    """
    candidates = prediction.candidates
    assigned = torch.full(candidates.shape[:1], IGNORED, dtype=torch.int64, device=candidates.device)
    if not len(target):
        assigned[0] = BACKGROUND
        return assigned
    sizes = area(target.boxes).masked_fill(target.crowd, -1.0)
    assigned[0] = sizes.argmax().masked_fill(target.crowd.all(), IGNORED)
    return assigned


def build(config: LocalizerConfig, num_classes: int, pretrained: bool) -> Localizer:
    features = build_pyramid(config, pretrained, config.channels, extra=0, how="pool")
    hidden = mlp_head(config.channels * config.grid**2, config.hidden)
    codec = DeltaCodec(weights=(10.0, 10.0, 5.0, 5.0))
    region = RegionStage(
        pool=RegionAlign(features.strides, config.grid, sampling=0),
        head=RegionHead(hidden, config.hidden, num_classes, config.class_agnostic),
        codec=codec,
        assign=largest,
        sample=BalancedSampler(1, positive=1.0),
        box_loss=DeltaLoss(codec),
        select=Select(score_threshold(config, num_classes), slots=config.max_detections),  # a class has one box: no NMS
        box_weight=config.box_weight,
    )
    return Localizer(features, region)
