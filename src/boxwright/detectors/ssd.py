"""SSD: the anchor stage on a backbone's maps and smaller ones behind them, a head for each (Liu et al. 2016).

"SSD: Single Shot MultiBox Detector", ECCV 2016. SSDlite: Sandler et al. 2018, "MobileNetV2", section 6.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.assign import HardNegativeMining, MaxIoUAssigner
from boxwright.backbones import Backbone
from boxwright.boxes.anchors import DefaultBoxes
from boxwright.boxes.codec import DeltaCodec
from boxwright.detectors.anchor_stage import AnchorHead, AnchorStage, Norm, SingleStage, group_norm, unit
from boxwright.detectors.base import DetectorConfig, Features
from boxwright.detectors.select import best, best_of_each_class
from boxwright.layers.conv import init_convs
from boxwright.losses import DeltaLoss, cross_entropy

NORMS: dict[str, Norm] = {"group": group_norm, "batch": partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03), "none": None}


class SSD(SingleStage):
    """maps of all sizes -> AnchorStage that learns from the positives and the hardest of the background."""


class ExtraLevels(nn.Module):
    """The maps as they come, and behind them smaller ones, each half the size of the one before.

    extra      channels of each further map
    unstrided  so many of the last of them leave out the border instead of striding
    lengths    of the finest maps' features: they are scaled to it, and it is learnt per channel (section 3.1)
    """

    def __init__(
        self,
        backbone: Backbone,
        extra: Sequence[int],
        unstrided: int,
        norm: Norm,
        lite: bool,
        lengths: Sequence[float],
    ) -> None:
        super().__init__()
        self.channels = (*backbone.channels, *extra)
        self.strides = (*backbone.strides, *(backbone.strides[-1] * 2**step for step in range(1, len(extra) + 1)))
        self.lengths = nn.ParameterList(
            torch.full((channels, 1, 1), length) for channels, length in zip(backbone.channels, lengths, strict=False)
        )
        self.extra = nn.ModuleList()
        for place, (before, out) in enumerate(pairwise(self.channels[len(backbone.channels) - 1 :])):
            half, strided = out // 2, place < len(extra) - unstrided
            smaller = unit(half, half if lite else out, 3, norm, lite, 2 if strided else 1, padded=strided)
            wider = unit(half, out, 1, norm, lite) if lite else []
            self.extra.append(nn.Sequential(*unit(before, half, 1, norm, lite), *smaller, *wider))
        init_convs(self)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        scaled = [length * F.normalize(x) for length, x in zip(self.lengths, maps, strict=False)]
        x, out = maps[-1], [*scaled, *maps[len(scaled) :]]
        for block in self.extra:
            x = block(x)
            out.append(x)
        return out


class LevelHeads(nn.ModuleList):
    """A head for each level, where RetinaNet has one for all."""

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """A map (N, C, h, w) per level to logits (N, A, K + 1) and deltas (N, A, B, 4)."""
        logits, deltas = zip(*(head([x]) for head, x in zip(self, maps, strict=True)), strict=True)
        return torch.cat(logits, 1), torch.cat(deltas, 1)


@dataclass(frozen=True)
class SSDConfig(DetectorConfig):
    """The numbers of an SSD."""

    extra: tuple[int, ...] = (256, 128)
    """Channels of the levels behind the backbone's, each of half the size of the one before."""
    unstrided: int = 0
    """So many of the last ones leave out the border of the one before instead (SSD300: 2, from 5x5 to 1x1)."""
    lite: bool = False
    """SSDlite: depthwise convolutions in the heads and the further levels."""
    head_norm: Literal["group", "batch", "none"] = "group"
    """What follows their convolutions; the paper has none, SSDlite batch norm."""
    lengths: tuple[float, ...] = (10.0, 10.0, 10.0)
    """Lengths to which the backbone's maps are scaled at every cell (the paper: 20, the finest only)."""
    box_scale: float = 3.0
    """Sides of the default boxes in strides of their level, whatever the size of the image."""
    box_sizes: tuple[float, ...] = ()
    """The same in pixels, per level and one more (the paper's SSD300: 30 60 111 ... 315); () takes `box_scale`."""
    box_steps: tuple[float, ...] = ()
    """Pixels from one default box to the next, per level; () takes the strides."""
    box_limit: float | None = None
    """No default box is wider or higher than so many pixels: the side of the image where it is always the same."""
    ratios: tuple[float, ...] = (2.0, 3.0)
    """Width over height of the default boxes that lie; each also stands."""
    end_ratios: tuple[float, ...] = (2.0,)
    """The same on the finest level and the last two."""
    agnostic: bool = True
    """One box prediction for all classes rather than one per class."""
    nms: float = 0.45
    """IoU above which the lower-scored of two boxes of a class goes."""
    per_class: bool = False
    """`pre_nms_top_k` is how many boxes of each class enter that suppression, rather than of each level."""

    def build(self, classes: int, pretrained: bool = False) -> SSD:
        backbone, norm = self.features(pretrained).backbone, NORMS[self.head_norm]
        maps = ExtraLevels(backbone, self.extra, self.unstrided, norm, self.lite, self.lengths)
        levels = len(maps.strides)
        sizes = self.box_sizes or tuple(self.box_scale * stride for stride in (*maps.strides, 2 * maps.strides[-1]))
        ratios = [self.end_ratios if level in (0, levels - 2, levels - 1) else self.ratios for level in range(levels)]
        steps, limit, habits = self.box_steps or maps.strides, self.box_limit or math.inf, self.habits()
        anchors = DefaultBoxes(
            sizes,
            tuple(ratios),
            steps,
            limit=limit,
            stride_from_feature_map=habits.stride_from_feature_map and not self.box_steps,
        )
        codec = DeltaCodec(weights=(10.0, 10.0, 5.0, 5.0))
        boxes, depth = 1 if self.agnostic else classes, 1 if self.lite else 0
        stage = AnchorStage(
            head=LevelHeads(
                AnchorHead(channels, cell, classes + 1, depth, False, norm=norm, boxes=boxes, lite=self.lite)
                for channels, cell in zip(maps.channels, anchors.per_cell, strict=True)
            ),
            anchors=anchors,
            codec=codec,
            assign=MaxIoUAssigner(high=0.5, low=0.5, match_best_prior=True),
            sample=HardNegativeMining(ratio=3.0),
            class_loss=cross_entropy,
            box_loss=DeltaLoss(codec, beta=1.0),
            select=self.select(classes, habits.smallest),
            softmax=True,
            choose=best_of_each_class if self.per_class else best,
        )
        return SSD(Features(backbone, maps), stage)  # type: ignore[arg-type]
