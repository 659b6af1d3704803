"""FCOS: no anchors; points near the middle of an object predict the distances to its sides (Tian et al. 2019).

"FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019. From "FCOS: A Simple and Strong Anchor-free Object
Detector", PAMI 2020: centre sampling, centre-ness beside the boxes, the root of the score.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from boxwright.assign import ATSSAssigner, CenterAssigner, TaskAlignedAssigner, all_valid_anchors
from boxwright.boxes.anchors import AnchorGrid, DistanceCodec, anchor_sizes
from boxwright.detectors.anchor_stage import AnchorHead, AnchorStage, Norm, SingleStage, group_norms, per_anchor
from boxwright.detectors.base import build_pyramid, build_select
from boxwright.detectors.fields import CONVENTIONS
from boxwright.layers.conv import conv_norm
from boxwright.losses import CLASS_LOSSES, Centered, GIoULoss, centerness_loss

if TYPE_CHECKING:
    from boxwright.detectors.config import FCOSConfig


class FCOS(SingleStage):
    """feature pyramid -> AnchorStage whose anchors are the cells, and which also scores how centred a cell is."""


class PointHead(AnchorHead):
    """One set of distances a cell, times a number learnt per level, and centre-ness beside them if the score has it."""

    def __init__(
        self, channels: int, num_classes: int, depth: int, prior: float, norm: Norm, levels: int, level_scales: bool,
        centerness: bool,
    ) -> None:  # fmt: skip
        super().__init__(channels, 1, num_classes, depth, shared=False, prior=prior, norm=norm, bias=True)
        self.centerness = nn.Conv2d(channels, 1, 3, padding=1) if centerness else None
        if self.centerness is not None:
            nn.init.normal_(self.centerness.weight, std=0.01)
            nn.init.zeros_(self.centerness.bias)  # type: ignore[arg-type]
        self.scales = nn.Parameter(torch.ones(levels)) if level_scales else None

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, ...]:
        """Maps (N, C, h, w) to logits (N, A, K), distances (N, A, 1, 4) and, if it is learnt, centre-ness (N, A)."""
        logits, sides, middle = [], [], []
        for level, features in enumerate(maps):
            for_box = self.box_tower(features)
            scale = 1.0 if self.scales is None else self.scales[level]
            logits.append(per_anchor(conv_norm(self.class_tower(features), self.logits), self.columns))
            sides.append(per_anchor(conv_norm(for_box, self.deltas), 1, 4) * scale)
            if self.centerness is not None:
                middle.append(per_anchor(conv_norm(for_box, self.centerness)))
        return tuple(torch.cat(outputs, 1) for outputs in (logits, sides, middle) if outputs)


def build(config: FCOSConfig, num_classes: int, pretrained: bool) -> FCOS:
    features = build_pyramid(config, pretrained, config.channels, extra=2, how="conv")
    strides, convention = features.strides, CONVENTIONS[config.convention]
    from_map = convention.stride_from_feature_map
    cells = AnchorGrid(anchor_sizes(strides, (1.0,)), (1.0,), strides, config.offset, stride_from_feature_map=from_map)
    codec = DistanceCodec(config.distances)
    box_loss, norm, hard = GIoULoss(codec), group_norms(config.group_channels), config.class_loss == "focal"
    assigners = {
        "center": CenterAssigner(config.center_sampling_radius, config.regress_range),
        "atss": ATSSAssigner(scale=4.0),
        "task_aligned": TaskAlignedAssigner(),
    }
    stage = AnchorStage(
        head=PointHead(
            config.channels, num_classes, config.depth, config.prior, norm, len(strides), config.level_scales, hard
        ),
        anchors=cells,
        codec=codec,
        assign=assigners[config.assignment],
        sample=all_valid_anchors,
        class_loss=CLASS_LOSSES[config.class_loss],
        box_loss=Centered(box_loss) if config.weight_by_centerness else box_loss,
        select=build_select(config, num_classes, convention.min_size),
        quality_loss=centerness_loss if hard else None,
        iou_targets=not hard,
    )
    if config.assignment == "atss":  # a point's first box is the one by which it is assigned: two strides to each side
        nn.init.constant_(stage.head.deltas.bias, 2.0 if config.distances == "relu" else math.log(2))  # type: ignore
    return FCOS(features, stage)
