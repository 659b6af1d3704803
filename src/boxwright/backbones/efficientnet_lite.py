"""EfficientNet-Lite0, 1, 2: EfficientNet without squeeze-and-excitation, with ReLU6, for small machines.

Tan, Le 2019, https://arxiv.org/abs/1905.11946; Lite: https://github.com/tensorflow/tpu. Names as in timm.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from boxwright.backbones.base import Classifier, Head, cut_stages
from boxwright.layers.conv import Conv2dSame, conv_norm, init_convs, round_channels

# repeats, kernel, stride, expansion, channels of Lite0's seven stages
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLite(Classifier):
    """Lite0 with its channels times `width` and its repeats times `depth`; stem, first and last stage keep theirs."""

    head = Head(1280, ("conv_head", "bn2", "act"))
    pixel_mean = (127.0, 127.0, 127.0)
    pixel_std = (128.0, 128.0, 128.0)

    def __init__(self, width: float = 1.0, depth: float = 1.0, num_classes: int = 1000) -> None:
        super().__init__()
        channels = [32] + [round_channels(width * row[-1]) for row in _STAGES]
        self.conv_stem = _conv(3, 32, kernel=3, stride=2)
        self.bn1 = _norm(32)
        self.act = nn.ReLU6(inplace=True)
        self.blocks = nn.Sequential()
        for index, (repeats, kernel, stride, expansion, _) in enumerate(_STAGES):
            scaled = repeats if index in (0, len(_STAGES) - 1) else math.ceil(depth * repeats)
            first, out = channels[index], channels[index + 1]
            shapes = [(first, stride)] + [(out, 1)] * (scaled - 1)
            self.blocks.append(nn.Sequential(*(_block(i, out, kernel, s, expansion) for i, s in shapes)))
        self.conv_head = _conv(channels[-1], 1280)
        self.bn2 = _norm(1280)
        self.classifier = nn.Linear(1280, num_classes)
        blocks = zip((f"blocks.{index}" for index in range(len(_STAGES))), _STAGES, channels[1:], strict=True)
        self.stages = cut_stages(
            [("conv_stem", 2, 32), ("bn1", 1, 32), ("act", 1, 32)] + [(name, row[2], out) for name, row, out in blocks]
        )
        init_convs(self)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) to class logits (N, num_classes)."""
        x = conv_norm(self.last_map(x), self.conv_head, self.bn2, self.act)
        return self.classifier(x.mean((2, 3)))


class SeparableBlock(nn.Module):
    """Depthwise, then pointwise: the block without expansion."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = _conv(channels, channels, kernel, stride, groups=channels)
        self.bn1 = _norm(channels)
        self.conv_pw = _conv(channels, out)
        self.bn2 = _norm(out)
        self.act = nn.ReLU6(inplace=True)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, out, H / stride, W / stride)."""
        y = conv_norm(x, self.conv_dw, self.bn1, self.act)
        return conv_norm(y, self.conv_pw, self.bn2, add=x if self.residual else None)


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; the shortcut joins the narrow ends (Sandler et al. 2018)."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.conv_pw = _conv(channels, wide)
        self.bn1 = _norm(wide)
        self.conv_dw = _conv(wide, wide, kernel, stride, groups=wide)
        self.bn2 = _norm(wide)
        self.conv_pwl = _conv(wide, out)
        self.bn3 = _norm(out)
        self.act = nn.ReLU6(inplace=True)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, out, H / stride, W / stride)."""
        y = conv_norm(x, self.conv_pw, self.bn1, self.act)
        y = conv_norm(y, self.conv_dw, self.bn2, self.act)
        return conv_norm(y, self.conv_pwl, self.bn3, add=x if self.residual else None)


def _block(channels: int, out: int, kernel: int, stride: int, expansion: int) -> nn.Module:
    if expansion == 1:
        return SeparableBlock(channels, out, kernel, stride)
    return InvertedResidual(channels, out, kernel, stride, expansion)


def _conv(channels: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """SAME padding is symmetric, and then free, where the stride is 1."""
    kind, pad = (nn.Conv2d, kernel // 2) if stride == 1 else (Conv2dSame, 0)
    return kind(channels, out, kernel, stride, pad, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)
