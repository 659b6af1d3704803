"""RoI align over one map or a pyramid (He et al. 2017, "Mask R-CNN", section 3; Lin et al. 2017, "FPN", eq. 1)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from boxwright.boxes.iou import area
from boxwright.boxes.nms import load_compiled_ops


class RegionAlign(nn.Module):
    """Pools every region to size x size cells of bilinear samples, from the level of the pyramid that fits its size.

    A region of `canonical` pixels across is read from the level of stride 16, one of half that size a level below,
    and so on (FPN, eq. 1).

    strides   of the maps it reads, each twice the one before; further maps are left alone
    sampling  sample points per cell and side; 0 takes as many as the cell has pixels
    aligned   a feature lies in the middle of its cell; False puts it at the upper left corner and widens regions to one
              cell at least, as Detectron did at first and torchvision's detectors do (their weights expect it)
    """

    def __init__(
        self,
        strides: tuple[int, ...],
        size: int = 7,
        sampling: int = 2,
        canonical: float = 224.0,
        aligned: bool = True,
    ) -> None:
        super().__init__()
        if not strides or any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
            raise ValueError(f"RegionAlign takes strides that double from map to map, got {strides}")
        self.strides, self.size, self.sampling = strides, size, sampling
        self.canonical, self.aligned = canonical, aligned

    def level(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) to the index (...) of the map each is read from."""
        finest = self.strides[0].bit_length() - 1  # log2 of the stride
        # The summand keeps rounding from sending a region of just the canonical size a level down.
        wanted = (4 + torch.log2(area(boxes).sqrt() / self.canonical) + 1e-6).floor()
        return (wanted - finest).clamp(0, len(self.strides) - 1).to(torch.int64)

    def forward(self, maps: list[Tensor], boxes: Tensor) -> Tensor:
        """Maps (N, C, h, w) per level and boxes (N, P, 4) in image pixels to (N * P, C, size, size) float32."""
        maps = [features.float() for features in maps[: len(self.strides)]]
        scales = [1 / stride for stride in self.strides]
        image = torch.arange(boxes.shape[0], device=boxes.device)[:, None].expand(boxes.shape[:2])
        regions = torch.cat([image[..., None], boxes], dim=-1).flatten(0, 1)  # (N * P, 5)
        level = self.level(boxes).flatten()
        return torch.ops.boxwright.roi_align(maps, regions, level, scales, self.size, self.sampling, self.aligned)


# Splitting regions over levels depends on values, so it happens inside an operator, whose shapes are static outside.
# On an accelerator the operator waits for the device.


def _align(
    maps: list[Tensor], regions: Tensor, level: Tensor, scales: list[float], size: int, sampling: int, aligned: bool
) -> Tensor:
    load_compiled_ops()
    if len(maps) == 1:
        return torch.ops.torchvision.roi_align(maps[0], regions, scales[0], size, size, sampling, aligned)
    pooled = maps[0].new_empty(len(regions), maps[0].shape[1], size, size)
    for index, (features, scale) in enumerate(zip(maps, scales, strict=True)):
        rows = (level == index).nonzero()[:, 0]
        pooled[rows] = torch.ops.torchvision.roi_align(features, regions[rows], scale, size, size, sampling, aligned)
    return pooled


def _shape_of_align(maps: list[Tensor], regions: Tensor, level: Tensor, scales: list[float], size: int, *_) -> Tensor:
    return maps[0].new_empty(regions.shape[0], maps[0].shape[1], size, size)


def _align_backward(
    gradient: Tensor,
    regions: Tensor,
    level: Tensor,
    scales: list[float],
    shapes: list[int],
    size: int,
    sampling: int,
    aligned: bool,
) -> list[Tensor]:
    """The gradient (R, C, size, size) back on the maps; `shapes` has four numbers for each of them."""
    load_compiled_ops()
    gradients = []
    for index, scale in enumerate(scales):
        rows = (level == index).nonzero()[:, 0]
        numbers = (scale, size, size, *shapes[4 * index : 4 * index + 4], sampling, aligned)
        gradients.append(torch.ops.torchvision._roi_align_backward(gradient[rows], regions[rows], *numbers))
    return gradients


def _shape_of_backward(
    gradient: Tensor, regions: Tensor, level: Tensor, scales: list[float], shapes: list[int], *_
) -> list[Tensor]:
    return [gradient.new_empty(shapes[start : start + 4]) for start in range(0, len(shapes), 4)]


def _remember(ctx, inputs: tuple, output: Tensor) -> None:
    maps, regions, level, *ctx.numbers = inputs
    ctx.shapes = [number for features in maps for number in features.shape]
    ctx.save_for_backward(regions, level)


def _differentiate(ctx, gradient: Tensor) -> tuple:
    scales, *rest = ctx.numbers
    gradients = torch.ops.boxwright.roi_align_backward(gradient, *ctx.saved_tensors, scales, ctx.shapes, *rest)
    return gradients, None, None, None, None, None, None


# The low-level registration: torch.library.custom_op would import torch._dynamo, seconds, at the first call.
_library = torch.library.Library("boxwright", "FRAGMENT")
_library.define(
    "roi_align(Tensor[] maps, Tensor regions, Tensor level, float[] scales, int size, int sampling, bool aligned)"
    " -> Tensor"
)
_library.define(
    "roi_align_backward(Tensor gradient, Tensor regions, Tensor level, float[] scales, SymInt[] shapes, int size,"
    " int sampling, bool aligned) -> Tensor[]"
)
_library.impl("roi_align", _align, "CompositeExplicitAutograd")
_library.impl("roi_align_backward", _align_backward, "CompositeExplicitAutograd")
torch.library.register_fake("boxwright::roi_align", _shape_of_align, lib=_library)
torch.library.register_fake("boxwright::roi_align_backward", _shape_of_backward, lib=_library)
torch.library.register_autograd("boxwright::roi_align", _differentiate, setup_context=_remember, lib=_library)
