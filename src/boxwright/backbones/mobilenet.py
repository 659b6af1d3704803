"""MobileNet-v2 and MobileNet-v3. Names as in torchvision.

Sandler et al. 2018, https://arxiv.org/abs/1801.04381; Howard et al. 2019, https://arxiv.org/abs/1905.02244.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from boxwright.backbones.base import Classifier, Head, Stage, cut_stages
from boxwright.layers.conv import ConvSequential, conv_norm, init_convs, round_channels

# expansion, channels, repeats, stride (Table 2 of the v2 paper)
_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

# kernel, expanded channels, channels, squeeze-and-excitation, hard swish, stride (Tables 1 and 2 of the v3 paper)
_V3 = {
    "large": (
        (3, 16, 16, False, False, 1),
        (3, 64, 24, False, False, 2),
        (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2),
        (5, 120, 40, True, False, 1),
        (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2),
        (3, 200, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 480, 112, True, True, 1),
        (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2),
        (5, 960, 160, True, True, 1),
        (5, 960, 160, True, True, 1),
    ),
    "small": (
        (3, 16, 16, True, False, 2),
        (3, 72, 24, False, False, 2),
        (3, 88, 24, False, False, 1),
        (5, 96, 40, True, True, 2),
        (5, 240, 40, True, True, 1),
        (5, 240, 40, True, True, 1),
        (5, 120, 48, True, True, 1),
        (5, 144, 48, True, True, 1),
        (5, 288, 96, True, True, 2),
        (5, 576, 96, True, True, 1),
        (5, 576, 96, True, True, 1),
    ),
}


class MobileNetV2(Classifier):
    """Level 5 is the last bottleneck (320 channels); the 1x1 convolution behind it belongs to the classifier."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(_unit(3, 32, 3, 2, act=nn.ReLU6))
        layers = [("features.0", 2, 32)]
        channels = 32
        for expansion, out, repeats, stride in _V2:
            for index in range(repeats):
                step = 1 if index else stride
                layers.append((f"features.{len(layers)}", step, out))
                self.features.append(InvertedResidual(channels, out, step, expansion))
                channels = out
        self.stages = cut_stages(layers)
        self.head = Head(1280, (f"features.{len(layers)}",))
        self.features.append(_unit(channels, 1280, act=nn.ReLU6))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))
        init_convs(self)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) to class logits (N, num_classes)."""
        return self.classifier(self.features[-1](self.last_map(x)).mean((2, 3)))


class InvertedResidual(nn.Module):
    """MobileNet-v2's block: expand, depthwise, project; the shortcut joins the narrow ends."""

    def __init__(self, channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        expand = [] if expansion == 1 else [_unit(channels, wide, act=nn.ReLU6)]
        depthwise = _unit(wide, wide, 3, stride, groups=wide, act=nn.ReLU6)
        self.conv = ConvSequential(*expand, depthwise, nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out))
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, out, H / stride, W / stride)."""
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV3(Classifier):
    """MobileNet-v3, of which the detectors know three cuts into levels.

    cut           "classifier": level 5 is the last bottleneck (160 channels, small: 96); the 1x1 convolution behind it
                  is the classifier's. "pyramid": level 5 is the first bottleneck of stride 32, level 6, of that stride
                  too, the 1x1 convolution (960 channels, small: 576). "ssd": level 4 is what that first bottleneck
                  expands to, level 5 the 1x1 convolution (section 6.3 of the paper)
    reduced_tail  half the channels from that bottleneck's output on (section 6.3 too)
    """

    def __init__(
        self, size: Literal["large", "small"], cut: Literal["classifier", "pyramid", "ssd"] = "classifier",
        reduced_tail: bool = False, num_classes: int = 1000,
    ) -> None:  # fmt: skip
        super().__init__()
        if size not in _V3:
            raise ValueError(f"size must be large or small, got {size!r}")
        if cut not in ("classifier", "pyramid", "ssd"):
            raise ValueError(f"cut must be classifier, pyramid or ssd, got {cut!r}")
        rows = _reduce_tail(_V3[size]) if reduced_tail else _V3[size]
        self.features = nn.Sequential(_unit(3, 16, 3, 2, act=nn.Hardswish, eps=1e-3))
        layers = [("features.0", 2, 16)]
        channels = 16
        for kernel, wide, out, squeeze, hard, stride in rows:
            layers.append((f"features.{len(layers)}", stride, out))
            act = nn.Hardswish if hard else nn.ReLU
            self.features.append(SqueezedResidual(channels, wide, out, kernel, stride, squeeze, act))
            channels = out
        self.stages = cut_stages(layers)
        last = f"features.{len(layers)}"
        if cut == "classifier":
            self.head = Head(6 * channels, (last,))
        elif cut == "pyramid":
            self.stages = _cut_for_pyramid(self.stages, Stage(6, 32, 6 * channels, (last,)))
        else:
            self.stages = _cut_for_ssd(self.stages, rows[-3][1], Stage(5, 32, 6 * channels, (last,)))
        self.features.append(_unit(channels, 6 * channels, act=nn.Hardswish, eps=1e-3))
        hidden = (1280 if size == "large" else 1024) // (2 if reduced_tail else 1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * channels, hidden), nn.Hardswish(inplace=True), nn.Dropout(0.2), nn.Linear(hidden, num_classes)
        )
        init_convs(self)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) to class logits (N, num_classes)."""
        x = self.last_map(x)
        if self.head is not None:
            x = self.features[-1](x)
        return self.classifier(x.mean((2, 3)))


