"""Reference boxes, and boxes as four numbers against them.

`AnchorGrid`: Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS
2015, section 3.1.1. `DefaultBoxes`: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, section 2.2.

`DeltaCodec`: Girshick et al., "Rich feature hierarchies for accurate object detection and semantic segmentation", CVPR
2014, appendix C. For a box b and its reference p (an anchor or a proposal), given by centre, width and height:

    t_x = (b_x - p_x) / p_w    t_w = ln(b_w / p_w)
    t_y = (b_y - p_y) / p_h    t_h = ln(b_h / p_h)

`DistanceCodec`: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, section 3.1. Distances
of the four sides of a box b from a point, the centre of p, in units of p's extent:

    l = (p_x - b_x1) / p_w    r = (b_x2 - p_x) / p_w
    t = (p_y - b_y1) / p_h    b = (b_y2 - p_y) / p_h
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from boxwright.boxes.geometry import at_least_float32, cxcywh_to_xyxy, xyxy_to_cxcywh

Extent = tuple[float, float]
"""Half of the width and half of the height of an anchor."""


class Tiling:
    """The same boxes around the centre of every cell of a level; a subclass defines the boxes and their distance."""

    strides: tuple[float, ...]
    offset: float
    stride_from_feature_map: bool

    def extents(self, level: int) -> list[Extent]:
        """The anchors of one cell of this level."""
        raise NotImplementedError(f"{type(self).__name__} must define extents(level)")

    def __call__(self, shapes: Sequence[Sequence[int]], device: torch.device | str | None = None) -> list[Tensor]:
        """The anchors of feature maps of these (height, width): per level (height * width * anchors of a cell, 4) xyxy,
        ordered by row, column, anchor."""
        if len(shapes) != len(self.strides):
            name = type(self).__name__
            raise ValueError(f"this {name} has {len(self.strides)} levels, got {len(shapes)} feature maps")
        image = [cells * self.strides[0] for cells in shapes[0]]
        return [self._level(level, shape, image, device) for level, shape in enumerate(shapes)]

    def step(self, level: int, cells: int, side: float) -> float:
        """Pixels from one cell to the next, for `cells` of them along an image's side in pixels."""
        return side / cells if self.stride_from_feature_map else self.strides[level]

    def _level(
        self, level: int, shape: Sequence[int], image: Sequence[float], device: torch.device | str | None
    ) -> Tensor:
        # Anchors enter as scalars: a tensor made on the host would have to be copied, which a CUDA graph cannot hold.
        extents, (height, width) = self.extents(level), shape
        ys, xs = (
            (torch.arange(cells, dtype=torch.float32, device=device) + self.offset) * self.step(level, cells, side)
            for cells, side in zip(shape, image, strict=True)
        )
        x = torch.stack([xs + sign * w for w, _ in extents for sign in (-1, 1)], dim=-1)  # (W, 2A)
        y = torch.stack([ys + sign * h for _, h in extents for sign in (-1, 1)], dim=-1)  # (H, 2A)
        x = x[None].expand(height, -1, -1)  # (H, W, 2A)
        y = y[:, None].expand(-1, width, -1)
        return torch.stack((x, y), dim=-1).reshape(-1, 4)  # (H, W, 2A, 2) -> (HWA, 4): a row has two corners


@dataclass(frozen=True)
class AnchorGrid(Tiling):
    """Every ratio in every size. All shapes of one size have the same area.

    sizes    per level, the square roots of the anchors' areas, in pixels; as many on every level
    ratios   height / width
    strides  per level, pixels of the image from one cell to the next
    offset   where in its cell an anchor has its centre: 0 the top left corner, 0.5 the middle
    rounded  round the anchor around (0, 0) to whole pixels, as torchvision does (its weights expect it)
    stride_from_feature_map  the distance of two cells is the side of the image, padded to a multiple of the finest
             stride, over the cells of the map in whole pixels, as in torchvision: less than the stride where the map
             was rounded up

    The anchors of a cell are ordered by ratio, then size: torchvision's order.
    """

    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...]
    strides: tuple[float, ...]
    offset: float = 0.0
    rounded: bool = False
    stride_from_feature_map: bool = False

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

    def step(self, level: int, cells: int, side: float) -> float:
        return side // cells if self.stride_from_feature_map else self.strides[level]

    def extents(self, level: int) -> list[Extent]:
        extents = [(s / math.sqrt(r) / 2, s * math.sqrt(r) / 2) for r in self.ratios for s in self.sizes[level]]
        return [(float(round(w)), float(round(h))) for w, h in extents] if self.rounded else extents


