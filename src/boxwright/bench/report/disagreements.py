"""The test images on which two cells differ most: the annotation, and the detections of each."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from boxwright.boxes.view import View
from boxwright.data.dataset import Dataset
from boxwright.data.image import ImageError
from boxwright.draw.boxes import draw_boxes
from boxwright.metrics.precision import match
from boxwright.predict.propose import Source
from boxwright.types import Detections, Size, Target
from boxwright.units import counted

_WIDTH, _HEIGHT = 480, 640  # pixels that an image is resized to fit into


class Side(NamedTuple):
    """The detections of a cell on each test image, and the score from which on those of each class count.

    thresholds  (K,) by label; with nan no detection of the class counts
    """

    name: str
    detections: Sequence[Detections]
    thresholds: Sequence[float]

    def shown(self, index: int) -> Detections:
        """Those that score at least the threshold of their class."""
        detections = self.detections[index]
        return detections[detections.scores.cpu() >= torch.tensor(self.thresholds)[detections.labels.cpu()]]


class Outcome(NamedTuple):
    """The numbers of right and wrong detections in an image at IoU .5, and of objects that were missed."""

    right: int
    wrong: int
    missed: int

    @classmethod
    def of(cls, detections: Detections, target: Target) -> Outcome:
        matches = match(detections, target)
        right = int(matches.true_positive.sum())
        wrong = int((matches.counted & ~matches.true_positive).sum())
        return cls(right, wrong, int((~target.crowd).sum()) - right)

    def __str__(self) -> str:
        return f"{self.right} right, {self.wrong} wrong, {self.missed} missed"


class Panel(NamedTuple):
    """An image embedded in the page: `source` is a data URI; `width` and `height` are pixels."""

    title: str
    alt: str
    source: str
    width: int
    height: int


class Disagreement(NamedTuple):
    """A test image three times: with its annotation, with the detections of the first cell, and of the second."""

    caption: str
    panels: tuple[Panel, ...]


def disagreements(first: Side, second: Side, targets: Sequence[Target], count: int | None = 6) -> list[int]:
    """The images on which the number of right minus wrong detections differs, those with the largest difference first.

    Among equal differences the earlier image comes first. `count` None: all images.
    """
    if not len(first.detections) == len(second.detections) == len(targets):
        counts = " and ".join(f"{len(side.detections)} of {side.name}" for side in (first, second))
        raise ValueError(f"expected both cells' detections on each of {len(targets)} images, got {counts}")

    def balance(side: Side, index: int) -> int:
        outcome = Outcome.of(side.shown(index), targets[index])
        return outcome.right - outcome.wrong

    apart = [abs(balance(first, index) - balance(second, index)) for index in range(len(targets))]
    order = sorted((index for index in range(len(targets)) if apart[index]), key=lambda index: -apart[index])
    return order[:count]


def show(first: Side, second: Side, dataset: Dataset, count: int = 6) -> list[Disagreement]:
    """The `disagreements` of two cells on a dataset, for the report; images that cannot be read are left out."""
    targets = [dataset.target(index) for index in range(len(dataset))]
    shown: list[Disagreement] = []
    for index in disagreements(first, second, targets, None):
        if len(shown) == count:
            break
        try:
            image, view = Source(dataset.path(index), dataset.size(index)).read_with_view()
        except ImageError:
            continue
        target, name, names = targets[index], dataset.path(index).name, dataset.names
        title = f"annotation: {counted(int((~target.crowd).sum()), 'object')}"
        panels = [_panel(image, title, name, view.forward(target.boxes), target.labels, names)]
        for side in (first, second):
            detections = side.shown(index)
            title, scores = f"{side.name}: {Outcome.of(detections, target)}", detections.scores.tolist()
            boxes = view.forward(detections.boxes)
            panels.append(_panel(image, title, name, boxes, detections.labels, names, scores))
        shown.append(Disagreement(name, tuple(panels)))
    return shown


def _panel(
    image: np.ndarray, title: str, name: str, boxes: Tensor, labels: Tensor, names: Sequence[str],
    scores: list[float] | None = None,
) -> Panel:  # fmt: skip
    """Drawn at the size in which it is shown, so that text stays readable."""
    before = Size(*image.shape[:2])
    scale = min(_WIDTH / before.width, _HEIGHT / before.height)
    height, width = (max(1, round(scale * side)) for side in before)
    resized = np.asarray(PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.LANCZOS))
    boxes = View.resize(before, Size(height, width)).forward(boxes.cpu())
    array = draw_boxes(resized, boxes, [str(names[label]) for label in labels.tolist()], scores, names)
    file = io.BytesIO()
    array.save(file, "WEBP", quality=80)
    source = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
    return Panel(title, f"{name}, {title}", source, width, height)
