"""Regions of the pixels, warped to a classifier's input (Girshick et al. 2014, "R-CNN", section 2.1, appendix A)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import boxwright.ops  # noqa: F401  registers torch.ops.boxwright.warp
from boxwright.layers.regions import numbered


class WarpRegions(nn.Module):
    """Every region, whatever its shape, stretched to height x width with some of its surroundings.

    The box fills the output but for `context` pixels at each side, which show what lies around it; outside the image
    lies `fill` without end. An output pixel is the mean of bilinear samples, as many per side as it covers pixels of
    the image: plain bilinear interpolation where a region is enlarged, no aliasing where it is reduced. That is RoI
    align at full resolution, and unlike a crop it needs no whole pixels.

    size     of the output: height and width, or a number for both
    context  pixels of the output at each side (p in the paper, 16)
    fill     of what is outside the image, a number or one per channel: the mean, which is 0 for normalised pixels
    """

    outside: Tensor

    def __init__(
        self, size: int | tuple[int, int] = 224, context: int = 16, fill: float | tuple[float, ...] = 0.0
    ) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.context = context
        if context < 0 or 2 * context >= min(self.size):
            raise ValueError(f"WarpRegions takes a context from 0 to less than half the size, got {context} of {size}")
        self.register_buffer("outside", torch.tensor(fill, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, maps: list[Tensor], boxes: Tensor, sizes: Tensor | None = None) -> Tensor:
        """[pixels (N, C, H, W)] and boxes (N, P, 4) to (N * P, C, height, width) float32, without a gradient.

        sizes  (N, 2): height and width of each image where the batch is padded at the right and the bottom, so that
               a region sees `fill` beyond its image and not the padding
        """
        (pixels,) = maps
        above = pixels.detach().float() - self.outside  # so that outside is 0, which the operator reads there
        if sizes is not None:
            rows = torch.arange(pixels.shape[2], device=pixels.device)[:, None] < sizes[:, 0, None, None]  # (N, H, 1)
            columns = torch.arange(pixels.shape[3], device=pixels.device) < sizes[:, 1, None, None]  # (N, 1, W)
            above = above * (rows & columns)[:, None]
        # A frame of one pixel, since the operator repeats the border for as much.
        above = nn.functional.pad(above, (1, 1, 1, 1))
        regions = numbered(self.widen(boxes.detach().float()) + 1)
        return torch.ops.boxwright.warp(above, regions, *self.size) + self.outside

    def widen(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) to the boxes that the whole output shows: those with their context."""
        height, width = (side - 2 * self.context for side in self.size)  # what the box itself takes
        x1, y1, x2, y2 = boxes.unbind(-1)
        dx, dy = (x2 - x1) * (self.context / width), (y2 - y1) * (self.context / height)
        return torch.stack([x1 - dx, y1 - dy, x2 + dx, y2 + dy], dim=-1)
