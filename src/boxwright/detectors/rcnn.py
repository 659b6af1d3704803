"""R-CNN: every proposal is cut out, warped to the input of a classifier, and classified (Girshick et al. 2014).

The paper trains three times: the network with a softmax, a linear SVM per class on its features, and ridge regressions
from features to boxes. Here the softmax stays and the boxes learn with it; the SVMs are not built. They were worth some
points of AP because they had stricter positives and hard negatives (appendix B), and Fast R-CNN's softmax did without
them (its section 5.4); they would need the features of every region of all images on disk, and another training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from boxwright.detectors.base import Select, build_features, least_background
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
    parts: dict[str, Any] = {"chunk": config.chunk}
    if config.choose == "least_background":  # whatever their scores
        select = Select(0.0, config.nms_threshold, config.pre_nms_top_k, config.max_detections)
        parts |= {"choose": least_background, "select": select}
    regions = build_region_stage(
        config,
        WarpRegions(config.warp_size, config.context, fill=network.backbone.pixel_mean),
        RegionHead(GlobalAveragePool(network), network.channels[-1], num_classes, config.class_agnostic),
        num_classes,
        **parts,
    )
    return RCNN(nothing_shared, regions, config.build_proposer())
