"""What RoI pool and RoI align compute, to be read: one region at a time, in plain tensor steps.

Girshick 2015, "Fast R-CNN", section 2.1; He et al. 2017, "Mask R-CNN", section 3. Both turn a region of any size into
size x size cells of a map. They differ in how they treat an edge that falls between two features:

    RoI pool   moves it to the nearest feature, twice (the region's edges, then those of the cells), and takes the
               maximum of the whole features of each cell
    RoI align  leaves it where it is, reads sample points between features and takes their mean

The detectors call torchvision's compiled operators (`layers/regions.py`), which the tests compare with these in value
and gradient.

Vocabulary: features (N, C, h, w); regions (R, 5), the image and then a box in pixels; scale, features per pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor


def roi_pool_by_hand(features: Tensor, regions: Tensor, size: int, scale: float) -> Tensor:
    """Pools each region to (R, C, size, size); a cell outside the map is 0."""
    height, width = features.shape[2:]
    pooled = []
    for image, *box in zip(regions[:, 0].long(), *regions[:, 1:].T, strict=True):
        left, top, right, bottom = (_nearest(edge * scale) for edge in box)
        rows, columns = _snapped_cells(top, bottom, size, height), _snapped_cells(left, right, size, width)
        cells = [_maximum(features[image, :, y, x]) for y in rows for x in columns]
        pooled.append(torch.stack(cells, dim=1).unflatten(1, (size, size)))
    return _stack(pooled, features, size)


def _nearest(x: Tensor) -> Tensor:
    """Halves away from zero, as C rounds; `torch.round` would take them to the even neighbour."""
    return x.sign() * (x.abs() + 0.5).floor()


def _maximum(cell: Tensor) -> Tensor:
    """(C, height, width) to (C,)."""
    return cell.flatten(1).max(dim=1).values if cell.numel() else cell.new_zeros(len(cell))


def _snapped_cells(first: Tensor, last: Tensor, size: int, length: int) -> list[slice]:
    """The features first .. last, both included, shared out to `size` cells. Neighbours overlap where it does not even
    out: a cell begins with the feature in which its edge lies and ends with the one in which its other edge lies."""
    extent = (last - first + 1).clamp(min=1) / size
    index = torch.arange(size, device=first.device)
    begin = (first + (index * extent).floor()).clamp(0, length).long().tolist()
    end = (first + ((index + 1) * extent).ceil()).clamp(0, length).long().tolist()
    return [slice(b, e) for b, e in zip(begin, end, strict=True)]


def roi_align_by_hand(
    features: Tensor, regions: Tensor, size: int, scale: float, sampling: int = 2, aligned: bool = True
) -> Tensor:
    """Pools each region to (R, C, size, size); `sampling` and `aligned` as in `RegionAlign`."""
    pooled = []
    for image, *box in zip(regions[:, 0].long(), *regions[:, 1:].T, strict=True):
        # Feature i is the middle of the pixels it stands for, at i + .5 on the map: p there is p - .5 among features.
        left, top, right, bottom = (edge * scale - (0.5 if aligned else 0.0) for edge in box)
        y = _sample_points(top, bottom, size, sampling, aligned)
        x = _sample_points(left, right, size, sampling, aligned)
        samples = _read(_read(features[image], y, dim=1), x, dim=2)  # (C, points, points)
        count = max(len(y) // size * (len(x) // size), 1)
        cells = samples.unflatten(2, (size, len(x) // size)).unflatten(1, (size, len(y) // size))
        pooled.append(cells.sum((2, 4)) / count)  # a mean that is 0 without points
    return _stack(pooled, features, size)


def _sample_points(start: Tensor, end: Tensor, size: int, sampling: int, aligned: bool) -> Tensor:
    """Positions (size * points a cell,) in the middles of equal parts of each cell."""
    extent = end - start if aligned else (end - start).clamp(min=1)
    cell = extent / size
    points = sampling or max(int(cell.ceil()), 0)
    index = torch.arange(size, device=start.device)[:, None]
    part = torch.arange(points, device=start.device) + 0.5
    return (start + index * cell + part * cell / max(points, 1)).flatten()


def _read(features: Tensor, positions: Tensor, dim: int) -> Tensor:
    """Of two neighbours along `dim` the nearer counts more: linear interpolation, bilinear when done along both.

    A position up to one feature outside the map reads its border; farther away there is 0.
    """
    last = features.shape[dim] - 1
    inside = (positions >= -1) & (positions <= last + 1)
    positions = positions.clamp(0, last)
    before = positions.floor().long()
    share = positions - before
    after = (before + 1).clamp(max=last)
    shape = [-1 if axis == dim else 1 for axis in range(features.ndim)]
    value = features.index_select(dim, before) * (1 - share).view(shape)
    value = value + features.index_select(dim, after) * share.view(shape)
    return value * inside.view(shape)


def _stack(pooled: list[Tensor], features: Tensor, size: int) -> Tensor:
    return torch.stack(pooled) if pooled else features.new_zeros(0, features.shape[1], size, size)
