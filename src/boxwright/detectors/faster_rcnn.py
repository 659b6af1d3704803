"""Faster R-CNN: a region proposal network and a region stage on one set of features (Ren et al. 2015)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from boxwright.assign import BalancedSampler, MaxIoUAssigner
from boxwright.boxes.anchors import AnchorGrid, anchor_sizes
from boxwright.boxes.codec import DeltaCodec
from boxwright.detectors.anchor_stage import AnchorHead, AnchorStage
from boxwright.detectors.base import Detector, Features
from boxwright.detectors.fast_rcnn import SharedConfig
from boxwright.detectors.region_stage import RegionStage
from boxwright.detectors.select import Select
from boxwright.losses import DeltaLoss, binary_cross_entropy
from boxwright.types import Images, Losses, Slots, Target


class FasterRCNN(Detector):
    """features -> AnchorStage of one class -> RegionStage, with four losses."""

    def __init__(self, features: nn.Module, proposer: AnchorStage, regions: RegionStage) -> None:
        super().__init__()
        self.features, self.proposer, self.regions = features, proposer, regions

    @property
    def proposals(self) -> int:
        """Proposals an image, to be set at any time: more find more, fewer are faster (Ren et al., table 2)."""
        return self.proposer.select.slots

    @proposals.setter
    def proposals(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"a Faster R-CNN takes one proposal an image at least, got {count}")
        self.proposer.select.slots = count

    def loss(self, images: Images, targets: list[Target]) -> Losses:
        """Objectness and proposal box of the RPN; class and box of the regions."""
        maps = self.features(images.pixels)
        dense = self.proposer(maps)
        of_proposals = self.proposer.loss(dense, [t.replace(labels=torch.zeros_like(t.labels)) for t in targets])
        with torch.no_grad():
            proposals = self.proposer.detect(dense, images.sizes)
        of_regions = self.regions.loss(maps, proposals, targets)
        return {
            "objectness": of_proposals["class"],
            "proposal_box": of_proposals["box"],
            "class": of_regions["class"],
            "box": of_regions["box"],
        }

    def slots(self, images: Images) -> Slots:
        maps = self.features(images.pixels)
        proposals = self.proposer.detect(self.proposer(maps), images.sizes)
        return self.regions.detect(maps, proposals, images.sizes)


@dataclass(frozen=True)
class FasterRCNNConfig(SharedConfig):
    """The numbers of a Faster R-CNN."""

    anchor_scales: tuple[float, ...] = ()
    """Sides of the anchors in strides of their level; none given: 4 and 5.7 on a pyramid, 2 to 32 on one map."""
    anchor_sizes: tuple[float, ...] = ()
    """The same in pixels, level by level, equally many on each; () takes `anchor_scales`."""
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width of the anchors."""
    proposals: int = 300
    """Proposals an image."""
    rpn_samples: int = 256
    """Anchors an image in the loss of the RPN, half of them positive where there are enough."""
    rpn_depth: int = 1
    """Convolutions of the RPN before its outputs."""
    rpn_score: float = 0.0
    """A proposal scores more than this."""
    rpn_nms: float = 0.7
    """IoU above which the lower-scored of two proposals of a level goes."""
    rpn_pre_nms_top_k: int = 1000
    """How many of the best boxes of each level enter that suppression."""

    def build(self, classes: int, pretrained: bool = False) -> FasterRCNN:
        features = self.shared(pretrained)
        return FasterRCNN(features, self.rpn(features), self.region_stage(features, classes, pretrained))

    def rpn(self, features: Features) -> AnchorStage:
        """The proposer: is there an object, and where about?"""
        scales = self.anchor_scales or ((4.0, 5.7) if self.variant == "fpn" else (2.0, 4.0, 8.0, 16.0, 32.0))
        sizes, habits, codec = anchor_sizes(features.strides, scales, self.anchor_sizes), self.habits(), DeltaCodec()
        anchors = AnchorGrid(
            sizes,
            self.ratios,
            features.strides,
            rounded=habits.rounded,
            stride_from_feature_map=habits.stride_from_feature_map,
        )
        return AnchorStage(
            head=AnchorHead(features.channels[0], anchors.per_cell, logits=1, depth=self.rpn_depth, shared=True),
            anchors=anchors,
            codec=codec,
            assign=MaxIoUAssigner(high=0.7, low=0.3, allow_low_quality_matches=True),
            sample=BalancedSampler(self.rpn_samples, positive=0.5),
            class_loss=binary_cross_entropy,
            box_loss=DeltaLoss(codec),
            select=Select(
                self.rpn_score, self.rpn_nms, self.rpn_pre_nms_top_k, self.proposals, "level", habits.smallest_proposal
            ),
            divide_by="samples",
        )
