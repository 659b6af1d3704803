"""Fast R-CNN: shared features that learn, regions pooled from them, class and box in one loss (Girshick 2015)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boxwright.detectors.proposed import ProposedDetector
from boxwright.detectors.region_stage import build_regions, build_shared

if TYPE_CHECKING:
    from boxwright.detectors.config import FastRCNNConfig


class FastRCNN(ProposedDetector):
    """features -> RegionStage: the whole network but the proposals learns at once."""


def build(config: FastRCNNConfig, num_classes: int, pretrained: bool) -> FastRCNN:
    features = build_shared(config, pretrained)
    regions = build_regions(config, features, num_classes, pretrained)
    return FastRCNN(features, regions, config.build_proposer())
