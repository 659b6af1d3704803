"""Sliding window: a classifier at every position, in several sizes and shapes, as one convolution of shared features.

Sermanet et al. 2014, "OverFeat", section 3.5: a fully connected layer that moves over an image is a convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.assign import IGNORED, Assign, BalancedSampler, MaxIoUAssigner, Prediction, match
from boxwright.backbones.features import Features
from boxwright.boxes.geometry import at_least_float32, clip
from boxwright.detectors.base import Detector, Select, best, build_pyramid, build_select, gather
from boxwright.layers.conv import conv_norm, run
from boxwright.losses import cross_entropy
from boxwright.types import Images, Losses, Slots, Target

if TYPE_CHECKING:
    from boxwright.detectors.config import SlidingWindowConfig

Shape = tuple[int, int]
"""Rows and columns of a window, in cells of the map."""


class WindowHead(nn.Module):
    """For each shape of window a layer that sees all its cells, then two that all shapes share: K + 1 class logits."""

    def __init__(self, channels: int, shapes: tuple[Shape, ...], hidden: int, num_classes: int) -> None:
        super().__init__()
        self.windows = nn.ModuleList(
            nn.Conv2d(channels, hidden, shape, padding=(shape[0] // 2, shape[1] // 2)) for shape in shapes
        )
        self.hidden = nn.Conv2d(hidden, hidden, 1)
        self.logits = nn.Conv2d(hidden, num_classes + 1, 1)
        self.relu = nn.ReLU()

    def forward(self, features: Tensor) -> list[Tensor]:
        """A map (N, C, h, w) to logits (N, K + 1, h', w') for each shape, a window at each position."""
        seen = [run([window, self.relu], features) for window in self.windows]
        hidden = [conv_norm(of_shape, self.hidden, activation=self.relu) for of_shape in seen]
        return [at_least_float32(conv_norm(of_shape, self.logits)) for of_shape in hidden]


def windows_at(positions: Shape, shape: Shape, stride: tuple[float, float], device: torch.device) -> Tensor:
    """The windows of one shape at rows x columns positions, (rows * columns, 4); the first ones are half outside.

    stride  from one cell of the map to the next, down and right, in pixels
    """
    top, left = (
        (torch.arange(count, device=device) - cells // 2) * step
        for count, cells, step in zip(positions, shape, stride, strict=True)
    )
    top, left = torch.meshgrid(top, left, indexing="ij")
    corners = left, top, left + shape[1] * stride[1], top + shape[0] * stride[0]
    return torch.stack(corners, dim=-1).flatten(0, 1)


class SlidingWindowDetector(Detector):
    """features of the image in several sizes -> WindowHead, with one loss.

    shapes  of the windows, as the head has them
    scales  how many sizes of the image, each `shrink` times the one before
    assign  which window learns which object
    sample  which windows count
    """

    def __init__(
        self, features: Features, head: WindowHead, shapes: tuple[Shape, ...], scales: int, shrink: float,
        assign: Assign, sample: Callable[[Tensor, Tensor], Tensor], select: Select,
    ) -> None:  # fmt: skip
        super().__init__()
        self.features, self.head, self.shapes = features, head, shapes
        self.scales, self.shrink = scales, shrink
        self.assign, self.sample, self.select = assign, sample, select

    def classify(self, images: Images) -> tuple[Tensor, Tensor]:
        """Logits (N, A, K + 1) and windows (N, A, 4), cut at the border of their image."""
        logits, windows, pixels = [], [], images.pixels
        height, width = pixels.shape[2:]
        for scale in range(self.scales):
            if scale:
                size = [max(1, round(side * self.shrink**scale)) for side in (height, width)]
                pixels = F.interpolate(pixels, size, mode="bilinear")
            cell = self.features.strides[0]
            stride = cell * height / pixels.shape[2], cell * width / pixels.shape[3]
            for shape, of_shape in zip(self.shapes, self.head(self.features(pixels)[0]), strict=True):
                logits.append(of_shape.flatten(2).transpose(1, 2))
                windows.append(windows_at(of_shape.shape[2:], shape, stride, pixels.device))
        windows = torch.cat(windows).expand(pixels.shape[0], -1, -1)
        return torch.cat(logits, 1), clip(windows, images.sizes)

    def compute_loss(self, images: Images, targets: list[Target]) -> Losses:
        """Scalar `class`: cross entropy over the sampled windows; a window in the padding is never sampled."""
        logits, windows = self.classify(images)
        assigned, labels, _ = match(self.assign, map(Prediction, windows, logits.detach()), targets)  # (N, A) each
        outside = (windows[..., 2:] <= windows[..., :2]).any(-1)
        of_class = cross_entropy(logits, labels)
        counts = self.sample(assigned.masked_fill(outside, IGNORED), of_class.detach())  # (N, A)
        return {"class": (of_class * counts).sum() / counts.sum().clamp(min=1)}

    def slots(self, images: Images) -> Slots:
        """Slots (N, S), boxes in pixels of the batch."""
        logits, windows = self.classify(images)
        candidates = best(logits.softmax(-1)[..., :-1], self.select.pre_nms_top_k)
        return self.select(gather(windows, candidates.rows), candidates, images.sizes)


def build(config: SlidingWindowConfig, num_classes: int, pretrained: bool) -> SlidingWindowDetector:
    return SlidingWindowDetector(
        features=build_pyramid(config, pretrained, config.channels, extra=0, how="pool"),
        head=WindowHead(config.channels, config.shapes, config.channels, num_classes),
        shapes=config.shapes,
        scales=config.scales,
        shrink=config.shrink,
        assign=MaxIoUAssigner(high=0.5, low=0.5),
        sample=BalancedSampler(config.samples, positive=0.25),
        select=build_select(config, num_classes),
    )
