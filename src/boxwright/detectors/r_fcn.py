"""R-FCN: Faster R-CNN without layers of a region's own; the cells of a region vote on maps of scores (Dai et al. 2016).

Not built: the paper's online mining of hard examples (its section 3, OHEM), which was worth 2 points of AP there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from boxwright.detectors.base import Features
from boxwright.detectors.faster_rcnn import FasterRCNN, FasterRCNNConfig
from boxwright.detectors.region_stage import RegionStage
from boxwright.layers.regions import PositionSensitiveAlign, PositionSensitivePool


class RFCN(FasterRCNN):
    """features -> AnchorStage of one class -> RegionStage, whose convolutions all run before the regions are known."""


class ScoreMaps(nn.Module):
    """Maps of what each part of an object would say, by convolution, and the parts of every region pooled from them."""

    def __init__(
        self, channels: int, width: int, classes: int, boxes: int, pool: PositionSensitiveAlign | PositionSensitivePool
    ) -> None:
        super().__init__()
        self.pool = pool
        self.reduce = nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU())
        self.logits = nn.Conv2d(width, pool.size**2 * (classes + 1), 1)
        self.deltas = nn.Conv2d(width, pool.size**2 * 4 * boxes, 1)
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        for layer in (self.logits, self.deltas):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor], boxes: Tensor) -> Tensor:
        """Maps (N, C, h, w) and boxes (N, P, 4) to (N * P, K + 1 + 4 B, size, size)."""
        reduced = [self.reduce(features) for features in maps[: len(self.pool.strides)]]
        return self.pool([torch.cat([self.logits(x), self.deltas(x)], dim=1) for x in reduced], boxes)


class Vote(nn.Module):
    """The mean over the cells of a region, and nothing that could learn."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """(R, K + 1 + 4 B, size, size) to logits (R, K + 1) and deltas (R, B, 4)."""
        logits, deltas = pooled.mean((2, 3)).split_with_sizes([self.classes + 1, pooled.shape[1] - self.classes - 1], 1)
        return logits, deltas.unflatten(1, (-1, 4))


@dataclass(frozen=True)
class RFCNConfig(FasterRCNNConfig):
    """The numbers of an R-FCN. The paper's: `variant="dc5"`, `pool="pool"`, `channels=1024` on a ResNet-101."""

    cells: int = 7
    """Cells a side into which a region is divided (k)."""
    agnostic: bool = True
    """One box prediction for all classes rather than one per class."""

    def build(self, classes: int, pretrained: bool = False) -> RFCN:
        if self.variant == "c4":
            raise ValueError("an R-FCN has no layers of a region's own: its variants are fpn and dc5, got 'c4'")
        features = self.shared(pretrained)
        return RFCN(features, self.rpn(features), self.region_stage(features, classes, pretrained))

    def region_stage(self, features: Features, classes: int, pretrained: bool) -> RegionStage:
        """Maps of scores, and the vote."""
        kinds = {"align": PositionSensitiveAlign, "pool": PositionSensitivePool}
        pool = kinds[self.pool](self.read(features), self.cells, canonical=self.canonical)
        boxes = 1 if self.agnostic else classes
        maps = ScoreMaps(features.channels[0], self.channels, classes, boxes, pool)
        return self.regions(maps, Vote(classes), classes)
