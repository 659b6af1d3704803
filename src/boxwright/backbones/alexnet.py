"""AlexNet (Krizhevsky et al. 2012; the one-tower form of https://arxiv.org/abs/1404.5997). Names as in torchvision."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.backbones.base import Classifier, Head, cut_stages


class AlexNet(Classifier):
    """Level 2 is conv1, level 3 conv2, level 4 conv5, level 5 the pooled conv5; there is no level 1.

    The classifier's layers leave out the border, and its maps are cells short; a backbone's do not (`pad_same`).
    """

    head = Head(4096, tuple(f"classifier.{index}" for index in range(6)), cells=6)  # fc6 and fc7

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
        )
        strides = (4, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2)
        channels = (64, 64, 64, 192, 192, 192, 384, 384, 256, 256, 256, 256, 256)
        self.stages = cut_stages(
            (f"features.{index}", *row) for index, row in enumerate(zip(strides, channels, strict=True))
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) to class logits (N, num_classes)."""
        return self.classifier(F.adaptive_avg_pool2d(self.last_map(x), 6).flatten(1))
