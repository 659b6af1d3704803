"""What every detector is: two verbs, `loss` and `detect`, over features of normalised images; and its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from boxwright.backbones import Backbone, build_backbone
from boxwright.detectors.conventions import Convention
from boxwright.detectors.fields import BackboneFields, LearningBackbone, SelectionFields
from boxwright.detectors.select import Select
from boxwright.layers.pyramid import FeaturePyramid, Neck
from boxwright.types import Detections, Images, Losses, Slots, Target


class Features(nn.Module):
    """Pixels to maps: normalisation, backbone, and a neck such as a feature pyramid.

    channels, strides  a number per map that comes out
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, neck: Neck | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Identity() if neck is None else neck
        self.channels, self.strides = (neck or backbone).channels, (neck or backbone).strides
        self.register_buffer("mean", torch.tensor(backbone.pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.pixel_std).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """RGB 0..255 (N, 3, H, W) to a map (N, C, h, w) per level."""
        return self.neck(self.backbone((pixels - self.mean) / self.std))


class Detector(nn.Module):
    """A detector is trained with `loss` and predicts with `detect`; the mode is in the call, not in `self.training`.

    A subclass writes `loss` and `slots`. All shapes between pixels and slots depend on the shape of the input only, so
    `slots` compiles and exports (see `Network`); `detect` trims it.

    propose  from an image, uint8 RGB (H, W, 3), to boxes (P, 4) in its pixels, best first, for a detector that takes
             external proposals: the code that makes the `Images` calls it. None for all other detectors
    """

    propose: Callable[[np.ndarray], np.ndarray] | None = None

    def loss(self, images: Images, targets: list[Target]) -> Losses:
        """Named scalar losses of the batch, weighted; their sum is minimised. An image may have no objects."""
        raise NotImplementedError(f"{type(self).__name__} must define loss(images, targets)")

    def slots(self, images: Images) -> Slots:
        """Slots (N, S): boxes in pixels of the batch, scores from 0 to 1, labels 0..K-1; S depends on no value."""
        raise NotImplementedError(f"{type(self).__name__} must define slots(images)")

    @torch.inference_mode()
    def detect(self, images: Images) -> list[Detections]:
        """The detections of each of N images, best first, boxes in pixels of the batch."""
        return self.slots(images).trim()

    def forward(self, images: Images, targets: list[Target] | None = None) -> Losses | list[Detections]:
        """What DistributedDataParallel calls: `loss` with targets, `detect` without."""
        return self.detect(images) if targets is None else self.loss(images, targets)


class Network(nn.Module):
    """What is compiled or exported of a detector: tensors in, the tensors of `Slots` out.

    torch.compile(Network(detector), fullgraph=True)
    torch.export.export(Network(detector), (pixels, sizes))
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(
        self, pixels: Tensor, sizes: Tensor, proposals: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels (N, 3, H, W), sizes (N, 2) and, for a detector that takes them, proposals (N, P, 4) to boxes
        (N, S, 4), scores, labels and valid (N, S)."""
        slots = self.detector.slots(Images(pixels, sizes, proposals))
        return slots.boxes, slots.scores, slots.labels, slots.valid


def build_features(
    config: LearningBackbone, pretrained: bool, levels: Sequence[int] = (), dilated: bool = False
) -> Features:
    """The maps of the backbone as they are.

    levels   of the backbone; () takes those of the config
    dilated  level 5 has stride 16
    """
    backbone = build_backbone(
        config.backbone, tuple(levels or config.levels), pretrained, config.frozen_stages, config.norm, dilated
    )
    return Features(with_colors(config, backbone))


def build_pyramid(
    config: LearningBackbone, pretrained: bool, channels: int, extra: int, how: Literal["pool", "conv", "conv_c5"]
) -> Features:
    """A feature pyramid over the maps of the backbone, with `extra` coarser levels made as `how` says."""
    backbone = build_features(config, pretrained).backbone
    return Features(backbone, FeaturePyramid(backbone.channels, channels, backbone.strides, extra, how))


def with_colors(config: BackboneFields, backbone: Backbone) -> Backbone:
    """The backbone, with the pixel mean and deviation of the config where that has them."""
    if config.pixel_mean:
        red, green, blue = config.pixel_mean
        backbone.pixel_mean = red, green, blue
    if config.pixel_std:
        red, green, blue = config.pixel_std
        backbone.pixel_std = red, green, blue
    return backbone


def build_select(
    config: SelectionFields, num_classes: int, min_size: float = Convention.min_size, clip_after_nms: bool = False
) -> Select:
    """From scored boxes to slots.

    min_size  pixels; a box that is narrower or lower is dropped
    """
    score = config.threshold(num_classes)
    return Select(
        score, config.nms_threshold, config.pre_nms_top_k, config.max_detections,
        min_size=min_size, clip_after_nms=clip_after_nms,
    )  # fmt: skip
