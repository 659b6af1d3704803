"""RetinaNet: the anchor stage alone, with K classes, deeper heads and focal loss (Lin et al. 2017)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boxwright.assign import ATSSAssigner, MaxIoUAssigner, TaskAlignedAssigner, all_valid_anchors
from boxwright.boxes.anchors import AnchorGrid, DeltaCodec, anchor_sizes
from boxwright.detectors.anchor_stage import AnchorHead, AnchorStage, SingleStage, group_norms
from boxwright.detectors.base import build_pyramid, build_select
from boxwright.detectors.fields import CONVENTIONS
from boxwright.losses import BOX_LOSSES, CLASS_LOSSES

if TYPE_CHECKING:
    from boxwright.detectors.config import RetinaNetConfig


class RetinaNet(SingleStage):
    """feature pyramid -> AnchorStage that learns from every anchor."""


def build(config: RetinaNetConfig, num_classes: int, pretrained: bool) -> RetinaNet:
    how = "conv_c5" if config.extra_from == "backbone" else "conv"
    features = build_pyramid(config, pretrained, config.channels, extra=2, how=how)
    convention, codec = CONVENTIONS[config.convention], DeltaCodec()
    sizes = anchor_sizes(features.strides, config.anchor_scales, config.anchor_sizes)
    anchors = AnchorGrid(
        sizes, config.aspect_ratios, features.strides,
        rounded=convention.round_anchors, stride_from_feature_map=convention.stride_from_feature_map,
    )  # fmt: skip
    norm = group_norms(config.group_channels) if config.head_norm == "group" else None
    boxes = 1 if config.class_agnostic else num_classes
    assigners = {
        "max_iou": MaxIoUAssigner(high=0.5, low=0.4, allow_low_quality_matches=True),
        "atss": ATSSAssigner(9 * anchors.per_cell),
        "task_aligned": TaskAlignedAssigner(),
    }
    stage = AnchorStage(
        head=AnchorHead(config.channels, anchors.per_cell, num_classes, config.depth, False, config.prior, norm, boxes),
        anchors=anchors,
        codec=codec,
        assign=assigners[config.assignment],
        sample=all_valid_anchors,
        class_loss=CLASS_LOSSES[config.class_loss],
        box_loss=BOX_LOSSES[config.box_loss](codec),
        select=build_select(config, num_classes, convention.min_size, clip_after_nms=convention.clip_after_nms),
        iou_targets=config.class_loss != "focal",
    )
    return RetinaNet(features, stage)
