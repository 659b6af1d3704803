"""The training form of convolutions on a CPU: the same outputs, and a faster gradient of wide depthwise kernels.

oneDNN (of PyTorch 2.15) makes the gradient of a depthwise convolution's weights fast for up to three columns of them.
That of a wider kernel is put together from three columns at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from boxwright.layers.conv import Conv2dSame, Norm, conv_form, fold, is_plain

_FAST = 3  # columns


@contextmanager
def active() -> Iterator[None]:
    """Within, `conv_norm` computes wide depthwise convolutions so, where a gradient is recorded."""
    before = conv_form.set(_depthwise)
    try:
        yield
    finally:
        conv_form.reset(before)


def _depthwise(
    x: Tensor, conv: nn.Conv2d, norm: Norm | None, activation: nn.Module | None, add: Tensor | None
) -> Tensor | None:
    """What `conv_norm` returns for these arguments, to the last bit; None where that has to compute it."""
    wide = conv.kernel_size[1] > _FAST and conv.groups == conv.in_channels == conv.out_channels
    float32 = conv.weight.dtype == torch.float32 and (x.dtype == torch.float32 or torch.is_autocast_enabled("cpu"))
    if not (wide and float32 and x.is_cpu and torch.is_grad_enabled() and is_plain(conv)):
        return None
    of_batch = isinstance(norm, nn.BatchNorm2d) and norm.training  # statistics, so that nothing can be folded
    weight, bias = (conv.weight, conv.bias) if norm is None or of_batch else fold(conv, norm)
    with torch.autocast("cpu", enabled=False):  # as `conv_norm` does
        padded = isinstance(conv, Conv2dSame)
        x = conv.pad(x.float()) if padded else x.float()
        y = _Depthwise.apply(x, weight, bias, conv.stride, (0, 0) if padded else conv.padding, conv.dilation)
    y = norm(y) if norm is not None and of_batch else y
    y = y if add is None else y + add
    return y if activation is None else activation(y)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return F.conv2d(x, weight, bias, *geometry, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.geometry
        of_x, of_weight, of_bias, *_ = ctx.needs_input_grad
        to_x, _, to_bias = _backward(gradient, x, weight, stride, padding, dilation, (of_x, False, of_bias))
        if not of_weight:
            return to_x, None, to_bias, None, None, None
        x = F.pad(x, (padding[1], padding[1])) if padding[1] else x
        columns = []
        for first in range(0, weight.shape[3], _FAST):
            part = weight[..., first : first + _FAST]
            reach = (gradient.shape[3] - 1) * stride[1] + (part.shape[3] - 1) * dilation[1] + 1
            read = x[..., first * dilation[1] :][..., :reach]
            columns.append(_backward(gradient, read, part, stride, (padding[0], 0), dilation, (False, True, False))[1])
        return to_x, torch.cat(columns, 3), to_bias, None, None, None


def _backward(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: tuple, padding: tuple, dilation: tuple,
    mask: tuple[bool, bool, bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """The gradients of x, weight and bias that the mask asks for; None for the others."""
    channels = len(weight)
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, [channels], stride, padding, dilation, False, (0, 0), channels, mask
    )
