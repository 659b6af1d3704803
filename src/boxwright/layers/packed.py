"""The inference form of convolutions on a CPU: oneDNN's operators on weights in oneDNN's own layout.

A norm is folded into the weights; the shortcut and the activation are computed where the convolution writes its output.
The operators are private to PyTorch. Only this file calls them, after one comparison with `F.conv2d`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from boxwright.layers.conv import Conv2dSame, Norm, conv_form, fold, is_hooked, is_plain

_FUSED: dict[type[nn.Module] | None, tuple[str, list[float]]] = {
    None: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
    nn.Hardsigmoid: ("hardsigmoid", []),
}
"""Activations that the operators compute, by the operators' names and with their numbers."""

_MAX_SHAPES = 256  # of the input of one convolution, whose layout of weights is remembered


class Packed:
    """The packed weights of a network's convolutions, used `with packed.active():`.

    oneDNN chooses a layout of the weights for each shape of input. A convolution keeps its weights in every layout met
    so far: one to three as a rule, whatever the number of shapes, each as large as the weights.

    The weights are packed anew once a tensor that they are made of was exchanged or changed in place, or an optimiser
    made a step. Changes that PyTorch does not count are not seen (`weight.data.mul_(2)`, a numpy array that shares the
    memory); make another `Packed` after them. A relu within a convolution makes nan 0.

    dtype  of the arithmetic: float32, or bfloat16 within autocast to it, which maps of float32 are converted to
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        _count_optimizer_steps()
        self.dtype = dtype
        self._weights: dict[tuple[nn.Conv2d, Norm | None], _Weights] = {}

    def __reduce__(self) -> tuple[type[Packed], tuple[torch.dtype]]:
        return Packed, (self.dtype,)  # packed tensors can be neither copied nor pickled, so a copy packs for itself

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within, `conv_norm` computes maps on the CPU so, in inference mode."""
        before = conv_form.set(self if is_available() and torch.backends.mkldnn.enabled else None)
        try:
            yield
        finally:
            conv_form.reset(before)

    def __call__(
        self, x: Tensor, conv: nn.Conv2d, norm: Norm | None, activation: nn.Module | None, add: Tensor | None
    ) -> Tensor | None:
        """What `conv_norm` returns for these arguments, channels-last; None where that has to compute it."""
        if x.device.type != "cpu" or x.dtype not in (torch.float32, self.dtype) or self.dtype != _autocast_dtype():
            return None
        if not x.numel() or x.ndim != 4 or x.shape[1] != conv.in_channels:  # nothing to compute, or a fault to report
            return None
        if not torch.is_inference_mode_enabled() or not (is_plain(conv) and _can_pad(conv)):
            return None
        if isinstance(norm, nn.BatchNorm2d) and norm.training:
            return None
        tensors = [*conv._parameters.values()]
        if norm is not None:
            tensors += [*norm._parameters.values(), *norm._buffers.values()]
        sources: list[Tensor] = [tensor for tensor in tensors if tensor is not None]
        if any(tensor.is_inference() for tensor in sources):  # PyTorch does not count their changes
            return None
        version = (_steps, norm and norm.eps, *((id(tensor), tensor.data_ptr(), tensor._version) for tensor in sources))
        weights = self._weights.get((conv, norm))
        if weights is None or weights.version != version:
            weights = self._weights[conv, norm] = _Weights(conv, norm, self.dtype, sources, version)
        x, add = self._map(x), None if add is None else self._map(add)
        return weights.convolve(x, activation, add)

    def _map(self, x: Tensor) -> Tensor:
        return x.to(self.dtype, memory_format=torch.channels_last)


_Geometry = tuple[list[int], list[int], list[int], int]
"""Padding, stride, dilation and groups, as oneDNN's operators take them."""


