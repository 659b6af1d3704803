"""Regions of one map or a pyramid, pooled to a fixed number of cells: RoI pool and align, pyramids, position-sensitive.

`layers/regions_by_hand.py` shows what pool and align compute; here torchvision's compiled operators do it. Every pooler
takes maps (N, C, h, w), one per stride, and boxes (N, P, 4) in pixels of the batch, and returns float32 (float64 for
float64) with N * P rows, image by image. A box of zeros, as pads proposals, is pooled as a point, and one that is not
finite as that.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import boxwright.ops  # noqa: F401  registers torch.ops.boxwright.roi_align and the others
from boxwright.boxes.geometry import area, at_least_float32


class RegionPooler(nn.Module):
    """What all poolers share: each region is read from the level of the pyramid that fits its size.

    A region of `canonical` pixels across is read from the level of stride 16, one of half that size a level below,
    and so on (Lin et al. 2017, "FPN", eq. 1).

    strides   of the maps it reads, each twice the one before; further maps are left alone
    """

    def __init__(self, strides: tuple[int, ...], canonical: float) -> None:
        super().__init__()
        if not strides or any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
            raise ValueError(f"{type(self).__name__} takes strides that double from map to map, got {strides}")
        self.strides, self.canonical = strides, canonical

    def level(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) to the index (...) of the map each is read from."""
        # 1e-6 keeps rounding from sending a region of just the canonical size a level down; 2 ** n has n + 1 bits.
        level = (4 + torch.log2(area(boxes).sqrt() / self.canonical) + 1e-6).floor()
        return (level + 1 - self.strides[0].bit_length()).clamp(0, len(self.strides) - 1).to(torch.int64)

    def pool(self, operator: Callable, maps: list[Tensor], boxes: Tensor, size: int, *options: float) -> Any:
        """The result of an operator of `boxwright.ops` for size x size cells of every box (N, P, 4)."""
        if len(maps) < len(self.strides):
            raise ValueError(f"{type(self).__name__} reads a map for each stride of {self.strides}, got {len(maps)}")
        maps = [at_least_float32(features) for features in maps[: len(self.strides)]]
        boxes = boxes.where(boxes.isfinite().all(-1, keepdim=True), 0.0)  # torchvision's kernels read memory by them
        scales = [1 / stride for stride in self.strides]
        return operator(maps, numbered(boxes.to(maps[0].dtype)), self.level(boxes).flatten(), scales, size, *options)


class RegionAlign(RegionPooler):
    """Pools every region to size x size cells of bilinear samples (He et al. 2017, "Mask R-CNN", section 3).

    sampling  sample points per cell and side; 0 takes as many as the cell has pixels
    aligned   a feature lies in the middle of its cell; False puts it at the upper left corner and widens regions to one
              cell at least, as Detectron did at first and torchvision's detectors do (their weights expect it)
    """

    def __init__(
        self, strides: tuple[int, ...], size: int = 7, sampling: int = 2, canonical: float = 224.0, aligned: bool = True
    ) -> None:
        super().__init__(strides, canonical)
        self.size, self.sampling, self.aligned = size, sampling, aligned

    def forward(self, maps: list[Tensor], boxes: Tensor) -> Tensor:
        """Maps (N, C, h, w) per level and boxes (N, P, 4) in image pixels to (N * P, C, size, size) float32."""
        return self.pool(torch.ops.boxwright.roi_align, maps, boxes, self.size, self.sampling, self.aligned)


class RegionPool(RegionPooler):
    """The maximum of every region in size x size cells, snapped to whole features (Girshick 2015, section 2.1)."""

    def __init__(self, strides: tuple[int, ...], size: int = 7, canonical: float = 224.0) -> None:
        super().__init__(strides, canonical)
        self.size = size

    def forward(self, maps: list[Tensor], boxes: Tensor) -> Tensor:
        """Maps (N, C, h, w) per level and boxes (N, P, 4) in image pixels to (N * P, C, size, size) float32."""
        return self.pool(torch.ops.boxwright.roi_pool, maps, boxes, self.size)[0]