@dataclass(frozen=True)
class DefaultBoxes(Tiling):
    """A square and a larger one on every level, and lying and standing boxes of the area of the first.

    sizes    sides of the first squares in pixels, one per level and one more: the larger square of a level has the
             geometric mean of its size and the next
    ratios   per level, width / height of the lying boxes, each of which also stands
    strides  per level, pixels of the image from one cell to the next
    limit    pixels; no box is wider or higher (torchvision: the side of the image)
    stride_from_feature_map  the distance of two cells is the side of the image, padded to a multiple of the finest
             stride, over the cells of the map

    The boxes of a cell are the square, the larger square, then lying and standing for each ratio: torchvision's order.
    """

    sizes: tuple[float, ...]
    ratios: tuple[tuple[float, ...], ...]
    strides: tuple[float, ...]
    offset: float = 0.5
    limit: float = math.inf
    stride_from_feature_map: bool = False

    def __post_init__(self) -> None:
        levels = len(self.strides)
        if not levels or (len(self.sizes), len(self.ratios)) != (levels + 1, levels):
            raise ValueError(
                f"DefaultBoxes takes a size, a tuple of ratios and a stride per level, and one more size, "
                f"got {len(self.sizes)} sizes, {len(self.ratios)} tuples of ratios and {levels} strides"
            )
        if min(*self.sizes, *(ratio for level in self.ratios for ratio in level), *self.strides) <= 0:
            raise ValueError(
                f"DefaultBoxes takes positive numbers, got sizes {self.sizes}, ratios {self.ratios}, "
                f"strides {self.strides}"
            )

    @property
    def per_cell(self) -> tuple[int, ...]:
        """Boxes at one location of each level."""
        return tuple(2 + 2 * len(level) for level in self.ratios)

    def extents(self, level: int) -> list[Extent]:
        size, larger = self.sizes[level], math.sqrt(self.sizes[level] * self.sizes[level + 1])
        lying = [(size * math.sqrt(ratio), size / math.sqrt(ratio)) for ratio in self.ratios[level]]
        boxes = [(size, size), (larger, larger), *(box for w, h in lying for box in ((w, h), (h, w)))]
        return [(min(w, self.limit) / 2, min(h, self.limit) / 2) for w, h in boxes]


def anchor_sizes(
    strides: Sequence[float], scales: Sequence[float], pixels: Sequence[float] = ()
) -> tuple[tuple[float, ...], ...]:
    """Anchor sides of a pyramid: `scales` times each stride, or, where they are given, `pixels` level by level."""
    if pixels:
        count, rest = divmod(len(pixels), len(strides))
        if rest:
            raise ValueError(f"anchor sizes come equally many for each of {len(strides)} levels, got {len(pixels)}")
        return tuple(tuple(pixels[start : start + count]) for start in range(0, len(pixels), count))
    return tuple(tuple(stride * scale for scale in scales) for stride in strides)


SMALLEST = 1e-6
"""Pixels. Narrower boxes are encoded as if they were this wide, so that no target is infinite."""


