"""Faster R-CNN: a region proposal network and a region stage on one set of features (Ren et al. 2015)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from boxwright.assign import BalancedSampler, MaxIoUAssigner
from boxwright.backbones.features import Features
from boxwright.boxes.anchors import AnchorGrid, DeltaCodec, anchor_sizes
from boxwright.detectors.anchor_stage import AnchorHead, AnchorStage
from boxwright.detectors.base import Detector, Select
from boxwright.detectors.fields import CONVENTIONS, RPNFields
from boxwright.detectors.region_stage import RegionStage, build_regions, build_shared
from boxwright.losses import DeltaLoss, binary_cross_entropy
from boxwright.types import Images, Losses, Slots, Target

if TYPE_CHECKING:
    from boxwright.detectors.config import FasterRCNNConfig


class FasterRCNN(Detector):
    """features -> AnchorStage of one class -> RegionStage, with four losses."""

    def __init__(self, features: nn.Module, proposer: AnchorStage, regions: RegionStage) -> None:
        super().__init__()
        self.features, self.proposer, self.regions = features, proposer, regions

    @property
    def proposals(self) -> int:
        """Proposals per image; may be set at any time: more detect more, fewer are faster (Ren et al., table 2)."""
        return self.proposer.select.slots

    @proposals.setter
    def proposals(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"a Faster R-CNN takes one proposal per image at least, got {count}")
        self.proposer.select.slots = count

    def compute_loss(self, images: Images, targets: list[Target]) -> Losses:
        """Scalars `objectness` and `proposal_box` of the RPN, `class` and `box` of the region stage or of each."""
        maps = self.features(images.pixels)
        dense = self.proposer(maps)
        of_proposals = self.proposer.loss(dense, [t.replace(labels=torch.zeros_like(t.labels)) for t in targets])
        with torch.no_grad():
            proposals = self.proposer.detect(dense, images.sizes)
        of_regions = self.regions.loss(maps, proposals, targets)
        return {"objectness": of_proposals["class"], "proposal_box": of_proposals["box"], **of_regions}

    def slots(self, images: Images) -> Slots:
        """Slots (N, S), boxes in pixels of the batch."""
        maps = self.features(images.pixels)
        proposals = self.proposer.detect(self.proposer(maps), images.sizes)
        return self.regions.detect(maps, proposals, images.sizes)


def build(config: FasterRCNNConfig, num_classes: int, pretrained: bool) -> FasterRCNN:
    features = build_shared(config, pretrained)
    return FasterRCNN(features, build_rpn(config, features), build_regions(config, features, num_classes, pretrained))


def build_rpn(config: RPNFields, features: Features) -> AnchorStage:
    """The region proposal network: is there an object, and where about?"""
    scales = config.anchor_scales or ((4.0, 5.7) if config.variant == "fpn" else (2.0, 4.0, 8.0, 16.0, 32.0))
    convention, codec = CONVENTIONS[config.convention], DeltaCodec()
    anchors = AnchorGrid(
        anchor_sizes(features.strides, scales, config.anchor_sizes), config.aspect_ratios, features.strides,
        rounded=convention.round_anchors, stride_from_feature_map=convention.stride_from_feature_map,
    )  # fmt: skip
    return AnchorStage(
        head=AnchorHead(features.channels[0], anchors.per_cell, logits=1, depth=config.rpn_depth, shared=True),
        anchors=anchors, codec=codec,
        assign=MaxIoUAssigner(high=0.7, low=0.3, allow_low_quality_matches=True),
        sample=BalancedSampler(config.rpn_samples, positive=0.5),
        class_loss=binary_cross_entropy, box_loss=DeltaLoss(codec), divide_by="samples",
        select=Select(
            config.rpn_score_threshold, config.rpn_nms_threshold, config.rpn_pre_nms_top_k, config.proposals, "level",
            convention.min_proposal_size,
        ),
    )  # fmt: skip
