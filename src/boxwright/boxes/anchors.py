"""Reference boxes of several sizes and shapes at every cell of every pyramid level.

Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS 2015,
section 3.1.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnchorGrid:
    """Anchors for feature maps of given strides. All shapes of one size have the same area.

    sizes    per level, the square roots of the anchors' areas, in pixels; as many on every level
    ratios   height / width
    strides  per level, pixels of the picture from one cell to the next
    offset   where in its cell an anchor has its centre: 0 the top left corner, 0.5 the middle
    rounded  round the anchor around (0, 0) to whole pixels, as torchvision does (its weights expect it)

    The anchors of a cell are ordered by ratio, then size: torchvision's order.
    """

    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...]
    strides: tuple[int, ...]
    offset: float = 0.0
    rounded: bool = False

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.strides) or not self.sizes:
            raise ValueError(
                f"AnchorGrid takes one tuple of sizes and one stride per level, "
                f"got {len(self.sizes)} tuples of sizes and {len(self.strides)} strides"
            )
        if len({len(level) for level in self.sizes}) != 1:
            raise ValueError(f"AnchorGrid takes equally many sizes on every level, got {self.sizes}")
        numbers = [*(size for level in self.sizes for size in level), *self.ratios, *self.strides]
        if not self.ratios or not self.sizes[0] or min(numbers) <= 0:
            raise ValueError(
                f"AnchorGrid takes at least one size and one ratio, all positive as the strides are, "
                f"got sizes {self.sizes}, ratios {self.ratios}, strides {self.strides}"
            )

    @property
    def per_cell(self) -> int:
        """Anchors at one location of one level."""
        return len(self.ratios) * len(self.sizes[0])

    def __call__(self, shapes: Sequence[Sequence[int]], device: torch.device | str | None = None) -> list[Tensor]:
        """The anchors of feature maps of these (height, width): per level (height * width * per_cell, 4) xyxy,
        ordered by row, column, anchor."""
        if len(shapes) != len(self.strides):
            raise ValueError(f"this AnchorGrid has {len(self.strides)} levels, got {len(shapes)} feature maps")
        return [
            self._level(height, width, stride, sizes, device)
            for (height, width), stride, sizes in zip(shapes, self.strides, self.sizes, strict=True)
        ]

    def _level(
        self, height: int, width: int, stride: int, sizes: tuple[float, ...], device: torch.device | str | None
    ) -> Tensor:
        # Anchors enter as scalars, one addition each: a tensor of them made on the host would have to be copied to the
        # accelerator in every step, which waits for it and cannot be part of a CUDA graph.
        extents = self._extents(sizes)
        xs = self._centres(width, stride, device)
        ys = self._centres(height, stride, device)
        x = torch.stack([xs + sign * w for w, _ in extents for sign in (-1, 1)], dim=-1)  # (W, 2A)
        y = torch.stack([ys + sign * h for _, h in extents for sign in (-1, 1)], dim=-1)  # (H, 2A)
        x = x[None].expand(height, -1, -1)  # (H, W, 2A)
        y = y[:, None].expand(-1, width, -1)
        return torch.stack((x, y), dim=-1).reshape(-1, 4)  # (H, W, 2A, 2) -> (HWA, 4): a row has two corners

    def _centres(self, cells: int, stride: int, device: torch.device | str | None) -> Tensor:
        return (torch.arange(cells, dtype=torch.float32, device=device) + self.offset) * stride

    def _extents(self, sizes: tuple[float, ...]) -> list[tuple[float, float]]:
        """Half of the width and half of the height of each anchor of a cell."""
        extents = [(s / math.sqrt(r) / 2, s * math.sqrt(r) / 2) for r in self.ratios for s in sizes]
        return [(float(round(w)), float(round(h))) for w, h in extents] if self.rounded else extents


def anchor_sizes(strides: Sequence[int], scales: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    """Anchor sides of a pyramid, the same in strides on every level: `scales` times each stride."""
    return tuple(tuple(stride * scale for scale in scales) for stride in strides)
