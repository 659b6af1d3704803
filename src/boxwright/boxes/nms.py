"""Non-maximum suppression: of boxes that overlap too much keep the one with the best score.

This is the definition, to be read; detectors use `ops.nms_mask`: batched, of static shape, compiled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from boxwright.boxes.geometry import iou
from boxwright.ops import check_iou_threshold


def greedy_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Take the best box, drop the others whose IoU with it exceeds the threshold, repeat with what is left.

    boxes (N, 4) xyxy, scores (N,) -> indices of the kept boxes, best first; of equal scores the first comes first.
    """
    check_iou_threshold(iou_threshold)
    kept = []
    waiting = scores.argsort(descending=True, stable=True)
    while len(waiting):
        best, rest = waiting[0], waiting[1:]
        kept.append(best)
        overlap = iou(boxes[best], boxes[rest]).double()  # float32 would round the threshold too
        waiting = rest[overlap <= iou_threshold]
    return torch.stack(kept) if kept else waiting
