"""Boxes as tensors: conventions, clipping, and how much two boxes overlap (IoU and its generalisations).

GIoU: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019.

The overlap functions take boxes xyxy, (..., 4), broadcast over the leading dimensions and compute in float32 at least:
the area of a large box does not fit into float16. A box without area overlaps nothing: its ratios are 0, never nan, and
their gradients are finite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from boxwright.types import Size


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Corners to left, top, width, height (COCO's convention). (..., 4) -> (..., 4)"""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((x1, y1, x2 - x1, y2 - y1), dim=-1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre, width, height (YOLO's convention, here in pixels) to corners. (..., 4) -> (..., 4)"""
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack((cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corners to centre, width, height. (..., 4) -> (..., 4)"""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((0.5 * (x1 + x2), 0.5 * (y1 + y2), x2 - x1, y2 - y1), dim=-1)


def clip(boxes: Tensor, sizes: Size | Tensor) -> Tensor:
    """Move corners that lie outside the image onto its border; a box wholly outside becomes empty.

    boxes  (..., 4) xyxy
    sizes  one Size for all boxes, or a tensor (..., 2) of [height, width] whose leading dimensions are the first
           ones of `boxes`: (N, 2) goes with boxes (N, K, 4), an image per row
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    if not isinstance(sizes, Tensor):
        sizes = boxes.new_tensor(sizes)
    if sizes.shape[-1:] != (2,) or sizes.ndim > boxes.ndim:
        raise ValueError(
            f"clip takes sizes (..., 2) of [height, width] with no more dimensions than the boxes, "
            f"got sizes {tuple(sizes.shape)} for boxes {tuple(boxes.shape)}"
        )
    sizes = sizes.to(boxes.dtype).reshape(*sizes.shape[:-1], *(1,) * (boxes.ndim - sizes.ndim), 2)
    height, width = sizes.unbind(-1)
    x1, x2 = (x.clamp(min=0).minimum(width) for x in (x1, x2))
    y1, y2 = (y.clamp(min=0).minimum(height) for y in (y1, y2))
    return torch.stack((x1, y1, x2, y2), dim=-1)


def at_least_float32(values: Tensor) -> Tensor:
    """float32 and float64 as they are; fewer bits, which cannot tell pixels apart, as float32. (...) -> (...)"""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


EPSILON = 1e-12
"""Square pixels. A smaller area counts as none, which keeps quotients and their gradients inside float32."""


def area(boxes: Tensor) -> Tensor:
    """Area in square pixels; 0 for an inverted box. (..., 4) -> (...)"""
    x1, y1, x2, y2 = at_least_float32(boxes).unbind(-1)
    return (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area shared by two boxes. (..., 4), (..., 4) -> (...)"""
    ax1, ay1, ax2, ay2 = at_least_float32(a).unbind(-1)
    bx1, by1, bx2, by2 = at_least_float32(b).unbind(-1)
    width = torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)
    height = torch.minimum(ay2, by2) - torch.maximum(ay1, by1)
    return width.clamp(min=0) * height.clamp(min=0)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union, 0..1. (..., 4), (..., 4) -> (...)"""
    return _iou_and_union(a, b)[0]


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every box of `a` with every box of `b`. (..., N, 4), (..., M, 4) -> (..., N, M)"""
    return iou(a.unsqueeze(-2), b.unsqueeze(-3))


def giou(a: Tensor, b: Tensor) -> Tensor:
    """IoU less the share of the hull that belongs to neither box, -1..1. (..., 4), (..., 4) -> (...)"""
    overlap, union = _iou_and_union(a, b)
    corners = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    hull = area(torch.cat(corners, dim=-1))
    return overlap - _ratio(hull - union, hull)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and a constant 0 where there is no whole.

    The divisor is replaced before the division: a nan that `where` throws away would come back through its gradient.
    """
    exists = whole > EPSILON
    return torch.where(exists, part / torch.where(exists, whole, 1.0), 0.0)


def _iou_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    shared = intersection(a, b)
    union = area(a) + area(b) - shared
    return _ratio(shared, union), union
