"""The nouns of detection: what every other file takes and gives. Imports torch only when it makes a tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple, Self

from boxwright.device import upload

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

Losses = dict[str, "Tensor"]
"""Named scalar losses, already weighted; the training loss is their sum."""

Propose = Callable[["np.ndarray"], "np.ndarray"]
"""A proposer: from a uint8 RGB image (H, W, 3) to boxes (P, 4) float32 xyxy in its pixels, best first."""


class Size(NamedTuple):
    """Height and width in pixels, in that order everywhere."""

    height: int
    width: int


@dataclass(frozen=True, eq=False)
class _Rows:
    """A record of tensors that share their first dimension."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, rows: Tensor | slice) -> Self:
        """The chosen rows: a boolean mask, indices, or a slice."""
        return type(self)(*(getattr(self, f.name)[rows] for f in fields(self)))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """A copy on a device; with `non_blocking`, nothing waits until it is there (see `device.upload`)."""
        columns = (getattr(self, field.name) for field in fields(self))
        return type(self)(*(upload(column, device) if non_blocking else column.to(device) for column in columns))

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, of which there is at least one."""
        import torch

        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def replace(self, **changes: Tensor) -> Self:
        """A copy with some columns exchanged."""
        return replace(self, **changes)


class Extremes(NamedTuple):
    """The numbers of a `Target` by which `Detector.loss` checks it.

    label_min, label_max  of all objects
    side                  the shortest side of a box, in pixels; negative where corners are in the wrong order
    reach                 the farthest coordinate from 0, in pixels; nan or infinite where a coordinate is
    """

    label_min: int
    label_max: int
    side: float
    reach: float


@dataclass(frozen=True, eq=False, init=False)
class Target(_Rows):
    """The annotated objects of one image. Columns left out are filled in.

    boxes      (G, 4) float32, xyxy in absolute pixels
    labels     (G,) int64, 0..K-1
    crowd      (G,) bool; a region of many objects: neither to be learnt nor counted as a mistake
    difficult  (G,) bool; VOC's flag: learnt, but not counted by the VOC protocol
    area       (G,) float32, square pixels; the box's area unless the annotation says otherwise (COCO: the mask's)
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    difficult: Tensor
    area: Tensor

    def __init__(
        self, boxes: Tensor, labels: Tensor, crowd: Tensor | None = None, difficult: Tensor | None = None,
        area: Tensor | None = None,
    ) -> None:  # fmt: skip
        if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            raise ValueError(
                f"a Target takes boxes (G, 4) and labels (G,), got {tuple(boxes.shape)} and {tuple(labels.shape)}; "
                "no objects are torch.zeros(0, 4) and torch.zeros(0, dtype=torch.int64)"
            )
        none = labels != labels  # (G,) bool, all False
        if area is None:
            area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        columns = boxes, labels, none if crowd is None else crowd, none if difficult is None else difficult, area
        for field, column in zip(fields(self), columns, strict=True):
            object.__setattr__(self, field.name, column)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """A copy on a device. It keeps its `extremes` when it leaves the CPU, so that nothing waits for the device."""
        moved = super().to(device, non_blocking)
        if self.has_extremes and not moved.boxes.is_cpu:
            object.__setattr__(moved, "_extremes", self.extremes())
        return moved

    @property
    def has_extremes(self) -> bool:
        """Whether `extremes` are known without waiting for an accelerator."""
        return self.boxes.is_cpu or hasattr(self, "_extremes")

    def extremes(self) -> Extremes:
        """Zeros where there are no objects. On an accelerator this waits for the device, unless it `has_extremes`."""
        known: Extremes | None = getattr(self, "_extremes", None)
        if known is not None:
            return known
        if not len(self):
            return Extremes(0, 0, 0.0, 0.0)
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        numbers = self.labels.min(), self.labels.max(), sides.min(), self.boxes.abs().max()
        return Extremes(*(number.item() for number in numbers))  # type: ignore[arg-type]

    @classmethod
    def empty(cls) -> Target:
        """An image without objects."""
        import torch

        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


@dataclass(frozen=True, eq=False)
class Detections(_Rows):
    """What a detector found in one image, best first.

    boxes   (D, 4) float32, xyxy in absolute pixels
    scores  (D,) float32 in 0..1
    labels  (D,) int64, 0..K-1
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False, init=False)
class Images(_Rows):
    """A batch of images padded at the right and the bottom to one size.

    pixels     (N, 3, H, W) float32, RGB, 0..255
    sizes      (N, 2) int64, height and width of each image inside its padding
    proposals  (N, P, 4) float32, xyxy in pixels of the batch, for detectors that take external proposals; a row of
               zeros is padding. P is 0 if left out
    """

    pixels: Tensor
    sizes: Tensor
    proposals: Tensor

    def __init__(self, pixels: Tensor, sizes: Tensor, proposals: Tensor | None = None) -> None:
        none = pixels.new_zeros(pixels.shape[0], 0, 4) if proposals is None else proposals
        for name, column in (("pixels", pixels), ("sizes", sizes), ("proposals", none)):
            object.__setattr__(self, name, column)


@dataclass(frozen=True, eq=False)
class Slots(_Rows):
    """The fixed number of places S in which a detector puts its answer: `Detections` before trimming.

    boxes   (N, S, 4) float32, xyxy in absolute pixels
    scores  (N, S) float32, best first; 0 where not valid
    labels  (N, S) int64
    valid   (N, S) bool
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    valid: Tensor

    def trim(self) -> list[Detections]:
        """The ragged answer, an entry per image: the one place where shapes depend on values."""
        return [
            Detections(boxes[valid], scores[valid], labels[valid])
            for boxes, scores, labels, valid in zip(self.boxes, self.scores, self.labels, self.valid, strict=True)
        ]
