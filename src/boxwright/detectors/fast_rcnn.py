"""Fast R-CNN: shared features that learn, regions pooled from them, class and box in one loss (Girshick 2015)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from boxwright.backbones import build_tail
from boxwright.detectors.anchor_stage import tower
from boxwright.detectors.base import Features, build_features, build_pyramid
from boxwright.detectors.fields import SharedFields
from boxwright.detectors.proposed import ProposedDetector
from boxwright.detectors.region_stage import GlobalAveragePool, RegionHead, RegionStage, build_region_stage, mlp_head
from boxwright.layers.regions import RegionAlign, RegionPool

if TYPE_CHECKING:
    from boxwright.detectors.config import FasterRCNNConfig, FastRCNNConfig


class FastRCNN(ProposedDetector):
    """features -> RegionStage: the whole network but the proposals learns at once."""


def build(config: FastRCNNConfig, num_classes: int, pretrained: bool) -> FastRCNN:
    features = build_shared(config, pretrained)
    regions = build_regions(config, features, num_classes, pretrained)
    return FastRCNN(features, regions, config.build_proposer())


def build_shared(config: SharedFields, pretrained: bool) -> Features:
    """What the regions of an image share: a pyramid, or one map."""
    if config.variant == "fpn":
        return build_pyramid(config, pretrained, config.channels, extra=1, how="pool")
    if config.variant == "c4":
        return build_features(config, pretrained, levels=(4,))
    return build_features(config, pretrained, levels=(5,), dilated=True)


def build_regions(
    config: FastRCNNConfig | FasterRCNNConfig, features: Features, num_classes: int, pretrained: bool
) -> RegionStage:
    """Pooling from what is shared, and the head: fully connected layers, or the last stage of the backbone."""
    if config.variant == "c4":
        tail = build_tail(config.backbone, pretrained, config.norm)
        size, width, hidden = tail.size, tail.channels, GlobalAveragePool(tail)
    else:
        size, width, channels = 7, config.hidden, features.channels[0]
        hidden = mlp_head(channels * size * size, width, config.head_layers)
        if config.head_convs:
            hidden = nn.Sequential(tower(channels, config.head_convs), hidden)
    strides, convention = strides_read(config, features), config.library_convention()
    if config.pool == "align":
        pool = RegionAlign(strides, size, convention.sampling_ratio, config.canonical_size, convention.aligned)
    else:
        pool = RegionPool(strides, size, config.canonical_size)
    head = RegionHead(hidden, width, num_classes, config.class_agnostic)
    return build_region_stage(config, pool, head, num_classes, convention.min_region_size)


def strides_read(config: SharedFields, features: Features) -> tuple[int, ...]:
    """Strides of the maps that regions are pooled from: the backbone's, of two alike the first."""
    return tuple(dict.fromkeys(features.strides[: len(config.levels)]))