class Codec(Protocol):
    """Boxes as four numbers against reference boxes, and back."""

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor: ...

    def decode(self, deltas: Tensor, references: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class DeltaCodec:
    """Encodes boxes as (t_x, t_y, t_w, t_h) and back, in float32 at least, also under autocast.

    weights  factors on the four offsets, so that a network can learn targets of about unit variance; Fast R-CNN's
             head has (10, 10, 5, 5)
    clamp    upper limit of t_w and t_h when decoding (before weights): an untrained network must not overflow exp.
             The default lets a reference grow 62.5-fold
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    clamp: float = math.log(1000 / 16)

    def __post_init__(self) -> None:
        if len(self.weights) != 4 or min(self.weights) <= 0:
            raise ValueError(f"DeltaCodec takes four positive weights (x, y, w, h), got {self.weights}")

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Offsets that turn `references` into `boxes`; finite for boxes without extent too.

        (..., 4) xyxy, (..., 4) xyxy -> (..., 4)
        """
        bx, by, bw, bh = _centre_and_extent(boxes)
        px, py, pw, ph = _centre_and_extent(references)
        bw, bh, pw, ph = (extent.clamp(min=SMALLEST) for extent in (bw, bh, pw, ph))
        wx, wy, ww, wh = self.weights
        return torch.stack(
            (wx * (bx - px) / pw, wy * (by - py) / ph, ww * torch.log(bw / pw), wh * torch.log(bh / ph)), dim=-1
        )

    def decode(self, deltas: Tensor, references: Tensor) -> Tensor:
        """Boxes to which `deltas` move `references`; not clipped to any image.

        (..., 4), (..., 4) xyxy -> (..., 4) xyxy
        """
        wx, wy, ww, wh = self.weights
        tx, ty, tw, th = at_least_float32(deltas).unbind(-1)
        px, py, pw, ph = _centre_and_extent(references)
        x, y = px + tx / wx * pw, py + ty / wy * ph
        w, h = pw * torch.exp((tw / ww).clamp(max=self.clamp)), ph * torch.exp((th / wh).clamp(max=self.clamp))
        return cxcywh_to_xyxy(torch.stack((x, y, w, h), dim=-1))


@dataclass(frozen=True)
class DistanceCodec:
    """Encodes boxes as distances (l, t, r, b) from the reference's centre and back, in float32 at least.

    positive  what makes any number a distance: "exp" (the paper), or "relu" (FCOS's later code; torchvision)
    clamp     upper limit of the numbers before "exp": an untrained network must not overflow it
    """

    positive: Literal["exp", "relu"] = "exp"
    clamp: float = math.log(1000 / 16)

    def __post_init__(self) -> None:
        if self.positive not in ("exp", "relu"):
            raise ValueError(f"distances are made positive by exp or relu, got {self.positive!r}")

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor:
        """(..., 4) xyxy, (..., 4) xyxy -> (..., 4); for "exp" a centre outside of its box counts as at its border."""
        _, _, width, height = _centre_and_extent(references)
        unit = torch.stack((width, height, width, height), dim=-1).clamp(min=SMALLEST)
        sides = distances(references, boxes)
        return sides / unit if self.positive == "relu" else torch.log(sides.clamp(min=SMALLEST) / unit)

    def decode(self, deltas: Tensor, references: Tensor) -> Tensor:
        """Boxes around the centres of `references`; not clipped to any image.

        (..., 4), (..., 4) xyxy -> (..., 4) xyxy
        """
        x, y, width, height = _centre_and_extent(references)
        deltas = at_least_float32(deltas)
        sides = deltas.relu() if self.positive == "relu" else deltas.clamp(max=self.clamp).exp()
        left, top, right, bottom = sides.unbind(-1)
        return torch.stack((x - left * width, y - top * height, x + right * width, y + bottom * height), dim=-1)


def distances(references: Tensor, boxes: Tensor) -> Tensor:
    """From the centre of each reference to the left, top, right and bottom side of its box, in pixels; negative where
    the centre lies beyond the side. (..., 4), (..., 4) xyxy -> (..., 4)"""
    x, y, _, _ = _centre_and_extent(references)
    x1, y1, x2, y2 = at_least_float32(boxes).unbind(-1)
    return torch.stack((x - x1, y - y1, x2 - x, y2 - y), dim=-1)


def _centre_and_extent(boxes: Tensor) -> tuple[Tensor, ...]:
    return xyxy_to_cxcywh(at_least_float32(boxes)).unbind(-1)
