"""Augmentation of an image and its boxes together; every transform is a small function of (sample, random generator).

Cropping and zooming out follow SSD (Liu et al. 2016, "SSD: Single Shot MultiBox Detector", section 2.2 and 3.6), the
mosaic YOLOv4 (Bochkovskiy et al. 2020, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from boxwright.boxes.geometry import area, clip, pairwise_iou
from boxwright.boxes.view import View
from boxwright.data.preprocess import resize
from boxwright.types import Size, Target


@dataclass(frozen=True, eq=False)
class Sample:
    """An image, its objects, and the proposals for a detector that takes them.

    image      uint8 RGB (H, W, 3)
    target     boxes in pixels of this image
    zoom       factor on the size that `Preprocess` gives the image, which is thus resized once, not twice
    proposals  (P, 4) float32, xyxy in pixels of this image, best first
    decoded    view from the image in the dataset to the one that augmentation begins with, which may be smaller
    """

    image: np.ndarray
    target: Target
    zoom: float = 1.0
    proposals: Tensor = field(default_factory=lambda: torch.zeros(0, 4))
    decoded: View | None = None

    @property
    def size(self) -> Size:
        return Size(*self.image.shape[:2])

    def seen(self, view: View, image: np.ndarray) -> Sample:
        """This sample through a view that gave this image: objects and proposals move along, unclipped."""
        return replace(self, image=image, target=view.move(self.target), proposals=view.forward(self.proposals))

    def clipped(self) -> Sample:
        """Objects and proposals clipped to the image; those with no area inside it are dropped."""
        target = self.target.replace(boxes=clip(self.target.boxes, self.size))
        proposals = clip(self.proposals, self.size)
        return replace(self, target=target[_has_area(target.boxes)], proposals=proposals[_has_area(proposals)])


def _has_area(boxes: Tensor) -> Tensor:
    """(N, 4) -> (N,) bool"""
    return (boxes[:, 2:] > boxes[:, :2]).all(dim=1)


@dataclass(frozen=True)
class HorizontalFlip:
    """Left and right exchanged."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image = torch.from_numpy(np.require(sample.image, requirements="W")).flip(1).numpy()  # NumPy: ten times slower
        return sample.seen(View.flip(sample.size), image)


