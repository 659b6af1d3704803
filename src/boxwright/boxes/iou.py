"""How much two boxes overlap: IoU and its generalisations that still have a gradient when nothing overlaps.

GIoU: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019.
DIoU and CIoU: Zheng et al., "Distance-IoU Loss", AAAI 2020.

Every function takes boxes xyxy, (..., 4), broadcasts over the leading dimensions and computes in float32 at least: the
area of a large box does not fit into float16. A box without area overlaps nothing: its ratios are 0, never nan, and
their gradients are finite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from boxwright.boxes.convert import at_least_float32

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
    width, height = _hull(a, b)
    hull = width * height
    return overlap - _ratio(hull - union, hull)


def diou(a: Tensor, b: Tensor) -> Tensor:
    """IoU less the squared distance of the centres over the hull's squared diagonal. (..., 4), (..., 4) -> (...)"""
    return iou(a, b) - _distance(a, b)


def ciou(a: Tensor, b: Tensor) -> Tensor:
    """DIoU less a penalty for different aspect ratios. (..., 4), (..., 4) -> (...)

    The penalty's weight (alpha in the paper) is a constant for the gradient.
    """
    overlap = iou(a, b)
    penalty = 4 / math.pi**2 * (_aspect_angle(a) - _aspect_angle(b)) ** 2
    alpha = _ratio(penalty, 1 - overlap + penalty).detach()
    return overlap - _distance(a, b) - alpha * penalty


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


def _hull(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height of the smallest box around both."""
    ax1, ay1, ax2, ay2 = at_least_float32(a).unbind(-1)
    bx1, by1, bx2, by2 = at_least_float32(b).unbind(-1)
    width = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    height = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    return width.clamp(min=0), height.clamp(min=0)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of the centres over the squared diagonal of the hull, 0..1."""
    ax1, ay1, ax2, ay2 = at_least_float32(a).unbind(-1)
    bx1, by1, bx2, by2 = at_least_float32(b).unbind(-1)
    between = ((ax1 + ax2 - bx1 - bx2) / 2) ** 2 + ((ay1 + ay2 - by1 - by2) / 2) ** 2
    width, height = _hull(a, b)
    return _ratio(between, width**2 + height**2)


def _aspect_angle(boxes: Tensor) -> Tensor:
    """arctan(width / height), a measure of shape between 0 and pi/2."""
    x1, y1, x2, y2 = at_least_float32(boxes).unbind(-1)
    # At width = height = 0 the angle has no gradient: a millionth of a pixel keeps it finite.
    return torch.atan2((x2 - x1).clamp(min=0), (y2 - y1).clamp(min=1e-6))
