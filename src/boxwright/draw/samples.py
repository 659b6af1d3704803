"""Samples of a dataset with their boxes, on one image."""

from __future__ import annotations

import math

import numpy as np
import PIL.Image

from boxwright.data.augment import Augment, Sample
from boxwright.data.dataset import Dataset
from boxwright.data.image import ImageError, read_annotated
from boxwright.data.preprocess import Preprocess
from boxwright.draw.boxes import draw_boxes

_CELL = Preprocess(mode="letterbox", height=320, width=320)
_GAP = 8


def contact_sheet(dataset: Dataset, count: int = 12, seed: int = 0, augment: Augment | None = None) -> PIL.Image.Image:
    """Up to `count` random samples with their boxes in rows and columns, without those that cannot be read.

    `augment` is applied as in training, except for the scale, which a cell would undo.
    """
    rng = np.random.default_rng(seed)
    cells: list[PIL.Image.Image] = []
    for index in rng.permutation(len(dataset)).tolist():
        if len(cells) == count:
            break
        try:
            sample = _read(dataset, index)
        except ImageError:
            continue
        if augment is not None:
            sample = augment(sample, rng, lambda rng: _read_any(dataset, rng))
        cells.append(_draw(sample, dataset.names))
    if not cells:
        raise ImageError(f"none of the {len(dataset)} images can be read; `boxwright data check` gives the reasons")
    columns = math.ceil(math.sqrt(len(cells)))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    step = _CELL.width + _GAP
    sheet = PIL.Image.new("RGB", (columns * step + _GAP, sum(heights) + _GAP * (len(rows) + 1)), "white")
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            left = _GAP + column * step + (_CELL.width - cell.width) // 2
            sheet.paste(cell, (left, top + (height - cell.height) // 2))
        top += height + _GAP
    return sheet


def _read(dataset: Dataset, index: int) -> Sample:
    image, view = read_annotated(dataset.path(index), dataset.size(index))
    return Sample(image, view.move(dataset.target(index)))


def _read_any(dataset: Dataset, rng: np.random.Generator) -> Sample:
    while True:
        try:
            return _read(dataset, int(rng.integers(len(dataset))))
        except ImageError:
            continue  # at least one can be read: the first sample of the mosaic


def _draw(sample: Sample, names: tuple[str, ...]) -> PIL.Image.Image:
    image, view = _CELL(np.ascontiguousarray(sample.image))
    boxes = view.forward(sample.target.boxes)
    return draw_boxes(image, boxes, [names[label] for label in sample.target.labels.tolist()], palette=names)
