"""A region proposal network by itself: is there an object, and where about? (Ren et al. 2015, section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from boxwright.detectors.anchor_stage import AnchorStage
from boxwright.detectors.base import Detector
from boxwright.detectors.faster_rcnn import build_rpn
from boxwright.detectors.region_stage import build_shared
from boxwright.types import Images, Losses, Slots, Target

if TYPE_CHECKING:
    from boxwright.detectors.config import RPNConfig


class RPN(Detector):
    """features -> AnchorStage of one class. All objects are of it, label 0."""

    def __init__(self, features: nn.Module, proposer: AnchorStage) -> None:
        super().__init__()
        self.features, self.proposer = features, proposer

    def compute_loss(self, images: Images, targets: list[Target]) -> Losses:
        """Scalars `class`, the objectness, and `box`."""
        dense = self.proposer(self.features(images.pixels))
        return self.proposer.loss(dense, [t.replace(labels=torch.zeros_like(t.labels)) for t in targets])

    def slots(self, images: Images) -> Slots:
        """Proposals (N, S) as detections of label 0, boxes in pixels of the batch."""
        return self.proposer.detect(self.proposer(self.features(images.pixels)), images.sizes)


def build(config: RPNConfig, num_classes: int, pretrained: bool) -> RPN:
    if num_classes != 1:
        raise ValueError(f"a region proposal network has one class, 'object', got {num_classes}")
    features = build_shared(config, pretrained)
    return RPN(features, build_rpn(config, features))