def _reduce_tail(rows: tuple[tuple, ...]) -> tuple[tuple, ...]:
    """The last three bottlenecks at half their width; what the first of them reads and expands it to stays."""
    *before, (kernel, wide, out, *rest), second, third = rows
    return (*before, (kernel, wide, out // 2, *rest), *((k, w // 2, o // 2, *r) for k, w, o, *r in (second, third)))


def _cut_for_pyramid(stages: tuple[Stage, ...], last: Stage) -> tuple[Stage, ...]:
    """Level 5 is one bottleneck; the others come before the 1x1 convolution, in `last`."""
    *before, level5 = stages
    first, *others = level5.modules
    return (*before, level5._replace(modules=(first,)), last._replace(modules=(*others, *last.modules)))


def _cut_for_ssd(stages: tuple[Stage, ...], wide: int, last: Stage) -> tuple[Stage, ...]:
    """Level 4 takes level 5's first convolution, which expands to `wide` channels; the rest comes before `last`."""
    *before, level4, level5 = stages
    first, *others = level5.modules
    expand, *parts = (f"{first}.block.{index}" for index in range(4))  # then depthwise, squeeze and excite, project
    level4 = level4._replace(channels=wide, modules=(*level4.modules, expand))
    return (*before, level4, last._replace(modules=(*parts, *others, *last.modules)))


class SqueezedResidual(nn.Module):
    """MobileNet-v3's block: expand, depthwise, squeeze and excite, project; the shortcut joins the narrow ends."""

    def __init__(
        self, channels: int, wide: int, out: int, kernel: int, stride: int, squeeze: bool, act: type[nn.Module]
    ) -> None:
        super().__init__()
        parts: list[nn.Module] = [] if wide == channels else [_unit(channels, wide, act=act, eps=1e-3)]
        parts.append(_unit(wide, wide, kernel, stride, groups=wide, act=act, eps=1e-3))
        if squeeze:
            parts.append(SqueezeExcite(wide))
        parts.append(_unit(wide, out, eps=1e-3))
        self.block = nn.Sequential(*parts)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, out, H / stride, W / stride)."""
        return x + self.block(x) if self.residual else self.block(x)


class SqueezeExcite(nn.Module):
    """Every channel weighed by a small network on the mean of all (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = round_channels(channels / 4)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.relu, self.sigmoid = nn.ReLU(), nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        weight = conv_norm(x.mean((2, 3), keepdim=True), self.fc1, activation=self.relu)  # (N, squeezed, 1, 1)
        return x * conv_norm(weight, self.fc2, activation=self.sigmoid)


def _unit(
    channels: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = None,
    eps: float = 1e-5,
) -> ConvSequential:  # fmt: skip
    """Convolution, batch norm and, where there is one, the activation."""
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return ConvSequential(conv, nn.BatchNorm2d(out, eps), *([] if act is None else [act(inplace=True)]))
