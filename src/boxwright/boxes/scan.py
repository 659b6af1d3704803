"""Objects against candidates in one pass, compiled: no matrix of all pairs is made. Importing this needs numba.

`boxwright.assign` defines what is computed here, and computes it where this cannot: results are equal bit by bit.
Boxes are float32, xyxy, finite and on the CPU.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from boxwright.boxes.geometry import EPSILON
from boxwright.compiled import kernel

_EPSILON, _ZERO, _HALF = np.float32(EPSILON), np.float32(0), np.float32(0.5)


def overlaps(objects: Tensor, candidates: Tensor) -> tuple[Tensor, ...]:
    """What `MaxIoUAssigner` needs of the overlaps of objects (G, 4) with candidates (A, 4).

    best   (A,) float32: the largest IoU of a candidate
    row    (A,) int64: the first object that it has it with
    prior  (G,) int64: the first candidate of those that an object overlaps most
    most   (A,) bool: an object overlaps no candidate more, and this one by 1e-6 at least
    """
    columns = candidates.detach().t().contiguous()  # whole columns vectorise
    return tuple(map(torch.from_numpy, _overlaps(_array(objects), columns.numpy())))


def smallest_around(objects: Tensor, crowd: Tensor, points: Tensor, background: int, ignored: int) -> Tensor:
    """What `CenterAssigner` learns at A points (5, A), of objects (G, 4) that are crowds or not (G,): (A,) int64.

    A point's numbers are x, y, how near an object's centre is to it, and the least and most that its farthest side is.
    """
    return torch.from_numpy(_smallest_around(_array(objects), _array(crowd), _array(points), background, ignored))


def _array(values: Tensor) -> np.ndarray:
    return values.detach().contiguous().numpy()


@kernel
def _overlaps(objects, candidates):
    count = candidates.shape[1]
    left, top, right, bottom = candidates[0], candidates[1], candidates[2], candidates[3]
    areas = np.empty(count, np.float32)
    for a in range(count):
        areas[a] = max(right[a] - left[a], _ZERO) * max(bottom[a] - top[a], _ZERO)
    best, row = np.full(count, -1, np.float32), np.zeros(count, np.int64)
    prior, most = np.zeros(len(objects), np.int64), np.zeros(count, np.bool_)
    ious = np.empty(count, np.float32)
    for g in range(len(objects)):
        x1, y1, x2, y2 = objects[g, 0], objects[g, 1], objects[g, 2], objects[g, 3]
        area = max(x2 - x1, _ZERO) * max(y2 - y1, _ZERO)
        for a in range(count):
            shared = max(min(x2, right[a]) - max(x1, left[a]), _ZERO) * max(min(y2, bottom[a]) - max(y1, top[a]), _ZERO)
            union = area + areas[a] - shared
            ious[a] = shared / union if union > _EPSILON else _ZERO
        highest = np.float32(-1)
        for a in range(count):
            if ious[a] > highest:
                highest, prior[g] = ious[a], a
        highest = max(highest, np.float32(1e-6))
        for a in range(count):
            if ious[a] > best[a]:
                best[a], row[a] = ious[a], g
            if ious[a] >= highest:
                most[a] = True
    return best, row, prior, most


@kernel
def _smallest_around(objects, crowd, points, background, ignored):
    x, y, near, least, most = points[0], points[1], points[2], points[3], points[4]
    assigned, smallest = np.full(len(x), background, np.int64), np.full(len(x), np.inf, np.float32)
    for g in range(len(objects)):
        x1, y1, x2, y2 = objects[g, 0], objects[g, 1], objects[g, 2], objects[g, 3]
        middle_x, middle_y = _HALF * (x1 + x2), _HALF * (y1 + y2)
        area = max(x2 - x1, _ZERO) * max(y2 - y1, _ZERO)
        for a in range(len(x)):
            left, top, right, bottom = x[a] - x1, y[a] - y1, x2 - x[a], y2 - y[a]
            if min(min(left, top), min(right, bottom)) <= 0:
                continue
            if crowd[g]:
                if smallest[a] == np.inf:
                    assigned[a] = ignored
                continue
            farthest = max(max(left, top), max(right, bottom))
            apart = max(abs(x[a] - middle_x), abs(y[a] - middle_y))
            if apart < near[a] and least[a] <= farthest <= most[a] and area < smallest[a]:
                assigned[a], smallest[a] = g, area
    return assigned
