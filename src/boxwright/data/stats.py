"""What is in a dataset: images, classes, sizes and shapes of boxes, and how much the splits differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from boxwright.data.dataset import Dataset, concatenate

SMALL, MEDIUM = 32**2, 96**2
"""COCO's limits: the area in square pixels below which an object is small, or of medium size."""


class Quantiles(NamedTuple):
    """The least, the tenth, the half, nine tenths, and the greatest; None where there is nothing."""

    least: float | None
    tenth: float | None
    median: float | None
    nine_tenths: float | None
    greatest: float | None

    @classmethod
    def of(cls, values: np.ndarray) -> Quantiles:
        if not len(values):
            return cls(None, None, None, None, None)
        return cls(*(float(value) for value in np.quantile(values.astype(np.float64), [0, 0.1, 0.5, 0.9, 1])))


@dataclass(frozen=True)
class BoxStats:
    """Of boxes of one class, or of all. Crowds count as boxes, and nowhere else.

    boxes   in each split
    images  in each split, that have such a box
    small, medium, large  fractions of the objects, by COCO's limits of area: 32² and 96² pixels
    side    square root of width times height, in pixels
    part    the same of the image's
    aspect  width by height
    """

    boxes: dict[str, int]
    images: dict[str, int]
    small: float | None
    medium: float | None
    large: float | None
    side: Quantiles
    part: Quantiles
    aspect: Quantiles


@dataclass(frozen=True)
class SplitStats:
    """Of one split.

    empty              images without a box
    objects_per_image  crowds are not counted
    shift              how far its classes are from those of all splits: the fraction of its boxes that would have to
                       be of another class, 0 to 1; None without a box
    """

    images: int
    empty: int
    boxes: int
    crowds: int
    difficult: int
    width: Quantiles
    height: Quantiles
    objects_per_image: Quantiles
    shift: float | None


@dataclass(frozen=True)
class Stats:
    """`classes` and `splits` by name; `all` are all boxes.

    missing  the splits that lack a class which others have, by class
    """

    splits: dict[str, SplitStats]
    classes: dict[str, BoxStats]
    all: BoxStats
    missing: dict[str, list[str]]


def stats(splits: Mapping[str, Dataset]) -> Stats:
    """The numbers of all splits, which have the same classes. Raises ValueError without a split."""
    if not splits:
        raise ValueError("expected at least one split, got none")
    whole = concatenate(list(splits.values()))
    split_of = np.repeat(np.arange(len(splits)), [len(dataset) for dataset in splits.values()])  # (N,)
    total = np.bincount(whole.labels, minlength=len(whole.names))
    classes = {
        name: _of_boxes(whole, whole.labels == label, split_of, list(splits)) for label, name in enumerate(whole.names)
    }
    return Stats(
        splits={split: _of_split(dataset, total) for split, dataset in splits.items()},
        classes=classes,
        all=_of_boxes(whole, np.ones(len(whole.boxes), bool), split_of, list(splits)),
        missing={
            name: missing
            for name, found in classes.items()
            if (missing := [split for split, count in found.boxes.items() if not count]) and any(found.boxes.values())
        },
    )


def _of_split(dataset: Dataset, total: np.ndarray) -> SplitStats:
    counts = np.bincount(dataset.labels, minlength=len(dataset.names))
    objects = np.bincount(dataset.owners()[~dataset.crowd], minlength=len(dataset))
    return SplitStats(
        images=len(dataset),
        empty=int((np.diff(dataset.offsets) == 0).sum()),
        boxes=len(dataset.boxes),
        crowds=int(dataset.crowd.sum()),
        difficult=int(dataset.difficult.sum()),
        width=Quantiles.of(dataset.sizes[:, 1]),
        height=Quantiles.of(dataset.sizes[:, 0]),
        objects_per_image=Quantiles.of(objects),
        shift=float(np.abs(counts / counts.sum() - total / total.sum()).sum() / 2) if counts.sum() else None,
    )


def _of_boxes(dataset: Dataset, rows: np.ndarray, split_of: np.ndarray, splits: list[str]) -> BoxStats:
    """`rows` (M,) bool are the boxes that count; `split_of` (N,) is each image's index in `splits`."""
    owners = dataset.owners()
    objects = rows & ~dataset.crowd
    sides, area = box_sides(dataset)[objects], dataset.area[objects]
    side = np.sqrt(sides.prod(axis=1))
    per_split = np.bincount(split_of[owners[rows]], minlength=len(splits)).tolist()
    images = np.bincount(split_of[np.unique(owners[rows])], minlength=len(splits)).tolist()
    limits = [float(fraction) for fraction in _by_area(area)] if len(area) else [None] * 3
    return BoxStats(
        dict(zip(splits, per_split, strict=True)),
        dict(zip(splits, images, strict=True)),
        *limits,
        side=Quantiles.of(side),
        part=Quantiles.of(side / np.sqrt(dataset.sizes[owners[objects]].prod(axis=1))),
        aspect=Quantiles.of(sides[:, 0] / sides[:, 1]),
    )


def _by_area(area: np.ndarray) -> list[float]:
    """The fractions of small, medium and large."""
    small, large = (area < SMALL).mean(), (area >= MEDIUM).mean()
    return [small, 1 - small - large, large]


def box_sides(dataset: Dataset) -> np.ndarray:
    """Width and height of each box in pixels, (M, 2)."""
    return (dataset.boxes[:, 2:] - dataset.boxes[:, :2]).astype(np.float64)
