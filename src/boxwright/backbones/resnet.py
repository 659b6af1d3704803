"""ResNet and ResNeXt. Names as in torchvision.

He et al. 2016, https://arxiv.org/abs/1512.03385; Xie et al. 2017, https://arxiv.org/abs/1611.05431.
"""

from __future__ import annotations

from torch import Tensor, nn

from boxwright.backbones.base import Classifier, Stage
from boxwright.layers.conv import ConvSequential, conv_norm, init_convs

DEPTHS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class ResNet(Classifier):
    """A ResNet of 18 or 34 (basic blocks), 50, 101 or 152 layers (bottlenecks); a ResNeXt by `groups`.

    groups, group_width  groups of the 3x3 convolutions and their width in the first stage, as in ResNeXt-50-32x4d
    stride_in_1x1        a bottleneck strides in its first 1x1 convolution, as published and in Detectron2's MSRA
                         weights, not in its 3x3 convolution as torchvision does
    """

    def __init__(
        self, depth: int, groups: int = 1, group_width: int = 64, stride_in_1x1: bool = False, num_classes: int = 1000,
    ) -> None:  # fmt: skip
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"depth must be one of {', '.join(map(str, DEPTHS))}, got {depth}")
        if depth < 50 and (groups > 1 or stride_in_1x1):
            raise ValueError(f"groups and stride_in_1x1 need bottlenecks, a depth from 50, got {depth}")
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = (Stage(1, 2, 64, ("conv1", "bn1", "relu")),)
        channels = 64
        for number, blocks in enumerate(DEPTHS[depth], start=1):
            stride = 1 if number == 1 else 2
            planes = 64 * 2 ** (number - 1)
            layer = nn.Sequential()
            for index in range(blocks):
                step = 1 if index else stride
                if depth < 50:
                    layer.append(BasicBlock(channels, planes, step))
                    channels = planes
                else:
                    width = planes * groups * group_width // 64
                    layer.append(Bottleneck(channels, width, 4 * planes, step, groups, stride_in_1x1))
                    channels = 4 * planes
            self.add_module(f"layer{number}", layer)
            names = ("maxpool", "layer1") if number == 1 else (f"layer{number}",)
            self.stages += (Stage(number + 1, 2 ** (number + 1), channels, names),)
        self.fc = nn.Linear(channels, num_classes)
        init_convs(self)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) to class logits (N, num_classes)."""
        return self.fc(self.last_map(x).mean((2, 3)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels, out, stride)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = _conv3x3(out, out)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, out, H / stride, W / stride)."""
        y = conv_norm(x, self.conv1, self.bn1, self.relu)
        shortcut = x if self.downsample is None else self.downsample(x)
        return conv_norm(y, self.conv2, self.bn2, self.relu, add=shortcut)


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up, and the shortcut."""

    def __init__(self, channels: int, width: int, out: int, stride: int, groups: int, stride_in_1x1: bool) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(channels, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, second, groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, out, H / stride, W / stride)."""
        y = conv_norm(x, self.conv1, self.bn1, self.relu)
        y = conv_norm(y, self.conv2, self.bn2, self.relu)
        shortcut = x if self.downsample is None else self.downsample(x)
        return conv_norm(y, self.conv3, self.bn3, self.relu, add=shortcut)


def _conv3x3(channels: int, out: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, stride, padding=1, groups=groups, bias=False)


def _shortcut(channels: int, out: int, stride: int) -> nn.Module | None:
    """A projection where the block changes the shape, else nothing."""
    if stride == 1 and channels == out:
        return None
    return ConvSequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
