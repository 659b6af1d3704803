"""What every detector is: two verbs, `loss` and `detect`, over features of normalised pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from boxwright.backbones import Backbone
from boxwright.types import Detections, Images, Losses, Slots, Target


class Features(nn.Module):
    """Pixels to maps: normalisation, backbone, and a neck such as a feature pyramid."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, neck: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Identity() if neck is None else neck
        self.register_buffer("mean", torch.tensor(backbone.pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.pixel_std).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """RGB 0..255 (N, 3, H, W) to a map (N, C, h, w) per level."""
        return self.neck(self.backbone((pixels - self.mean) / self.std))


class Detector(nn.Module):
    """A detector learns with `loss`, answers with `detect`; the mode is in the call, not in `self.training`.

    A subclass writes `loss` and `slots`. All shapes between pixels and slots depend on the shape of the input only, so
    `slots` compiles and exports (see `Network`); `detect` trims it.
    """

    def loss(self, images: Images, targets: list[Target]) -> Losses:
        """Named, weighted losses whose sum is to be minimised. An image without objects is fine."""
        raise NotImplementedError(f"{type(self).__name__} must define loss(images, targets)")

    def slots(self, pixels: Tensor, sizes: Tensor) -> Slots:
        """RGB 0..255 (N, 3, H, W) and sizes (N, 2) to a fixed number of slots per image."""
        raise NotImplementedError(f"{type(self).__name__} must define slots(pixels, sizes)")

    @torch.inference_mode()
    def detect(self, images: Images) -> list[Detections]:
        """The objects of each image, best first, in pixels of the batch."""
        return self.slots(images.pixels, images.sizes).trim()

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

    def forward(self, pixels: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes (N, S, 4), scores, labels and valid (N, S) of pixels (N, 3, H, W) and sizes (N, 2)."""
        slots = self.detector.slots(pixels, sizes)
        return slots.boxes, slots.scores, slots.labels, slots.valid
