"""What every detector is: two verbs, `loss` and `detect`, over features of normalised images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from boxwright.backbones import Backbone, build_backbone
from boxwright.detectors.conventions import CONVENTIONS, Conventions
from boxwright.detectors.select import Select
from boxwright.layers.pyramid import FeaturePyramid
from boxwright.types import Detections, Images, Losses, Slots, Target


class Features(nn.Module):
    """Pixels to maps: normalisation, backbone, and a neck such as a feature pyramid.

    channels, strides  a number per map that comes out
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, neck: FeaturePyramid | None = None) -> None:
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
    """A detector learns with `loss`, answers with `detect`; the mode is in the call, not in `self.training`.

    A subclass writes `loss` and `slots`. All shapes between pixels and slots depend on the shape of the input only, so
    `slots` compiles and exports (see `Network`); `detect` trims it.

    propose  from an image, uint8 RGB (H, W, 3), to boxes (P, 4) in its pixels, best first, for a detector that is told
             where to look: whoever makes the `Images` fills their proposals with it. None where it looks for itself
    """

    propose: Callable[[np.ndarray], np.ndarray] | None = None

    def loss(self, images: Images, targets: list[Target]) -> Losses:
        """Named, weighted losses whose sum is to be minimised. An image without objects is fine."""
        raise NotImplementedError(f"{type(self).__name__} must define loss(images, targets)")

    def slots(self, images: Images) -> Slots:
        """A fixed number of slots per image."""
        raise NotImplementedError(f"{type(self).__name__} must define slots(images)")

    @torch.inference_mode()
    def detect(self, images: Images) -> list[Detections]:
        """The objects of each image, best first, in pixels of the batch."""
        return self.slots(images).trim()

    def forward(self, images: Images, targets: list[Target] | None = None) -> Losses | list[Detections]:
        """The door for DistributedDataParallel and torch.compile: `loss` with targets, `detect` without."""
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
        """Boxes (N, S, 4), scores, labels and valid (N, S) of pixels (N, 3, H, W), sizes (N, 2) and, for a detector
        that is told where to look, proposals (N, P, 4)."""
        slots = self.detector.slots(Images(pixels, sizes, proposals))  # type: ignore[arg-type]
        return slots.boxes, slots.scores, slots.labels, slots.valid


@dataclass(frozen=True)
class DetectorConfig:
    """The numbers that every detector has. Each has its own beside them, and a `build` that makes parts of them."""

    backbone: str = "efficientnet_lite0"
    """Any of `boxwright.backbones`, or a timm model as timm:NAME."""
    levels: tuple[int, ...] = (3, 4, 5)
    """Levels of the backbone that are used; level l has stride 2**l (where a network is not cut otherwise)."""
    frozen_stages: int = 2
    """How many stages of the backbone keep their weights, counting the stem."""
    norm: str = "frozen"
    """Batch norm of the backbone: frozen or batch."""
    pixel_mean: tuple[float, ...] = ()
    """What is taken from the red, green and blue of pixels (0..255); () is what the backbone learnt with."""
    pixel_std: tuple[float, ...] = ()
    """What they are then divided by; () likewise."""
    score: tuple[float, ...] = (0.05,)
    """A detection scores more than this: one number, or one for each class in order."""
    nms: float = 0.5
    """IoU above which the lower-scored of two boxes of a class goes."""
    pre_nms_top_k: int = 1000
    """How many of the best boxes enter that suppression, of each level where there are several."""
    detections: int = 100
    """Detections an image, at most."""
    conventions: Literal["boxwright", "torchvision", "detectron2"] = "boxwright"
    """Whose habits it has where implementations differ (`boxwright.detectors.conventions`): for weights from there."""

    def build(self, classes: int, pretrained: bool = False) -> Detector:
        """The detector for so many classes; `pretrained` starts the backbone from ImageNet."""
        raise NotImplementedError(f"{type(self).__name__} must define build(classes, pretrained)")

    def features(self, pretrained: bool, **options: Any) -> Features:
        """The maps of the backbone as they are; `options` are the backbone's own."""
        stages, norm = self.frozen_stages, self.norm
        backbone = build_backbone(self.backbone, self.levels, pretrained, stages, norm, **options)
        backbone.pixel_mean = _color("pixel_mean", self.pixel_mean) or backbone.pixel_mean
        backbone.pixel_std = _color("pixel_std", self.pixel_std) or backbone.pixel_std
        return Features(backbone)

    def pyramid(self, pretrained: bool, channels: int, extra: int, how: Literal["pool", "conv", "conv_c5"]) -> Features:
        """A feature pyramid over the maps of the backbone, with `extra` coarser levels made as `how` says."""
        backbone = self.features(pretrained).backbone
        return Features(backbone, FeaturePyramid(backbone.channels, channels, backbone.strides, extra, how))

    def habits(self) -> Conventions:
        """The conventions by their name."""
        if self.conventions not in CONVENTIONS:
            raise ValueError(f"conventions are {', '.join(CONVENTIONS)}, got {self.conventions!r}")
        return CONVENTIONS[self.conventions]

    def select(self, classes: int, smallest: float, clip_after_nms: bool = False) -> Select:
        """What becomes of the scored boxes of so many classes."""
        if len(self.score) not in (1, classes):
            raise ValueError(f"score takes one number or one for each of {classes} classes, got {len(self.score)}")
        score = self.score[0] if len(self.score) == 1 else self.score
        return Select(
            score, self.nms, self.pre_nms_top_k, self.detections, min_size=smallest, clip_after_nms=clip_after_nms
        )


def _color(name: str, values: tuple[float, ...]) -> tuple[float, float, float] | None:
    if len(values) not in (0, 3):
        raise ValueError(f"{name} takes three numbers, for red, green and blue, or none; got {values}")
    return values or None  # type: ignore[return-value]
