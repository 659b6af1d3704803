"""torchvision's compiled RoI operators over one map or a pyramid, each as an operator whose shapes are static outside.

Splitting regions over levels depends on values, so it happens inside. On an accelerator the operator waits for the
device.

    boxwright::roi_align      bilinear samples, their mean per cell (He et al. 2017, "Mask R-CNN", section 3)
    boxwright::roi_pool       the maximum per cell of whole features (Girshick 2015, "Fast R-CNN", section 2.1)
    boxwright::ps_roi_align   as roi_align; every cell reads channels of its own (Dai et al. 2016, "R-FCN", section 3)
    boxwright::ps_roi_pool    the mean per cell of whole features; every cell reads channels of its own
"""

from __future__ import annotations

import torch
from torch import Tensor

from boxwright.boxes.nms import load_compiled_ops

# The low-level registration: torch.library.custom_op would import torch._dynamo, seconds, at the first call.
_library = torch.library.Library("boxwright", "FRAGMENT")


def _define(name: str, options: str = "", *, sensitive: bool = False, remembers: bool = True) -> None:
    """`boxwright::name` and its gradient out of the operators of torchvision with that name.

    maps       a tensor (N, C, h, w) per level
    regions    (R, 5): image, then a box in pixels
    level      (R,): the map each region is read from
    scales     of each map: features per pixel
    size       cells per side
    options    further numbers that torchvision's operator takes, as they stand in a schema
    sensitive  each of the size * size cells reads channels of its own: C // (size * size) come out
    remembers  a second result, the size of the first, says which feature or channel each number came from
    """

    def empty(maps: list[Tensor], regions: Tensor, size: int) -> tuple[Tensor, ...]:
        channels = maps[0].shape[1] // (size * size if sensitive else 1)
        pooled = maps[0].new_empty(regions.shape[0], channels, size, size)
        return (pooled, torch.empty_like(pooled, dtype=torch.int32)) if remembers else (pooled,)

    def forward(maps: list[Tensor], regions: Tensor, level: Tensor, scales: list[float], size: int, *numbers):
        load_compiled_ops()
        kernel = getattr(torch.ops.torchvision, name)
        if len(maps) == 1:
            return kernel(maps[0], regions, scales[0], size, size, *numbers)
        results = empty(maps, regions, size)
        for index, (features, scale) in enumerate(zip(maps, scales, strict=True)):
            rows = (level == index).nonzero()[:, 0]
            parts = kernel(features, regions[rows], scale, size, size, *numbers)
            for result, part in zip(results, parts if remembers else (parts,), strict=True):
                result[rows] = part
        return results if remembers else results[0]

    def shape_of_forward(maps: list[Tensor], regions: Tensor, level: Tensor, scales: list[float], size: int, *_):
        results = empty(maps, regions, size)
        return results if remembers else results[0]

    def backward(gradient: Tensor, regions: Tensor, level: Tensor, *rest) -> list[Tensor]:
        """The gradient (R, ...) back on the maps; `shapes` has four numbers for each of them."""
        load_compiled_ops()
        kernel = getattr(torch.ops.torchvision, f"_{name}_backward")
        where, (scales, shapes, size, *numbers) = rest[:remembers], rest[remembers:]
        gradients = []
        for index, scale in enumerate(scales):
            rows = (level == index).nonzero()[:, 0]
            shape = shapes[4 * index : 4 * index + 4]
            tail = (*numbers, *shape) if remembers else (*shape, *numbers)  # torchvision's orders
            rows_of = [tensor[rows] for tensor in (gradient, regions, *where)]
            gradients.append(kernel(*rows_of, scale, size, size, *tail))
        return gradients

    def shape_of_backward(gradient: Tensor, regions: Tensor, level: Tensor, *rest) -> list[Tensor]:
        shapes = rest[remembers + 1]
        return [gradient.new_empty(shapes[start : start + 4]) for start in range(0, len(shapes), 4)]

    def remember(ctx, inputs: tuple, output: Tensor | tuple[Tensor, Tensor]) -> None:
        maps, regions, level, *ctx.numbers = inputs
        ctx.shapes = [number for features in maps for number in features.shape]
        ctx.save_for_backward(regions, level, *output[1:] if remembers else ())

    def differentiate(ctx, gradient: Tensor, *_) -> tuple:
        operator = getattr(torch.ops.boxwright, f"{name}_backward")
        scales, *rest = ctx.numbers
        gradients = operator(gradient, *ctx.saved_tensors, scales, ctx.shapes, *rest)
        return gradients, None, None, *(None for _ in ctx.numbers)

    where = " Tensor where," if remembers else ""
    results = "(Tensor, Tensor)" if remembers else "Tensor"
    _library.define(
        f"{name}(Tensor[] maps, Tensor regions, Tensor level, float[] scales, int size{options}) -> {results}"
    )
    _library.define(
        f"{name}_backward(Tensor gradient, Tensor regions, Tensor level,{where} float[] scales, SymInt[] shapes,"
        f" int size{options}) -> Tensor[]"
    )
    _library.impl(name, forward, "CompositeExplicitAutograd")
    _library.impl(f"{name}_backward", backward, "CompositeExplicitAutograd")
    torch.library.register_fake(f"boxwright::{name}", shape_of_forward, lib=_library)
    torch.library.register_fake(f"boxwright::{name}_backward", shape_of_backward, lib=_library)
    torch.library.register_autograd(f"boxwright::{name}", differentiate, setup_context=remember, lib=_library)


_define("roi_align", ", int sampling, bool aligned", remembers=False)
_define("roi_pool")
_define("ps_roi_align", ", int sampling", sensitive=True)
_define("ps_roi_pool", sensitive=True)
