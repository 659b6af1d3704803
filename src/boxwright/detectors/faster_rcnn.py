"""Faster R-CNN: a region proposal network and a region stage on one set of features (Ren et al. 2015)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from boxwright.assign import Balanced, ByOverlap
from boxwright.backbones import build_backbone
from boxwright.boxes.anchors import AnchorGrid, anchor_sizes
from boxwright.boxes.codec import DeltaCodec
from boxwright.detectors.anchor_stage import AnchorHead, AnchorStage
from boxwright.detectors.base import Detector, Features
from boxwright.detectors.region_stage import RegionHead, RegionStage
from boxwright.detectors.select import Select
from boxwright.layers.pyramid import FeaturePyramid
from boxwright.layers.regions import RegionAlign
from boxwright.losses import DeltaLoss, binary_cross_entropy
from boxwright.types import Images, Losses, Slots, Target


class FasterRCNN(Detector):
    """features -> AnchorStage of one class -> RegionStage, with four losses."""

    def __init__(
        self, features: nn.Module, proposer: AnchorStage, regions: RegionStage, box_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.features, self.proposer, self.regions = features, proposer, regions
        self.box_weight = box_weight

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
            "box": of_regions["box"] * self.box_weight,
        }

    def slots(self, pixels: Tensor, sizes: Tensor) -> Slots:
        maps = self.features(pixels)
        proposals = self.proposer.detect(self.proposer(maps), sizes)
        return self.regions.detect(maps, proposals, sizes)


@dataclass(frozen=True)
class FasterRCNNConfig:
    """The numbers of a Faster R-CNN with a feature pyramid."""

    backbone: str = "efficientnet_lite0"
    """Any of `boxwright.backbones`, or a timm model as timm:NAME."""
    levels: tuple[int, ...] = (3, 4, 5)
    """Levels of the backbone that feed the pyramid; level l has stride 2**l."""
    frozen_stages: int = 2
    """How many stages of the backbone keep their weights, counting the stem."""
    norm: str = "frozen"
    """Batch norm of the backbone: frozen or batch."""
    channels: int = 128
    """Channels of the pyramid."""
    anchor_scales: tuple[float, ...] = (4.0, 5.7)
    """Sides of the anchors in strides of their level."""
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width of the anchors."""
    proposals: int = 300
    """Proposals an image."""
    rpn_samples: int = 256
    """Anchors an image in the loss of the RPN, half of them positive where there are enough."""
    region_samples: int = 128
    """Proposals an image in the loss of the regions, a quarter of them positive."""
    canonical: float = 224.0
    """Regions of this many pixels across are pooled from stride 16, larger ones from coarser maps (FPN, eq. 1)."""
    hidden: int = 512
    """Width of the two fully connected layers."""
    agnostic: bool = False
    """One box prediction for all classes rather than one per class."""
    box_weight: float = 1.0
    """Weight of the regions' box loss."""
    detections: int = 100
    """Detections an image, at most."""

    def build(self, classes: int, pretrained: bool = False) -> FasterRCNN:
        """The detector for so many classes; `pretrained` starts the backbone from ImageNet."""
        backbone = build_backbone(self.backbone, self.levels, pretrained, self.frozen_stages, self.norm)
        pyramid = FeaturePyramid(backbone.channels, self.channels, strides=backbone.strides, extra=1, how="pool")
        anchors = AnchorGrid(anchor_sizes(pyramid.strides, self.anchor_scales), self.ratios, pyramid.strides)
        rpn_codec, codec = DeltaCodec(), DeltaCodec(weights=(10.0, 10.0, 5.0, 5.0))
        proposer = AnchorStage(
            head=AnchorHead(self.channels, anchors.per_cell, classes=1, depth=1, shared=True),
            anchors=anchors,
            codec=rpn_codec,
            assign=ByOverlap(high=0.7, low=0.3, rescue=True),
            sample=Balanced(self.rpn_samples, positive=0.5),
            class_loss=binary_cross_entropy,
            box_loss=DeltaLoss(rpn_codec),
            select=Select(score=0.0, iou=0.7, candidates=1000, slots=self.proposals, within="level"),
            by_positives=False,
        )
        regions = RegionStage(
            pool=RegionAlign(backbone.strides, canonical=self.canonical),
            head=RegionHead(self.channels, 7, self.hidden, classes, self.agnostic),
            codec=codec,
            assign=ByOverlap(high=0.5, low=0.5),
            sample=Balanced(self.region_samples, positive=0.25),
            box_loss=DeltaLoss(codec),
            select=Select(score=0.05, iou=0.5, candidates=1000, slots=self.detections),
        )
        return FasterRCNN(Features(backbone, pyramid), proposer, regions, self.box_weight)
