"""A region proposal network by itself: is there an object, and where about? (Ren et al. 2015, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from boxwright.detectors.anchor_stage import AnchorStage
from boxwright.detectors.base import Detector
from boxwright.detectors.faster_rcnn import FasterRCNNConfig
from boxwright.types import Images, Losses, Slots, Target


class RPN(Detector):
    """features -> AnchorStage of one class. All objects are of it, label 0."""

    def __init__(self, features: nn.Module, proposer: AnchorStage) -> None:
        super().__init__()
        self.features, self.proposer = features, proposer

    def loss(self, images: Images, targets: list[Target]) -> Losses:
        """Objectness and box."""
        dense = self.proposer(self.features(images.pixels))
        return self.proposer.loss(dense, [t.replace(labels=torch.zeros_like(t.labels)) for t in targets])

    def slots(self, images: Images) -> Slots:
        return self.proposer.detect(self.proposer(self.features(images.pixels)), images.sizes)


@dataclass(frozen=True)
class RPNConfig(FasterRCNNConfig):
    """The numbers of a region proposal network: those of a Faster R-CNN up to its proposals, which it finds."""

    def build(self, classes: int = 1, pretrained: bool = False) -> RPN:
        if classes != 1:
            raise ValueError(f"a region proposal network tells one class, 'object', from none; got {classes}")
        features = self.shared(pretrained)
        return RPN(features, self.rpn(features))
