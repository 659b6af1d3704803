"""Where implementations of one paper differ without it being an idea of anybody, as numbers that weights depend on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Conventions:
    """Habits of a library. Scores hardly depend on them in training; a checkpoint trained with one needs that one.

    rounded    anchors around (0, 0) are rounded to whole pixels
    fitted     from one anchor to the next it is the side of the image over that of the map, rather than the stride;
               they differ where a map was rounded up
    aligned    RoI align takes a feature to lie in the middle of its cell
    sampling   its sample points per cell and side; 0: as many as the cell has features
    smallest_proposal, smallest_region, smallest
               pixels; what is narrower or lower once clipped is dropped: proposals of a region proposal network,
               detections of a region stage, those of a single stage
    late       detections of a single stage are clipped only once they are suppressed
    """

    rounded: bool = False
    stride_from_feature_map: bool = False
    aligned: bool = True
    sampling: int = 2
    smallest_proposal: float = 1e-3
    smallest_region: float = 1e-3
    smallest: float = 1e-3
    clip_after_nms: bool = False


CONVENTIONS = {
    "boxwright": Conventions(),
    "torchvision": Conventions(
        rounded=True, stride_from_feature_map=True, aligned=False, smallest_region=1e-2, smallest=0.0
    ),
    "detectron2": Conventions(
        sampling=0, smallest_proposal=1e-9, smallest_region=1e-9, smallest=1e-9, clip_after_nms=True
    ),
}