class PyramidPool(RegionPooler):
    """The maximum of every region in grids of several sizes (He et al. 2014, "Spatial pyramid pooling", section 2.3).

    Regions snap to whole features as in `RegionPool`; the paper's appendix shrinks them by up to a feature more.

    grids     cells per side of each grid, in the order in which they come out
    """

    def __init__(
        self, strides: tuple[int, ...], grids: tuple[int, ...] = (6, 3, 2, 1), canonical: float = 224.0
    ) -> None:
        super().__init__(strides, canonical)
        self.grids = grids
        self.cells = sum(size * size for size in grids)

    def forward(self, maps: list[Tensor], boxes: Tensor) -> Tensor:
        """Maps (N, C, h, w) per level and boxes (N, P, 4) in image pixels to (N * P, C, cells) float32."""
        pooled = [self.pool(torch.ops.boxwright.roi_pool, maps, boxes, size)[0] for size in self.grids]
        return torch.cat([grid.flatten(2) for grid in pooled], dim=-1)


class PositionSensitiveAlign(RegionPooler):
    """RoI align in which every cell reads channels of its own (Dai et al. 2016, "R-FCN", section 3).

    Channel k of cell (row, column) is read from channel (k * size + row) * size + column of the maps; the paper has the
    cell first, which is a permutation of the rows of the convolution before.

    sampling  sample points per cell and side; 0 takes as many as the cell has features
    """

    def __init__(self, strides: tuple[int, ...], size: int = 7, sampling: int = 2, canonical: float = 224.0) -> None:
        super().__init__(strides, canonical)
        self.size, self.sampling = size, sampling

    def forward(self, maps: list[Tensor], boxes: Tensor) -> Tensor:
        """Maps (N, K * size * size, h, w) per level and boxes (N, P, 4) in image pixels to (N * P, K, size, size)."""
        check_channels(self, maps)
        pooled = self.pool(torch.ops.boxwright.ps_roi_align, maps, boxes, self.size, self.sampling)[0]
        if self.sampling > 0:
            return pooled
        # The compiled operator divides by the number of samples, and a box without extent has none.
        empty = (boxes[..., 2:] <= boxes[..., :2]).any(-1).flatten()
        return pooled.masked_fill(empty[:, None, None, None], 0.0)


class PositionSensitivePool(RegionPooler):
    """The mean of whole features per cell, every cell of channels of its own: the pooling of the R-FCN paper.

    Channels are ordered as in `PositionSensitiveAlign`.
    """

    def __init__(self, strides: tuple[int, ...], size: int = 7, canonical: float = 224.0) -> None:
        super().__init__(strides, canonical)
        self.size = size

    def forward(self, maps: list[Tensor], boxes: Tensor) -> Tensor:
        """Maps (N, K * size * size, h, w) per level and boxes (N, P, 4) in image pixels to (N * P, K, size, size)."""
        check_channels(self, maps)
        return self.pool(torch.ops.boxwright.ps_roi_pool, maps, boxes, self.size)[0]


def numbered(boxes: Tensor) -> Tensor:
    """Boxes (N, P, 4) to the regions (N * P, 5) that the compiled operators take: the image, then the box."""
    image = torch.arange(boxes.shape[0], device=boxes.device)[:, None].expand(boxes.shape[:2])
    return torch.cat([image[..., None], boxes], dim=-1).flatten(0, 1)


def check_channels(pooler: PositionSensitiveAlign | PositionSensitivePool, maps: list[Tensor]) -> None:
    """Position-sensitive maps have a channel for every cell."""
    cells = pooler.size**2
    for features in maps[: len(pooler.strides)]:
        if features.shape[1] % cells or not features.shape[1]:
            raise ValueError(
                f"{type(pooler).__name__} of size {pooler.size} takes maps of {cells} channels for each that comes "
                f"out, a multiple of {cells}; got {features.shape[1]}"
            )
