"""Convolutions and the batch norm that follows them: TensorFlow's padding, fixed statistics, both in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv2dSame(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: `ceil(size / stride)` outputs, an odd rest of padding at the end."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(self.pad(input), weight, bias, self.stride, 0, self.dilation, self.groups)

    def pad(self, input: Tensor) -> Tensor:
        """(N, C, H, W) with the zeros around it that the convolution, which pads nothing more, then reads."""
        return F.pad(input, [zeros for axis in self.margins(input.shape[2:])[::-1] for zeros in axis])

    def margins(self, size: Sequence[int]) -> list[tuple[int, int]]:
        """The zeros before and after a map of H x W, for each axis; after it, there may be one more."""
        axes = zip(size, self.kernel_size, self.stride, self.dilation, strict=True)
        totals = [max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, k, s, d in axes]
        return [(total // 2, total - total // 2) for total in totals]


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics, scale and shift: buffers only, nothing that an optimiser could reach.

    Takes the state dict of `nn.BatchNorm2d` (a `num_batches_tracked` is passed over).
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        scale, shift = scale_and_shift(self)
        return torch.addcmul(shift.to(x.dtype)[:, None, None], x, scale.to(x.dtype)[:, None, None])

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


Norm = nn.BatchNorm2d | FrozenBatchNorm2d


def freeze_norms(module: nn.Module) -> nn.Module:
    """`module` with every `nn.BatchNorm2d` (it may be one) exchanged for a `FrozenBatchNorm2d` of the same numbers."""
    if type(module) is nn.BatchNorm2d:
        with module.weight.device:
            frozen = FrozenBatchNorm2d(module.num_features, module.eps)
        frozen.load_state_dict(module.state_dict())
        return frozen
    for name, child in module.named_children():
        setattr(module, name, freeze_norms(child))
    return module


def scale_and_shift(norm: Norm) -> tuple[Tensor, Tensor]:
    """What a batch norm with fixed statistics does to each channel: `x * scale + shift`, both (C,)."""
    assert norm.running_mean is not None and norm.running_var is not None  # as every network here builds them
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def change_epsilon(state: dict[str, Tensor], norm: str, before: float, after: float) -> None:
    """Makes a batch norm's numbers in a state dict, meant for one epsilon, the same function with another.

    `running_var + eps` stays what it was. Where that takes a negative variance, it is 0 and the weight makes up for it.
    """
    if before == after:
        return
    weight, variance = state[f"{norm}.weight"], state[f"{norm}.running_var"]
    divisor = variance.double() + before
    shifted = (divisor - after).clamp(min=0).to(variance.dtype)
    state[f"{norm}.weight"] = (weight.double() * ((shifted.double() + after) / divisor).sqrt()).to(weight.dtype)
    state[f"{norm}.running_var"] = shifted


def is_plain(conv: nn.Conv2d) -> bool:
    """Whether a convolution does what its numbers say and nothing more, such as hooks, so that a `ConvForm` may."""
    known = type(conv) in (nn.Conv2d, Conv2dSame) and conv.padding_mode == "zeros" and isinstance(conv.padding, tuple)
    return known and not is_hooked(conv)


def is_hooked(module: nn.Module | None) -> bool:
    return module is not None and bool(module._forward_hooks or module._forward_pre_hooks)


ConvForm = Callable[[Tensor, nn.Conv2d, Norm | None, nn.Module | None, Tensor | None], Tensor | None]
"""What `conv_norm` computes, from the same arguments, or None for what it does not compute."""

conv_form: ContextVar[ConvForm | None] = ContextVar("conv_form", default=None)
"""Set where a network only runs (`layers/packed.py`) and where it is trained (`layers/trained.py`)."""


def conv_norm(
    x: Tensor, conv: nn.Conv2d, norm: Norm | None = None, activation: nn.Module | None = None, add: Tensor | None = None
) -> Tensor:
    """`activation(norm(conv(x)) + add)`, (N, C, h, w) -> (N, C', h', w'), without the parts that are None.

    A norm with fixed statistics scales the few weights in place of the large map, forwards and backwards.
    """
    form = None if torch.compiler.is_compiling() else conv_form.get()
    if form is not None and (y := form(x, conv, norm, activation, add)) is not None:
        return y
    if norm is None or (isinstance(norm, nn.BatchNorm2d) and norm.training):
        y = _convolve(x, conv)
        y = y if norm is None else norm(y)
    else:
        y = _convolve(x, conv, fold(conv, norm))
    y = y if add is None else y + add
    return y if activation is None else activation(y)


def fold(conv: nn.Conv2d, norm: Norm) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that is `conv`, then a norm with fixed statistics."""
    scale, shift = scale_and_shift(norm)
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    return conv.weight * scale[:, None, None, None], shift


def _convolve(x: Tensor, conv: nn.Conv2d, weights: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """`conv(x)`, or that with another weight and bias."""
    if x.is_cpu and torch.is_autocast_enabled("cpu") and _stays_float32(x, conv):
        with torch.autocast("cpu", enabled=False):
            return _convolve(x.float(), conv, weights)
    return conv(x) if weights is None else conv._conv_forward(x, *weights)


def _stays_float32(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether the bfloat16 gradient on a CPU is the slower, as of depthwise convolutions, or wrong.

    On a map narrower than the stride, such as P6 of 64 pixels, oneDNN (of PyTorch 2.15) makes the gradient of the
    weights from memory that nothing has written.
    """
    return conv.groups == conv.in_channels or x.shape[-1] < conv.stride[1]


def run(modules: Iterable[nn.Module], x: Tensor) -> Tensor:
    """`x` (N, C, h, w) through the modules in order; a convolution, its norm and its activation by `conv_norm`."""
    rest: list[Any] = list(modules)[::-1]
    while rest:
        module = rest.pop()
        if isinstance(module, nn.Conv2d):
            norm = rest.pop() if rest and isinstance(rest[-1], (nn.BatchNorm2d, FrozenBatchNorm2d)) else None
            activation = rest.pop() if rest and isinstance(rest[-1], (nn.ReLU, nn.ReLU6, nn.Hardswish)) else None
            x = conv_norm(x, module, norm, activation)
        else:
            x = module(x)
    return x


class ConvSequential(nn.Sequential):
    """`nn.Sequential` that computes a convolution, its batch norm and its activation as one (`run`)."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to what the last module gives."""
        return run(self, input)


def init_convs(module: nn.Module) -> None:
    """He et al. (2015) initialisation, by fan-out, of every convolution in `module`; biases become zero."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            fan_out = conv.weight[0, 0].numel() * conv.out_channels // conv.groups
            nn.init.normal_(conv.weight, 0.0, math.sqrt(2.0 / fan_out))
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)


def round_channels(channels: float) -> int:
    """To the nearest multiple of 8, but never more than a tenth down: how the mobile networks scale their width."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