@dataclass(frozen=True)
class MultiScale:
    """A random size between `low` and `high` times the usual one, halving as likely as doubling."""

    low: float = 0.75
    high: float = 1.25

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return replace(sample, zoom=float(self.draw(rng, 1)[0]))

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Zooms for `count` samples: drawn ahead for an epoch, they let images of like size share a batch."""
        return np.exp(rng.uniform(math.log(self.low), math.log(self.high), count))


@dataclass(frozen=True)
class IoUCrop:
    """A random part of the image that overlaps at least one object by a random minimal IoU, or the whole image.

    min_ious   the minima to choose from; one more choice is to leave the image whole
    min_side   least height and width of the part, as a fraction of the image's
    aspect     greatest factor between the aspect ratios of the part and the image. 1 keeps the ratio, and with it the
               like shapes of the images of a batch. Objects are not distorted by any value
    visible    an object stays if at least this fraction of its box is inside
    trials     parts to draw; if none of them fits, the image is left whole
    """

    min_ious: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
    min_side: float = 0.3
    aspect: float = 1.0
    visible: float = 0.25
    trials: int = 50

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        choice = rng.integers(len(self.min_ious) + 1)
        boxes = sample.target.boxes[~sample.target.crowd]
        if choice == len(self.min_ious) or len(boxes) == 0:
            return sample
        windows = self._windows(sample.size, rng)  # (T, 4)
        good = np.flatnonzero(_shows_an_object(windows, boxes, self.min_ious[choice]))
        return crop(sample, windows[good[0]], self.visible) if len(good) else sample

    def _windows(self, size: Size, rng: np.random.Generator) -> np.ndarray:
        height, width = size
        fraction = rng.uniform(self.min_side, 1, self.trials)
        stretch = np.exp(0.5 * rng.uniform(-math.log(self.aspect), math.log(self.aspect), self.trials))
        w = np.clip(np.rint(fraction * stretch * width), 1, width).astype(np.int64)
        h = np.clip(np.rint(fraction / stretch * height), 1, height).astype(np.int64)
        left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
        return np.stack((left, top, left + w, top + h), axis=1)


@dataclass(frozen=True)
class ZoomOut:
    """The image somewhere on a larger grey canvas, so that objects become small.

    largest  height and width of the canvas, at most, in those of the image
    limit    greatest length of the canvas's longer side in pixels; image and canvas are shrunk together to keep it
    fill     grey level
    """

    largest: float = 3.0
    limit: int = 1024
    fill: int = 114

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        ratio = rng.uniform(1, self.largest)
        shrink = min(1.0, self.limit / (ratio * max(sample.size)))
        inner = _scaled(sample.size, shrink)
        outer = _scaled(sample.size, shrink * ratio)
        left, top = rng.integers(0, outer.width - inner.width + 1), rng.integers(0, outer.height - inner.height + 1)
        canvas = np.full((*outer, 3), self.fill, np.uint8)
        canvas[top : top + inner.height, left : left + inner.width] = resize(sample.image, inner)
        view = View.place(inner, outer, int(left), int(top)) @ View.resize(sample.size, inner)
        return sample.seen(view, canvas)


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue changed at random, all in one affine map of colour.

    Each of the first three is multiplied by a factor between 1 - x and 1 + x; the hue turns by up to `hue` of the
    colour circle either way, at constant luminance (a turn in the plane of chroma of the YIQ space).
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.3
    hue: float = 0.02

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        most = np.array((self.brightness, self.contrast, self.saturation))
        brightness, contrast, saturation = rng.uniform(1 - most, 1 + most)
        angle = 2 * math.pi * rng.uniform(-self.hue, self.hue)
        cos, sin = saturation * math.cos(angle), saturation * math.sin(angle)
        color = _RGB_FROM_YIQ @ np.array(((1, 0, 0), (0, cos, -sin), (0, sin, cos))) @ _YIQ_FROM_RGB
        grey = brightness * float(sample.image[::8, ::8].mean())  # contrast turns about it; a sample of pixels will do
        affine = np.column_stack((brightness * contrast * color, np.full(3, (1 - contrast) * grey)))  # (3, 4)
        image = Image.fromarray(np.ascontiguousarray(sample.image))
        return replace(sample, image=np.array(image.convert("RGB", tuple(affine.ravel().tolist()))))


_YIQ_FROM_RGB = np.array(((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)))
_RGB_FROM_YIQ = np.linalg.inv(_YIQ_FROM_RGB)


@dataclass(frozen=True)
class Mosaic:
    """Four images in one that meet at a random point; a random part of each fills its quarter.

    margin   least distance of the meeting point from the border, as a fraction of the image
    visible  as in `IoUCrop`
    """

    margin: float = 0.3
    visible: float = 0.25

    def __call__(
        self, sample: Sample, rng: np.random.Generator, others: Callable[[np.random.Generator], Sample]
    ) -> Sample:
        """`others` draws another sample with the generator; the result has the size of `sample`."""
        height, width = sample.size
        x = round(width * rng.uniform(self.margin, 1 - self.margin))
        y = round(height * rng.uniform(self.margin, 1 - self.margin))
        canvas = np.empty_like(sample.image, order="C")
        parts: list[Sample] = []
        for left, top, right, bottom in ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)):
            cell = Size(bottom - top, right - left)
            if 0 in cell:  # an image of one or two pixels
                continue
            part = _random_part(others(rng) if parts else sample, cell, rng, self.visible)
            canvas[top:bottom, left:right] = resize(part.image, cell)
            view = View.place(cell, sample.size, left, top) @ View.resize(part.size, cell)
            parts.append(part.seen(view, canvas))
        target = Target(*map(torch.cat, zip(*(vars(part.target).values() for part in parts), strict=True)))
        return replace(sample, image=canvas, target=target, proposals=torch.cat([part.proposals for part in parts]))


def crop(sample: Sample, window: Sequence[int] | np.ndarray, visible: float) -> Sample:
    """The part of the image inside the window (x1, y1, x2, y2), whole pixels.

    Boxes are clipped. An object stays if its centre is inside and at least `visible` of its box; a crowd region or a
    proposal stays if anything of it is inside. Areas shrink with their boxes.
    """
    left, top, right, bottom = (int(edge) for edge in window)
    view = View.crop(sample.size, (left, top, right, bottom))
    moved = sample.seen(view, sample.image[top:bottom, left:right])
    target = moved.target
    boxes = clip(target.boxes, view.output)
    center = 0.5 * (target.boxes[:, :2] + target.boxes[:, 2:])  # (G, 2)
    inside = ((center >= 0) & (center < torch.tensor((right - left, bottom - top)))).all(dim=1)
    share = area(boxes) / area(target.boxes).clamp(min=1e-6)
    keep = (share > 0) & (target.crowd | (inside & (share >= visible)))
    cut = target.replace(boxes=boxes, area=target.area * share)[keep]
    return replace(moved, target=cut).clipped()


def _shows_an_object(windows: np.ndarray, boxes: Tensor, min_iou: float) -> np.ndarray:
    """Which windows (T, 4) overlap one of the boxes (G, 4) by the IoU and have its centre inside. -> (T,) bool"""
    corners = torch.from_numpy(windows).double()
    center = 0.5 * (boxes[:, :2] + boxes[:, 2:])
    inside = ((center >= corners[:, None, :2]) & (center < corners[:, None, 2:])).all(dim=2)  # (T, G)
    return ((pairwise_iou(corners, boxes.double()) >= min_iou) & inside).any(dim=1).numpy()


def _random_part(sample: Sample, shape: Size, rng: np.random.Generator, visible: float) -> Sample:
    """The largest part with the aspect of `shape`, at a random place."""
    height, width = sample.size
    part = _scaled(shape, min(height / shape.height, width / shape.width))
    part = Size(min(part.height, height), min(part.width, width))
    left, top = rng.integers(0, width - part.width + 1), rng.integers(0, height - part.height + 1)
    return crop(sample, np.array((left, top, left + part.width, top + part.height)), visible)


def _scaled(size: Size, factor: float) -> Size:
    return Size(max(1, round(size.height * factor)), max(1, round(size.width * factor)))


@dataclass(frozen=True)
class Augment:
    """Which transforms a training sample goes through; numbers without a unit are probabilities, 0 turns one off.

    Order: mosaic, zoom out, crop, flip, colour; the scale goes to `Preprocess`.
    """

    flip: float = 0.5
    color: float = 0.0
    crop: float = 0.0
    zoom_out: float = 0.0
    mosaic: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    """Least and greatest size of the image, in the usual ones."""

    def __post_init__(self) -> None:
        for name in ("flip", "color", "crop", "zoom_out", "mosaic"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability 0..1; got {getattr(self, name)}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is (least, greatest), both above 0; got {self.scale}")

    def light(self) -> Augment:
        """This without all that changes an image strongly: flip and scale are left."""
        return Augment(flip=self.flip, scale=self.scale)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, others: Callable[[np.random.Generator], Sample] | None = None
    ) -> Sample:
        """`others` draws another sample for the mosaic, which is left out without it."""
        if others is not None and rng.random() < self.mosaic:
            sample = Mosaic()(sample, rng, others)
        probabilities = (self.zoom_out, self.crop, self.flip, self.color)
        transforms = (ZoomOut(), IoUCrop(), HorizontalFlip(), ColorJitter())
        for probability, transform in zip(probabilities, transforms, strict=True):
            if rng.random() < probability:
                sample = transform(sample, rng)
        return sample


PRESETS: dict[str, Augment] = {
    "none": Augment(flip=0.0),
    "light": Augment(),
    "standard": Augment(color=0.5, crop=0.5, scale=(0.8, 1.25)),
    "strong": Augment(color=0.8, crop=0.7, zoom_out=0.3, mosaic=0.3, scale=(0.7, 1.4)),
}
"""Augmentation by name, from the weakest to the strongest; longer training benefits from stronger augmentation."""
