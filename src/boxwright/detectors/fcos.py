"""FCOS: no anchors; points near the middle of an object say how far away its sides are (Tian et al. 2019).

"FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019. From "FCOS: A Simple and Strong Anchor-free Object
Detector", PAMI 2020: centre sampling, centre-ness beside the boxes, the root of the score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from boxwright.assign import CenterAssigner, all_valid_anchors
from boxwright.boxes.anchors import AnchorGrid, anchor_sizes
from boxwright.boxes.codec import DistanceCodec
from boxwright.detectors.anchor_stage import AnchorHead, AnchorStage, SingleStage, group_norm, per_anchor
from boxwright.detectors.base import DetectorConfig
from boxwright.losses import Centered, GIoULoss, centerness_loss, focal


class FCOS(SingleStage):
    """feature pyramid -> AnchorStage whose anchors are the cells, and which also says how centred a cell is."""


class PointHead(AnchorHead):
    """One set of distances a cell, times a number learnt per level, and centre-ness beside them."""

    def __init__(self, channels: int, classes: int, depth: int, prior: float, levels: int, scaled: bool) -> None:
        super().__init__(channels, 1, classes, depth, shared=False, prior=prior, norm=group_norm, bias=True)
        self.centerness = nn.Conv2d(channels, 1, 3, padding=1)
        nn.init.normal_(self.centerness.weight, std=0.01)
        nn.init.zeros_(self.centerness.bias)  # type: ignore[arg-type]
        self.scales = nn.Parameter(torch.ones(levels)) if scaled else None

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Maps (N, C, h, w) to logits (N, A, K), distances (N, A, 1, 4) and centre-ness (N, A)."""
        logits, sides, middle = [], [], []
        for level, features in enumerate(maps):
            for_box = self.box_tower(features)
            scale = 1.0 if self.scales is None else self.scales[level]
            logits.append(per_anchor(self.logits(self.class_tower(features)), self.columns))
            sides.append(per_anchor(self.deltas(for_box), 1, 4) * scale)
            middle.append(per_anchor(self.centerness(for_box)))
        return torch.cat(logits, 1), torch.cat(sides, 1), torch.cat(middle, 1)


@dataclass(frozen=True)
class FCOSConfig(DetectorConfig):
    """The numbers of an FCOS."""

    channels: int = 128
    """Channels of the pyramid and the heads."""
    depth: int = 4
    """Convolutions in each head."""
    distances: Literal["exp", "relu"] = "exp"
    """What makes numbers distances in strides: exp (the paper), or relu (torchvision)."""
    scaled: bool = True
    """Learn a factor per level on these numbers; torchvision has none."""
    offset: float = 0.5
    """Where in its cell a point lies: 0.5 the middle, 0 the top left corner (torchvision)."""
    radius: float = 1.5
    """Points so many strides around the middle of an object learn it; inf takes all inside."""
    reach: float = 8.0
    """The farthest side of an object that a level learns, in strides."""
    centered: bool = True
    """Weigh the box loss by centre-ness, as the authors' code does; the paper's formula and torchvision do not."""
    prior: float = 0.01
    """Probability every point starts with."""
    score: tuple[float, ...] = (0.1,)
    """A detection scores more than this: one number, or one for each class in order."""

    def build(self, classes: int, pretrained: bool = False) -> FCOS:
        features, habits = self.pyramid(pretrained, self.channels, extra=2, how="conv"), self.habits()
        cells = AnchorGrid(
            anchor_sizes(features.strides, (1.0,)),
            (1.0,),
            features.strides,
            self.offset,
            stride_from_feature_map=habits.stride_from_feature_map,
        )
        codec = DistanceCodec(self.distances)
        box_loss = GIoULoss(codec)
        stage = AnchorStage(
            head=PointHead(self.channels, classes, self.depth, self.prior, len(features.strides), self.scaled),
            anchors=cells,
            codec=codec,
            assign=CenterAssigner(self.radius, self.reach),
            sample=all_valid_anchors,
            class_loss=focal,
            box_loss=Centered(box_loss) if self.centered else box_loss,
            select=self.select(classes, habits.smallest),
            quality_loss=centerness_loss,
        )
        return FCOS(features, stage)
