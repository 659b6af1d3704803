"""R-CNN: every proposal is cut out, warped to the input of a classifier, and classified (Girshick et al. 2014).

The paper trains three times: the network with a softmax, a linear SVM per class on its features, and ridge regressions
from features to boxes. Here the softmax stays and the boxes learn with it; the SVMs are not built. They were worth some
points of AP because they had stricter positives and hard negatives (appendix B), and Fast R-CNN's softmax did without
them (its section 5.4); they would need the features of every region of all images on disk, and another training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from boxwright.detectors.base import best, build_features, build_select, least_background
from boxwright.detectors.proposed import ProposedDetector
from boxwright.detectors.region_stage import GlobalAveragePool, RegionHead, build_region_stage
from boxwright.layers.warp import WarpRegions

if TYPE_CHECKING:
    from boxwright.detectors.config import RCNNConfig


class RCNN(ProposedDetector):
    """pixels -> RegionStage, whose head is a whole network that runs on every region."""


def nothing_shared(pixels: Tensor) -> list[Tensor]:
    """Every region begins with the pixels (N, 3, H, W)."""
    return [pixels]


def build(config: RCNNConfig, num_classes: int, pretrained: bool) -> RCNN:
    network = build_features(config, pretrained)
    pool = WarpRegions(config.warp_size, config.context, fill=network.backbone.pixel_mean)
    head = RegionHead(GlobalAveragePool(network), network.channels[-1], num_classes, config.class_agnostic)
    choose, select = best, build_select(config, num_classes)
    if config.choose == "least_background":
        choose, select.score_threshold = least_background, 0.0  # whatever their scores
    regions = build_region_stage(config, pool, head, select, choose, config.chunk)
    return RCNN(nothing_shared, regions, config.build_proposer())
