"""What every backbone gives a detector: maps of chosen levels, with their channels and strides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from boxwright.layers.conv import freeze_norms, run

IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)

NORMS = ("frozen", "batch")


class Stage(NamedTuple):
    """Consecutive modules of a network, named as in its state dict, and what comes out of them.

    level   2**level is the stride, but where a network has two maps of one stride, or `keep_stride` has been at it
    stride  pixels from cell to cell
    """

    level: int
    stride: int
    channels: int
    modules: tuple[str, ...]


class Head(NamedTuple):
    """What a network has between its last map and the layer of its class scores, named as in its state dict.

    cells  side of the map that fully connected layers take; 0: convolutions, which take any
    """

    channels: int
    modules: tuple[str, ...]
    cells: int = 0


class Classifier(nn.Module):
    """A classification network cut into stages. Its `state_dict` is the original's.

    Takes normalised images (N, 3, H, W), gives class logits (N, num_classes) before the softmax.
    """

    stages: tuple[Stage, ...]
    head: Head | None = None
    pixel_mean: tuple[float, ...] = IMAGENET_MEAN
    pixel_std: tuple[float, ...] = IMAGENET_STD

    def last_map(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) to the last stage's map (N, C, h, w), the input of the classifier's head."""
        for stage in self.stages:
            x = run_stage(self, stage, x)
        return x


def cut_stages(layers: Iterable[tuple[str, int, int]]) -> tuple[Stage, ...]:
    """Stages of consecutive layers (name, stride, outgoing channels): a new one begins where a layer strides."""
    stages: list[Stage] = []
    level = 0
    for name, stride, channels in layers:
        if stride > 1 or not stages:
            level += stride.bit_length() - 1
            stages.append(Stage(level, 2**level, channels, (name,)))
        else:
            stages[-1] = Stage(level, 2**level, channels, (*stages[-1].modules, name))
    return tuple(stages)


def run_stage(network: nn.Module, stage: Stage, x: Tensor) -> Tensor:
    """The map of the stage before, (N, C, h, w), to that of this stage, (N, channels, h', w')."""
    return run([network.get_submodule(name) for name in stage.modules], x)


class Backbone(nn.Module):
    """Normalised images (N, 3, H, W) to one map per level.

    channels    one number per level
    strides     one number per level, as a rule 2**level (dilated, level 5 has 16)
    pixel_mean, pixel_std    what `normalised` means: (pixels - mean) / std, on RGB in 0..255, three numbers each
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]


class StagedBackbone(Backbone):
    """The stages of a `Classifier` up to the highest level asked for; the rest of the network is dropped.

    A level is the last map that has its stride: level 4 of a VGG is conv5, level 5 its pooled map.
    Parameters keep the network's names behind `body.`.
    dilated  what has stride 32 keeps the stride of level 4 (`keep_stride`)
    """

    def __init__(
        self, network: Classifier, levels: Sequence[int] = (3, 4, 5), frozen_stages: int = 0, norm: str = "frozen",
        dilated: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        pad_same(network)
        if dilated:
            keep_stride(network)
        last = {stage.level: index for index, stage in enumerate(network.stages)}
        check_levels(levels, sorted(last), type(network).__name__)
        outputs = [last[level] for level in levels]
        self.stages = network.stages[: outputs[-1] + 1]
        check_freezing(frozen_stages, len(self.stages))
        check_norm(norm)
        keep(network, [name for stage in self.stages for name in stage.modules])
        self.body = freeze_norms(network) if norm == "frozen" else network
        for stage in self.stages[:frozen_stages]:
            for name in stage.modules:
                # Neither parameters nor the image need a gradient, so autograd records nothing of this part.
                self.body.set_submodule(name, freeze_norms(self.body.get_submodule(name)).requires_grad_(False))
        self._outputs = frozenset(outputs)
        self.channels = tuple(network.stages[index].channels for index in outputs)
        self.strides = tuple(network.stages[index].stride for index in outputs)
        self.pixel_mean, self.pixel_std = network.pixel_mean, network.pixel_std

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images (N, 3, H, W) to a map (N, channels, H / stride, W / stride) per level, sizes rounded up."""
        maps = []
        for index, stage in enumerate(self.stages):
            x = run_stage(self.body, stage, x)
            if index in self._outputs:
                maps.append(x)
        return maps


def check_levels(levels: Sequence[int], available: Sequence[int], name: str) -> None:
    if not levels or list(levels) != sorted(set(levels)) or not set(levels) <= set(available):
        kept = sorted(set(levels) & set(available))
        mend = f"; give --levels {' '.join(map(str, kept))}" if kept else ""
        raise ValueError(f"levels (--levels) ascend among {tuple(available)} for {name}, got {tuple(levels)}{mend}")


def check_freezing(frozen_stages: int, stages: int) -> None:
    if not 0 <= frozen_stages <= stages:
        raise ValueError(f"frozen_stages (--frozen-stages) is 0..{stages}, the stages in use, got {frozen_stages}")


def check_norm(norm: str) -> None:
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")


def keep(module: nn.Module, names: Sequence[str]) -> None:
    """Drop every submodule but the named ones and what holds them."""
    for child in [name for name, _ in module.named_children()]:
        below = [name.removeprefix(child + ".") for name in names if name.startswith(child + ".")]
        if below:
            keep(module.get_submodule(child), below)
        elif child not in names:
            delattr(module, child)


def keep_stride(network: Classifier) -> None:
    """Stride 16 in place of 32: the strided layer takes every cell, what follows is dilated by 2 ("à trous").

    Each cell that the network had before comes out as it was, and between two of them a new one: DC5 (Dai et al. 2016,
    R-FCN, section 3). (Not quite in a MobileNet-v3, whose squeezing takes the mean of all cells.) A stage that is
    one pooling becomes one over 3x3 cells without stride (Liu et al. 2016, SSD, section 3).
    """
    coarse = [stage for stage in network.stages if stage.stride == 32]
    network.stages = tuple(stage._replace(stride=min(stage.stride, 16)) for stage in network.stages)
    strided = False
    for name in (name for stage in coarse for name in stage.modules):
        for module in network.get_submodule(name).modules():
            if isinstance(module, nn.MaxPool2d):
                module.kernel_size, module.stride, module.padding = 3, 1, 1
            elif isinstance(module, nn.Conv2d) and max(module.stride) > 1:
                module.stride, strided = (1, 1), True
            elif isinstance(module, nn.Conv2d) and strided and max(module.kernel_size) > 1:
                height, width = (int(pad) for pad in module.padding)  # 0 where the convolution pads by itself
                module.dilation, module.padding = (2, 2), (2 * height, 2 * width)


def pad_same(module: nn.Module) -> None:
    """Convolutions and poolings that leave out the border get it padded, for maps of ceil(H / stride) cells.

    Without it a map is cells short of what its stride gives, and its cells lie elsewhere than anchors and RoI align
    take them to be: by a whole cell at stride 8 of an Inception.
    """
    layer: Any
    for layer in module.modules():
        if type(layer) not in (nn.Conv2d, nn.MaxPool2d):  # a subclass may pad by itself
            continue
        if isinstance(layer.padding, str) or getattr(layer, "ceil_mode", False):  # pads by itself
            continue
        sizes = zip(_pair(layer.kernel_size), _pair(layer.stride), _pair(layer.padding), strict=True)
        layer.padding = tuple((k - 1) // 2 if k - 2 * p > s else p for k, s, p in sizes)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    first, second = (size, size) if isinstance(size, int) else size
    return first, second
