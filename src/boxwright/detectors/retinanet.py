"""RetinaNet: the anchor stage alone, with K classes, deeper heads and focal loss (Lin et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from boxwright.assign import MaxIoUAssigner, all_valid_anchors
from boxwright.boxes.anchors import AnchorGrid, anchor_sizes
from boxwright.boxes.codec import DeltaCodec
from boxwright.detectors.anchor_stage import AnchorHead, AnchorStage, SingleStage, group_norm
from boxwright.detectors.base import DetectorConfig
from boxwright.losses import DeltaLoss, focal


class RetinaNet(SingleStage):
    """feature pyramid -> AnchorStage that learns from every anchor."""


@dataclass(frozen=True)
class RetinaNetConfig(DetectorConfig):
    """The numbers of a RetinaNet."""

    channels: int = 128
    """Channels of the pyramid and the heads."""
    extra_from: Literal["pyramid", "backbone"] = "pyramid"
    """Where the two levels behind the backbone's come from: the pyramid's coarsest map, or the backbone's (paper)."""
    depth: int = 4
    """Convolutions in each head."""
    head_norm: Literal["group", "none"] = "group"
    """What follows them; the paper has none, and learns more slowly at first."""
    anchor_scales: tuple[float, ...] = (2.5, 2.5 * 2 ** (1 / 3), 2.5 * 2 ** (2 / 3))
    """Sides of the anchors in strides of their level; the paper has 4 in place of 2.5, for images of 800 px."""
    anchor_sizes: tuple[float, ...] = ()
    """The same in pixels, level by level, equally many on each; () takes `anchor_scales`."""
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width of the anchors."""
    prior: float = 0.01
    """Probability every anchor starts with."""
    agnostic: bool = True
    """One box prediction for all classes rather than one per class."""

    def build(self, classes: int, pretrained: bool = False) -> RetinaNet:
        habits, how = self.habits(), "conv_c5" if self.extra_from == "backbone" else "conv"
        features = self.pyramid(pretrained, self.channels, extra=2, how=how)
        sizes = anchor_sizes(features.strides, self.anchor_scales, self.anchor_sizes)
        anchors = AnchorGrid(
            sizes,
            self.ratios,
            features.strides,
            rounded=habits.rounded,
            stride_from_feature_map=habits.stride_from_feature_map,
        )
        codec, boxes = DeltaCodec(), 1 if self.agnostic else classes
        norm = group_norm if self.head_norm == "group" else None
        stage = AnchorStage(
            head=AnchorHead(self.channels, anchors.per_cell, classes, self.depth, False, self.prior, norm, boxes),
            anchors=anchors,
            codec=codec,
            assign=MaxIoUAssigner(high=0.5, low=0.4, allow_low_quality_matches=True),
            sample=all_valid_anchors,
            class_loss=focal,
            box_loss=DeltaLoss(codec),
            select=self.select(classes, habits.smallest, habits.clip_after_nms),
        )
        return RetinaNet(features, stage)
