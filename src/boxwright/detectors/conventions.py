"""Where implementations of one paper differ without it being an idea of anybody, as numbers that weights depend on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Convention:
    """The details of a library. They hardly matter in training; weights trained with one convention need that one.

    round_anchors            anchors around (0, 0) are rounded to whole pixels
    stride_from_feature_map  from one anchor to the next it is the side of the image over that of the map, rather than
                             the stride; they differ where a map was rounded up
    aligned                  RoI align places a feature in the middle of its cell
    sampling_ratio           sample points of RoI align per cell and side; 0: as many as the cell has features
    min_proposal_size, min_region_size, min_size
                             pixels; a box that is narrower or lower once clipped is dropped: proposals of a region
                             proposal network, detections of a region stage, detections of a single stage
    clip_after_nms           detections of a single stage are clipped after NMS rather than before
    """

    round_anchors: bool = False
    stride_from_feature_map: bool = False
    aligned: bool = True
    sampling_ratio: int = 2
    min_proposal_size: float = 1e-3
    min_region_size: float = 1e-3
    min_size: float = 1e-3
    clip_after_nms: bool = False


CONVENTIONS = {
    "boxwright": Convention(),
    "torchvision": Convention(
        round_anchors=True, stride_from_feature_map=True, aligned=False, min_region_size=1e-2, min_size=0.0
    ),
    "detectron2": Convention(
        sampling_ratio=0, min_proposal_size=1e-9, min_region_size=1e-9, min_size=1e-9, clip_after_nms=True
    ),
}
