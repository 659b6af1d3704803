"""What every backbone gives a detector: maps of chosen levels, with their channels and strides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from boxwright.layers.conv import freeze_norms, run

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD: Triple = (0.229 * 255, 0.224 * 255, 0.225 * 255)

NORMS = ("frozen", "batch")


class Stage(NamedTuple):
    """Consecutive modules of a network, named as in its state dict; what comes out has stride 2**level."""

    level: int
    channels: int
    modules: tuple[str, ...]


class Network(nn.Module):
    """A classification network that says where its stages are. Its `state_dict` is the original's.

    Takes normalised pictures (N, 3, H, W), gives class scores (N, classes) before the softmax.
    """

    stages: tuple[Stage, ...]
    pixel_mean: Triple = IMAGENET_MEAN
    pixel_std: Triple = IMAGENET_STD

    def last_map(self, x: Tensor) -> Tensor:
        """The last stage's map: what the classifier looks at."""
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
            stages.append(Stage(level, channels, (name,)))
        else:
            stages[-1] = Stage(level, channels, (*stages[-1].modules, name))
    return tuple(stages)


def run_stage(network: nn.Module, stage: Stage, x: Tensor) -> Tensor:
    """One stage's map from the map of the stage before."""
    return run([network.get_submodule(name) for name in stage.modules], x)


class Backbone(nn.Module):
    """Normalised pictures (N, 3, H, W) to one map per level; level l has stride 2**l.

    channels    one number per level
    strides     one number per level
    pixel_mean, pixel_std    what `normalised` means: (pixels - mean) / std, on RGB in 0..255
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    pixel_mean: Triple
    pixel_std: Triple


class StagedBackbone(Backbone):
    """The stages of a `Network` up to the highest level asked for; the rest of the network is dropped.

    A level is the last map that has its stride: level 4 of a VGG is conv5, level 5 its pooled map.
    Parameters keep the network's names behind `body.`.
    """

    def __init__(
        self, network: Network, levels: Sequence[int] = (3, 4, 5), frozen_stages: int = 0, norm: str = "frozen"
    ) -> None:
        super().__init__()
        last = {stage.level: index for index, stage in enumerate(network.stages)}
        check_levels(levels, sorted(last), type(network).__name__)
        outputs = [last[level] for level in levels]
        self.stages = network.stages[: outputs[-1] + 1]
        check_freezing(frozen_stages, len(self.stages), norm)
        _keep(network, [name for stage in self.stages for name in stage.modules])
        self.body = freeze_norms(network) if norm == "frozen" else network
        for stage in self.stages[:frozen_stages]:
            for name in stage.modules:
                # Neither parameters nor the picture want a gradient, so autograd records nothing of this part.
                self.body.set_submodule(name, freeze_norms(self.body.get_submodule(name)).requires_grad_(False))
        self._outputs = frozenset(outputs)
        self.channels = tuple(network.stages[index].channels for index in outputs)
        self.strides = tuple(2**level for level in levels)
        self.pixel_mean, self.pixel_std = network.pixel_mean, network.pixel_std

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for index, stage in enumerate(self.stages):
            x = run_stage(self.body, stage, x)
            if index in self._outputs:
                maps.append(x)
        return maps


def check_levels(levels: Sequence[int], available: Sequence[int], name: str) -> None:
    if not levels or list(levels) != sorted(set(levels)) or not set(levels) <= set(available):
        raise ValueError(f"levels must ascend and be among {tuple(available)} for {name}, got {tuple(levels)}")


def check_freezing(frozen_stages: int, stages: int, norm: str) -> None:
    if not 0 <= frozen_stages <= stages:
        raise ValueError(f"frozen_stages must be 0..{stages}, the stages that are used, got {frozen_stages}")
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")


def _keep(module: nn.Module, names: Sequence[str]) -> None:
    """Drop every submodule but the named ones and what holds them."""
    for child in [name for name, _ in module.named_children()]:
        below = [name.removeprefix(child + ".") for name in names if name.startswith(child + ".")]
        if below:
            _keep(module.get_submodule(child), below)
        elif child not in names:
            delattr(module, child)
