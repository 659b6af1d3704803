"""Non-maximum suppression: of boxes that overlap too much keep the one with the best score.

`greedy_nms` is the definition, to be read; `nms_mask` is the one detectors use: batched, of static shape, compiled.
"""

from __future__ import annotations

import torch
from torch import Tensor

import boxwright.ops  # noqa: F401  registers torch.ops.boxwright.nms_mask
from boxwright.boxes.geometry import iou


def greedy_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Take the best box, drop the others whose IoU with it exceeds the threshold, repeat with what is left.

    boxes (N, 4) xyxy, scores (N,) -> indices of the kept boxes, best first; of equal scores the first comes first.
    """
    _check_threshold(iou_threshold)
    kept = []
    waiting = scores.argsort(descending=True, stable=True)
    while len(waiting):
        best, rest = waiting[0], waiting[1:]
        kept.append(best)
        overlap = iou(boxes[best], boxes[rest]).double()  # float32 would round the threshold too
        waiting = rest[overlap <= iou_threshold]
    return torch.stack(kept) if kept else waiting


def nms_mask(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, most: int | None = None
) -> Tensor:
    """Which boxes of a batch survive greedy suppression among the boxes of their own image and group.

    boxes   (N, K, 4) xyxy, K boxes for each of N images
    scores  (N, K), in any order; of equal scores the first wins
    groups  (N, K) int64: only boxes of one group suppress each other, e.g. their class; all 0 for class-agnostic NMS
    valid   (N, K) bool: the others, and those that are not finite, are neither kept nor suppress anything
    most    of the survivors of an image only so many are wanted, the best: the rest is not looked for, which saves time
    returns (N, K) bool

    Works in eager mode, `torch.compile(fullgraph=True)` and `torch.export`, where it is the opaque operator
    `boxwright::nms_mask`. On an accelerator that operator waits for the device.
    """
    _check_threshold(iou_threshold)
    expected = boxes.shape[:2]
    if boxes.ndim != 3 or boxes.shape[2] != 4 or not scores.shape == groups.shape == valid.shape == expected:
        raise ValueError(
            f"nms_mask takes boxes (N, K, 4) and scores, groups, valid (N, K), got {tuple(boxes.shape)} and "
            f"{tuple(scores.shape)}, {tuple(groups.shape)}, {tuple(valid.shape)}"
        )
    return torch.ops.boxwright.nms_mask(boxes, scores, groups, valid, iou_threshold, most)


def _check_threshold(iou_threshold: float) -> None:
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"an IoU threshold lies in 0..1, got {iou_threshold}")