class _Weights:
    """The weights of one convolution, with its norm folded in, in each layout that its inputs have needed."""

    def __init__(
        self, conv: nn.Conv2d, norm: Norm | None, dtype: torch.dtype, sources: list[Tensor], version: tuple
    ) -> None:
        self.conv, self.norm, self.dtype = conv, norm, dtype
        self.version = version
        self.sources = sources, [tensor.detach() for tensor in sources]  # none else gets their ids and addresses
        _, bias = self._fold()
        self.bias = None if bias is None else bias.to(dtype)
        self.of_shape: dict[tuple[torch.Size, int], tuple[Tensor, _Geometry]] = {}  # and the number of threads
        self.of_layout: dict[bytes, Tensor] = {}

    def _fold(self) -> tuple[Tensor, Tensor | None]:
        return (self.conv.weight, self.conv.bias) if self.norm is None else fold(self.conv, self.norm)

    def convolve(self, x: Tensor, activation: nn.Module | None, add: Tensor | None) -> Tensor:
        """As `conv_norm`."""
        packed, geometry = self.of_shape.get((x.shape, torch.get_num_threads())) or self._pack(x.shape)
        kind = None if activation is None else type(activation)
        fused = (kind in _FUSED if add is None else kind in (None, nn.ReLU)) and not is_hooked(activation)
        name, numbers = _FUSED[kind] if fused else _FUSED[None]
        if add is None:
            y = torch.ops.mkldnn._convolution_pointwise(x, packed, self.bias, *geometry, name, numbers, "")
        else:
            relu = name if name == "relu" else None
            y = torch.ops.mkldnn._convolution_pointwise.binary(
                x, add, packed, self.bias, *geometry, "add", 1.0, relu, [], ""
            )
        return y if fused or activation is None else activation(y)

    def _pack(self, shape: torch.Size) -> tuple[Tensor, _Geometry]:
        """The weights in the layout for an input of this shape and the threads; kept once for all with that layout.

        oneDNN pads both sides of a map alike. Where there is one zero more after it, so there is before it, and the
        kernel gets a first row or column of zeros, which reads that.
        """
        conv, weight = self.conv, self._fold()[0].detach().to(self.dtype)
        padding: list[Any] = list(conv.padding)
        if isinstance(conv, Conv2dSame):
            (top, bottom), (left, right) = conv.margins(shape[2:])
            weight, padding = F.pad(weight, [right - left, 0, bottom - top, 0]), [bottom, right]
        geometry = padding, list(conv.stride), list(conv.dilation), conv.groups
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(shape))
        layout = bytes(torch.ops.mkldnn._get_mkldnn_serialized_md(packed).numpy())
        if len(self.of_shape) >= _MAX_SHAPES:
            self.of_shape.clear()
        found = self.of_layout.setdefault(layout, packed), geometry
        self.of_shape[shape, torch.get_num_threads()] = found
        return found


def _autocast_dtype() -> torch.dtype:
    """That of convolutions on the CPU: float32 where autocast is off."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def _can_pad(conv: nn.Conv2d) -> bool:
    """Whether oneDNN can pad as this does: a first row of zeros in a dilated kernel would read another row."""
    axes = zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
    even = all(dilation == 1 or (stride == 1 and kernel % 2) for kernel, stride, dilation in axes)
    return even or not isinstance(conv, Conv2dSame)


_steps = 0  # of all optimisers: a fused one changes weights without a new version of them


@cache
def _count_optimizer_steps() -> None:
    def count(*_: object) -> None:
        global _steps
        _steps += 1

    register_optimizer_step_post_hook(count)


@cache
def is_available() -> bool:
    """Whether this PyTorch has the operators on this machine, and they compute what `F.conv2d` does."""
    if not torch.backends.mkldnn.is_available():
        return False
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"), torch.autocast("cpu", enabled=False):
        with torch.random.fork_rng(devices=[]):  # on the meta device it would draw none, but import sympy, for 2 s
            conv = nn.Conv2d(16, 16, 3, padding=1, dtype=torch.float32)
        for values in conv.parameters():
            values.copy_(torch.arange(values.numel()).sin().view_as(values))
        x = torch.arange(16.0 * 7 * 9).cos().view(1, 16, 7, 9)
        try:
            weights = _Weights(conv, None, torch.float32, [], ())
            y = weights.convolve(x.contiguous(memory_format=torch.channels_last), nn.ReLU(), add=x)
        except (AttributeError, RuntimeError, TypeError):  # another build or another release of PyTorch
            return False
        return torch.allclose(y, F.relu(F.conv2d(x, conv.weight, conv.bias, padding=1) + x), atol=1e-3)
