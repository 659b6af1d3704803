"""Boxes as four numbers against reference boxes: what a network learns to say of them.

`DeltaCodec`: Girshick et al., "Rich feature hierarchies for accurate object detection and semantic segmentation", CVPR
2014, appendix C. For a box b and its reference p (an anchor or a proposal), given by centre, width and height:

    t_x = (b_x - p_x) / p_w    t_w = ln(b_w / p_w)
    t_y = (b_y - p_y) / p_h    t_h = ln(b_h / p_h)

`DistanceCodec`: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, section 3.1. How far
the four sides of a box b lie from a point, the centre of p, in units of p's extent:

    l = (p_x - b_x1) / p_w    r = (b_x2 - p_x) / p_w
    t = (p_y - b_y1) / p_h    b = (b_y2 - p_y) / p_h
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from boxwright.boxes.geometry import at_least_float32, cxcywh_to_xyxy, xyxy_to_cxcywh

SMALLEST = 1e-6
"""Pixels. Narrower boxes are encoded as if they were this wide, so that no target is infinite."""


class Codec(Protocol):
    """Boxes as four numbers against reference boxes, and back."""

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor: ...

    def decode(self, deltas: Tensor, references: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class DeltaCodec:
    """Encodes boxes as (t_x, t_y, t_w, t_h) and back, in float32 at least whatever autocast says.

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
