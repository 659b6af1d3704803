"""ResNet and ResNeXt. Names as in torchvision.

He et al. 2016, https://arxiv.org/abs/1512.03385; Xie et al. 2017, https://arxiv.org/abs/1611.05431.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.backbones.base import Network, Stage
from boxwright.layers.conv import ConvSequential, conv_norm, init_convs

Dilated = Literal["", "torchvision", "detectron2"]

DEPTHS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class ResNet(Network):
    """A ResNet of 18 or 34 (basic blocks), 50, 101 or 152 layers (bottlenecks); a ResNeXt by `groups`.

    groups, group_width  groups of the 3x3 convolutions and their width in the first stage, as in ResNeXt-50-32x4d
    stride_in_1x1        a bottleneck strides in its first 1x1 convolution, as published and in Detectron2's MSRA
                         weights, not in its 3x3 convolution as torchvision does
    dilated              the last stage keeps stride 16 and dilates its 3x3 convolutions by 2: all of them
                         ("detectron2", as DC5 has it) or all but the first ("torchvision")
    """

    def __init__(
        self,
        depth: int,
        groups: int = 1,
        group_width: int = 64,
        stride_in_1x1: bool = False,
        dilated: Dilated = "",
        classes: int = 1000,
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"depth must be one of {', '.join(map(str, DEPTHS))}, got {depth}")
        if dilated not in ("", "torchvision", "detectron2"):
            raise ValueError(f'dilated must be "", "torchvision" or "detectron2", got {dilated!r}')
        if depth < 50 and (groups > 1 or stride_in_1x1 or dilated):
            raise ValueError(f"groups, stride_in_1x1 and dilated need bottlenecks, a depth from 50, got {depth}")
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = (Stage(1, 64, ("conv1", "bn1", "relu")),)
        channels = 64
        for number, blocks in enumerate(DEPTHS[depth], start=1):
            last = number == 4
            stride = 1 if number == 1 or (dilated and last) else 2
            planes = 64 * 2 ** (number - 1)
            layer = nn.Sequential()
            for index in range(blocks):
                dilation = 2 if dilated and last and (index or dilated == "detectron2") else 1
                step = 1 if index else stride
                if depth < 50:
                    layer.append(BasicBlock(channels, planes, step))
                    channels = planes
                else:
                    width = planes * groups * group_width // 64
                    layer.append(Bottleneck(channels, width, 4 * planes, step, groups, dilation, stride_in_1x1))
                    channels = 4 * planes
            self.add_module(f"layer{number}", layer)
            level = self.stages[-1].level + (1 if number == 1 else stride - 1)  # the pooling strides before layer1
            names = ("maxpool", "layer1") if number == 1 else (f"layer{number}",)
            self.stages += (Stage(level, channels, names),)
        self.fc = nn.Linear(channels, classes)
        init_convs(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last_map(x).mean((2, 3)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels, out, stride)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = _conv3x3(out, out)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = _shortcut(channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(conv_norm(x, self.conv1, self.bn1), inplace=True)
        y = conv_norm(y, self.conv2, self.bn2)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up, and the shortcut."""

    def __init__(
        self, channels: int, width: int, out: int, stride: int, groups: int, dilation: int, stride_in_1x1: bool
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(channels, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, second, groups, dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = _shortcut(channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(conv_norm(x, self.conv1, self.bn1), inplace=True)
        y = F.relu(conv_norm(y, self.conv2, self.bn2), inplace=True)
        y = conv_norm(y, self.conv3, self.bn3)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


def _conv3x3(channels: int, out: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False)


def _shortcut(channels: int, out: int, stride: int) -> nn.Module | None:
    """A projection where the block changes the shape, else nothing."""
    if stride == 1 and channels == out:
        return None
    return ConvSequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
