"""SSD: the anchor stage on a backbone's maps and smaller ones behind them, a head for each (Liu et al. 2016).

"SSD: Single Shot MultiBox Detector", ECCV 2016. SSDlite: Sandler et al. 2018, "MobileNetV2", section 6.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.assign import HardNegativeMining, MaxIoUAssigner
from boxwright.backbones import Backbone
from boxwright.backbones.features import Features, Neck
from boxwright.boxes.anchors import DefaultBoxes, DeltaCodec
from boxwright.detectors.anchor_stage import AnchorHead, AnchorStage, Norm, SingleStage, group_norms, unit
from boxwright.detectors.base import best, best_of_each_class, build_features, build_select
from boxwright.detectors.fields import CONVENTIONS
from boxwright.layers.conv import ConvSequential, init_convs
from boxwright.losses import DeltaLoss, cross_entropy

if TYPE_CHECKING:
    from boxwright.detectors.config import SSDConfig

BATCH_NORM = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)


class SSD(SingleStage):
    """maps of all sizes -> AnchorStage that learns from the positives and the hardest of the background."""


class ExtraLevels(Neck):
    """The maps as they come, and behind them smaller ones, each half the size of the one before.

    extra      channels of each further map
    unstrided  so many of the last of them leave out the border instead of striding
    lengths    of the finest maps' features: they are scaled to it, and it is learnt per channel (section 3.1)
    widen      maps with fewer channels are widened to so many
    """

    def __init__(
        self, backbone: Backbone, extra: Sequence[int], unstrided: int, norm: Norm, lite: bool,
        lengths: Sequence[float], widen: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        channels = (*backbone.channels, *extra)
        self.channels = tuple(max(number, widen) for number in channels)
        self.strides = (*backbone.strides, *(backbone.strides[-1] * 2**step for step in range(1, len(extra) + 1)))
        self.lengths = nn.ParameterList(
            torch.full((channels, 1, 1), length) for channels, length in zip(backbone.channels, lengths, strict=False)
        )
        self.extra = nn.ModuleList()
        for index, (before, out) in enumerate(pairwise(channels[len(backbone.channels) - 1 :])):
            half, strided = out // 2, index < len(extra) - unstrided
            smaller = unit(half, half if lite else out, 3, norm, lite, 2 if strided else 1, padded=strided)
            wider = unit(half, out, 1, norm, lite) if lite else []
            self.extra.append(ConvSequential(*unit(before, half, 1, norm, lite), *smaller, *wider))
        self.wide = nn.ModuleList(
            ConvSequential(*(unit(before, out, 1, norm, lite) if out > before else []))
            for before, out in zip(channels, self.channels, strict=True)
        )
        init_convs(self)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps (N, C, h, w), the finest ones scaled, and the further ones: one for each of `strides`."""
        scaled = [length * F.normalize(x) for length, x in zip(self.lengths, maps, strict=False)]
        x, out = maps[-1], [*scaled, *maps[len(scaled) :]]
        for block in self.extra:
            x = block(x)
            out.append(x)
        return [wide(x) for wide, x in zip(self.wide, out, strict=True)]


class LevelHeads(nn.ModuleList):
    """A head for each level, where RetinaNet has one for all."""

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """A map (N, C, h, w) per level to logits (N, A, K + 1) and deltas (N, A, B, 4)."""
        logits, deltas = zip(*(head([x]) for head, x in zip(self, maps, strict=True)), strict=True)
        return torch.cat(logits, 1), torch.cat(deltas, 1)


def build(config: SSDConfig, num_classes: int, pretrained: bool) -> SSD:
    norms: dict[str, Norm] = {"group": group_norms(config.group_channels), "batch": BATCH_NORM, "none": None}
    backbone, norm = build_features(config, pretrained).backbone, norms[config.head_norm]
    widen = 256 * config.lite if config.widen is None else config.widen
    maps = ExtraLevels(backbone, config.extra, config.unstrided, norm, config.lite, config.lengths, widen)
    anchors, convention = build_default_boxes(config, maps), CONVENTIONS[config.convention]
    codec = DeltaCodec(weights=(10.0, 10.0, 5.0, 5.0))
    boxes, depth = 1 if config.class_agnostic else num_classes, 1 if config.lite else 0
    stage = AnchorStage(
        head=LevelHeads(
            AnchorHead(channels, cell, num_classes + 1, depth, False, norm=norm, boxes=boxes, lite=config.lite)
            for channels, cell in zip(maps.channels, anchors.per_cell, strict=True)
        ),
        anchors=anchors,
        codec=codec,
        assign=MaxIoUAssigner(high=0.5, low=0.5, match_best_prior=True),
        sample=HardNegativeMining(ratio=3.0),
        class_loss=cross_entropy,
        box_loss=DeltaLoss(codec, beta=1.0),
        select=build_select(config, num_classes, convention.min_size),
        softmax=True,
        choose=best_of_each_class if config.per_class else best,
    )
    return SSD(Features(backbone, maps), stage)


def build_default_boxes(config: SSDConfig, maps: ExtraLevels) -> DefaultBoxes:
    """Their sizes, ratios and steps on every level."""
    levels = len(maps.strides)
    ends = (0, levels - 2, levels - 1)
    sizes = tuple(config.box_scale * stride for stride in (*maps.strides, 2 * maps.strides[-1]))
    return DefaultBoxes(
        config.box_sizes or sizes,
        tuple(config.end_aspect_ratios if level in ends else config.aspect_ratios for level in range(levels)),
        config.box_steps or maps.strides,
        limit=math.inf if config.box_limit is None else config.box_limit,
        stride_from_feature_map=CONVENTIONS[config.convention].stride_from_feature_map and not config.box_steps,
    )
