"""RetinaNet: the anchor stage alone, with K classes, deeper heads and focal loss (Lin et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from boxwright.assign import ByOverlap, everything
from boxwright.backbones import build_backbone
from boxwright.boxes.anchors import AnchorGrid, anchor_sizes
from boxwright.boxes.codec import DeltaCodec
from boxwright.detectors.anchor_stage import AnchorHead, AnchorStage, group_norm
from boxwright.detectors.base import Detector, Features
from boxwright.detectors.select import Select
from boxwright.layers.pyramid import FeaturePyramid
from boxwright.losses import DeltaLoss, focal
from boxwright.types import Images, Losses, Slots, Target


class RetinaNet(Detector):
    """features -> AnchorStage of K classes, with two losses."""

    def __init__(self, features: nn.Module, anchors: AnchorStage) -> None:
        super().__init__()
        self.features, self.anchors = features, anchors

    def loss(self, images: Images, targets: list[Target]) -> Losses:
        """Focal class loss and box loss, both over the number of positive anchors."""
        return self.anchors.loss(self.anchors(self.features(images.pixels)), targets)

    def slots(self, pixels: Tensor, sizes: Tensor) -> Slots:
        return self.anchors.detect(self.anchors(self.features(pixels)), sizes)


@dataclass(frozen=True)
class RetinaNetConfig:
    """The numbers of a RetinaNet."""

    backbone: str = "efficientnet_lite0"
    """Any of `boxwright.backbones`, or a timm model as timm:NAME."""
    levels: tuple[int, ...] = (3, 4, 5)
    """Levels of the backbone that feed the pyramid; level l has stride 2**l."""
    frozen_stages: int = 2
    """How many stages of the backbone keep their weights, counting the stem."""
    norm: str = "frozen"
    """Batch norm of the backbone: frozen or batch."""
    channels: int = 128
    """Channels of the pyramid and the heads."""
    depth: int = 4
    """Convolutions in each head."""
    head_norm: Literal["group", "none"] = "group"
    """What follows them; the paper has none, and learns more slowly at first."""
    anchor_scales: tuple[float, ...] = (2.5, 2.5 * 2 ** (1 / 3), 2.5 * 2 ** (2 / 3))
    """Sides of the anchors in strides of their level; the paper's, 4 in place of 2.5, are for pictures of 800 pixels."""
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width of the anchors."""
    prior: float = 0.01
    """Probability every anchor starts with."""
    detections: int = 100
    """Detections an image, at most."""

    def build(self, classes: int, pretrained: bool = False) -> RetinaNet:
        """The detector for so many classes; `pretrained` starts the backbone from ImageNet."""
        backbone = build_backbone(self.backbone, self.levels, pretrained, self.frozen_stages, self.norm)
        pyramid = FeaturePyramid(backbone.channels, self.channels, strides=backbone.strides, extra=2, how="conv")
        anchors = AnchorGrid(anchor_sizes(pyramid.strides, self.anchor_scales), self.ratios, pyramid.strides)
        codec = DeltaCodec()
        norm = group_norm if self.head_norm == "group" else None
        stage = AnchorStage(
            head=AnchorHead(self.channels, anchors.per_cell, classes, self.depth, False, self.prior, norm),
            anchors=anchors,
            codec=codec,
            assign=ByOverlap(high=0.5, low=0.4, rescue=True),
            sample=everything,
            class_loss=focal,
            box_loss=DeltaLoss(codec),
            select=Select(score=0.05, iou=0.5, candidates=1000, slots=self.detections),
            by_positives=True,
        )
        return RetinaNet(Features(backbone, pyramid), stage)
