"""R-FCN: Faster R-CNN without layers that run per region; the cells of a region vote (Dai et al. 2016).

Not built: the paper's online mining of hard examples (its section 3, OHEM), which was worth 2 points of AP there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from boxwright.backbones.features import Features
from boxwright.detectors.base import build_select
from boxwright.detectors.faster_rcnn import FasterRCNN, build_rpn
from boxwright.detectors.fields import CONVENTIONS
from boxwright.detectors.region_stage import RegionStage, build_region_stage, build_shared, strides_read
from boxwright.layers.conv import ConvSequential, conv_norm
from boxwright.layers.regions import PositionSensitiveAlign, PositionSensitivePool

if TYPE_CHECKING:
    from boxwright.detectors.config import RFCNConfig


class RFCN(FasterRCNN):
    """features -> AnchorStage of one class -> RegionStage, whose convolutions all run before the regions are known."""


class ScoreMaps(nn.Module):
    """Maps of scores for each part of an object, by convolution, and the parts of every region pooled from them."""

    def __init__(
        self, channels: int, width: int, num_classes: int, boxes: int,
        pool: PositionSensitiveAlign | PositionSensitivePool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.pool = pool
        self.reduce = ConvSequential(nn.Conv2d(channels, width, 1), nn.ReLU())
        self.logits = nn.Conv2d(width, pool.size**2 * (num_classes + 1), 1)
        self.deltas = nn.Conv2d(width, pool.size**2 * 4 * boxes, 1)
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        for layer in (self.logits, self.deltas):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, maps: list[Tensor], boxes: Tensor) -> Tensor:
        """Maps (N, C, h, w) and boxes (N, P, 4) to (N * P, K + 1 + 4 B, size, size)."""
        reduced = [self.reduce(features) for features in maps[: len(self.pool.strides)]]
        return self.pool(
            [torch.cat([conv_norm(x, self.logits), conv_norm(x, self.deltas)], dim=1) for x in reduced], boxes
        )


class Vote(nn.Module):
    """The mean over the cells of a region; it has no parameters."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """(R, K + 1 + 4 B, size, size) to logits (R, K + 1) and deltas (R, B, 4)."""
        columns = self.num_classes + 1
        logits, deltas = pooled.mean((2, 3)).split_with_sizes([columns, pooled.shape[1] - columns], 1)
        return logits, deltas.unflatten(1, (-1, 4))


def build(config: RFCNConfig, num_classes: int, pretrained: bool) -> RFCN:
    features = build_shared(config, pretrained)
    return RFCN(features, build_rpn(config, features), build_voting_regions(config, features, num_classes))


def build_voting_regions(config: RFCNConfig, features: Features, num_classes: int) -> RegionStage:
    """Maps of scores, and the vote."""
    operator = PositionSensitiveAlign if config.pool == "align" else PositionSensitivePool
    pool = operator(strides_read(config, features), config.cells, canonical=config.canonical_size)
    boxes = 1 if config.class_agnostic else num_classes
    maps = ScoreMaps(features.channels[0], config.channels, num_classes, boxes, pool)
    convention = CONVENTIONS[config.convention]
    select = build_select(config, num_classes, convention.min_region_size, convention.drop_after_nms)
    return build_region_stage(config, maps, Vote(num_classes), select)
