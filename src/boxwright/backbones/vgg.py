"""VGG-11, 13, 16, 19, with or without batch norm (Simonyan, Zisserman 2015). Names as in torchvision.

https://arxiv.org/abs/1409.1556
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.backbones.base import Head, Network, cut_stages
from boxwright.layers.conv import init_convs

# 3x3 convolutions in each of the five blocks; a block ends with a pooling that halves the map
DEPTHS: dict[int, tuple[int, int, int, int, int]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class VGG(Network):
    """Level l is the last map before pooling l + 1: level 3 is conv4, level 4 conv5, level 5 the pooled conv5."""

    head = Head(4096, tuple(f"classifier.{index}" for index in range(6)), cells=7)  # fc6 and fc7

    def __init__(self, depth: int, batch_norm: bool = False, classes: int = 1000) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"depth must be one of {', '.join(map(str, DEPTHS))}, got {depth}")
        self.features = nn.Sequential()
        layers: list[tuple[str, int, int]] = []
        channels = 3
        for convolutions, width in zip(DEPTHS[depth], (64, 128, 256, 512, 512), strict=True):
            for _ in range(convolutions):
                norm = [nn.BatchNorm2d(width)] if batch_norm else []
                self.features.extend([nn.Conv2d(channels, width, 3, padding=1), *norm, nn.ReLU(inplace=True)])
                channels = width
            layers += [(f"features.{index}", 1, width) for index in range(len(layers), len(self.features))]
            self.features.append(nn.MaxPool2d(2, 2))
            layers.append((f"features.{len(layers)}", 2, width))
        self.stages = cut_stages(layers)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, classes),
        )
        init_convs(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.adaptive_avg_pool2d(self.last_map(x), 7).flatten(1))
