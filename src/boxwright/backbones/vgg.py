"""VGG-11, 13, 16, 19, with or without batch norm (Simonyan, Zisserman 2015), and SSD's VGG-16. Names as in torchvision.

https://arxiv.org/abs/1409.1556; SSD: Liu et al. 2016, https://arxiv.org/abs/1512.02325, section 3
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.backbones.base import Classifier, Head, cut_stages
from boxwright.layers.conv import init_convs

# 3x3 convolutions in each of the five blocks; a block ends with a pooling that halves the map
DEPTHS: dict[int, tuple[int, int, int, int, int]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class VGG(Classifier):
    """Level l is the last map before pooling l + 1: level 3 is conv4, level 4 conv5, level 5 the pooled conv5."""

    head = Head(4096, tuple(f"classifier.{index}" for index in range(6)), cells=7)  # fc6 and fc7

    def __init__(self, depth: int, batch_norm: bool = False, num_classes: int = 1000) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"depth must be one of {', '.join(map(str, DEPTHS))}, got {depth}")
        self.features, layers = _features(depth, batch_norm)
        self.stages = cut_stages(layers)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, num_classes),
        )
        init_convs(self)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) to class logits (N, num_classes)."""
        return self.classifier(F.adaptive_avg_pool2d(self.last_map(x), 7).flatten(1))


class SSDVGG16(Classifier):
    """VGG-16 with fc6 and fc7 as convolutions: level 3 is conv4 (512 channels), level 4 fc7 (1024), the last.

    The third pooling rounds up (300 pixels: 38 cells at stride 8), the fifth takes 3x3 cells without stride, and fc6 is
    dilated by 6. `reduce_fc` makes both out of a plain VGG-16's. Class scores are those of fc7's mean.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.features, layers = _features(16)
        self.features[16] = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.features[30] = nn.MaxPool2d(3, 1, 1)
        self.fc6 = nn.Conv2d(512, 1024, 3, padding=6, dilation=6)
        self.fc7 = nn.Conv2d(1024, 1024, 1)
        self.relu = nn.ReLU(inplace=True)
        pool5 = ("features.30", 1, 512)
        self.stages = cut_stages([*layers[:-1], pool5, *((name, 1, 1024) for name in ("fc6", "relu", "fc7", "relu"))])
        self.classifier = nn.Linear(1024, num_classes)
        init_convs(self)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) to class logits (N, num_classes)."""
        return self.classifier(self.last_map(x).mean((2, 3)))


def reduce_fc(fc6: Tensor, fc7: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (or biases) of a plain VGG-16's hidden layers, for `SSDVGG16`.

    Every fourth channel, and of fc6's 7x7 cells every third: (4096, 25088) to (1024, 512, 3, 3), (4096, 4096) to
    (1024, 1024, 1, 1), (4096,) to (1024,). Cells three apart at stride 32 are six apart at stride 16.
    """
    if fc6.numel() not in (4096, 4096 * 25088) or fc7.numel() not in (4096, 4096 * 4096):
        shapes = f"{tuple(fc6.shape)} and {tuple(fc7.shape)}"
        raise ValueError(f"fc6 and fc7 must be (4096, 25088) and (4096, 4096) or their biases, got {shapes}")
    if fc6.ndim == 1:
        return fc6[::4], fc7[::4]
    return fc6.reshape(4096, 512, 7, 7)[::4, :, ::3, ::3], fc7.reshape(4096, 4096, 1, 1)[::4, ::4]


def _features(depth: int, batch_norm: bool = False) -> tuple[nn.Sequential, list[tuple[str, int, int]]]:
    """Convolutions and poolings, and for each layer its name, its stride and what it gives."""
    features = nn.Sequential()
    layers: list[tuple[str, int, int]] = []
    channels = 3
    for convolutions, width in zip(DEPTHS[depth], (64, 128, 256, 512, 512), strict=True):
        for _ in range(convolutions):
            norm = [nn.BatchNorm2d(width)] if batch_norm else []
            features.extend([nn.Conv2d(channels, width, 3, padding=1), *norm, nn.ReLU(inplace=True)])
            channels = width
        layers += [(f"features.{index}", 1, width) for index in range(len(layers), len(features))]
        features.append(nn.MaxPool2d(2, 2))
        layers.append((f"features.{len(layers)}", 2, width))
    return features, layers
