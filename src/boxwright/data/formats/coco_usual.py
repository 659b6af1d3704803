"""COCO JSON as most files are, decoded at once: half a million annotations a second.

Numbers are written as numbers, every annotation has a box, and the ids of images and categories that it names are those
of an entry. Anything else in a file, right or wrong, is left to the reader in `coco.py`, which takes one entry after
another and names what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from boxwright.data.formats.coco_fields import Id
from boxwright.data.formats.documents import read_usual_lists
from boxwright.data.formats.reading import BoxRow
from boxwright.data.formats.text import EXACT

Section = list[tuple[dict[str, Any], int]]
"""The objects of a list, each with its line."""


class _Annotation(msgspec.Struct, gc=False):
    bbox: tuple[float, float, float, float]
    image_id: int | str
    category_id: int | str
    id: int | None = None
    iscrowd: int | bool = False
    difficult: int | bool = False
    area: float | None = None


class _Content(msgspec.Struct):
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]] = []
    annotations: list[_Annotation] = []


@dataclass
class Usual:
    """The content of a file; `lines` are those of the annotations."""

    images: Section
    categories: Section
    annotations: list[_Annotation]
    lines: Iterable[int]

    def annotated(self) -> set[Id | None]:
        """The ids of the categories that have annotations."""
        return {annotation.category_id for annotation in self.annotations}

    def rows(self, classes: Mapping[Id, str], index_of: Mapping[Id, int], file: Path) -> list[BoxRow] | None:
        """The boxes; None if an annotation is not as usual.

        classes   names by category id
        index_of  index of each image by its id
        """
        annotations, count = self.annotations, len(self.annotations)
        try:
            images = list(map(index_of.__getitem__, map(attrgetter("image_id"), annotations)))
            names = list(map(classes.__getitem__, map(attrgetter("category_id"), annotations)))
        except KeyError:
            return None
        ids = [annotation.id for annotation in annotations if annotation.id is not None]
        crowd = list(map(attrgetter("iscrowd"), annotations))
        difficult = list(map(attrgetter("difficult"), annotations))
        if len(set(ids)) < len(ids) or not {*crowd, *difficult} <= {0, 1}:
            return None
        areas = list(map(attrgetter("area"), annotations))
        numbers = chain.from_iterable(map(attrgetter("bbox"), annotations))
        boxes = np.fromiter(numbers, np.float64, 4 * count).reshape(-1, 4)
        if not ((abs(boxes) < EXACT).all() and all(-EXACT < area < EXACT for area in areas if area is not None)):
            return None
        boxes[:, 2:] += boxes[:, :2]
        flags = map(bool, crowd), map(bool, difficult)
        columns = zip(images, names, zip(*boxes.T.tolist(), strict=True), repeat(str(file)), self.lines, *flags, areas)
        return list(map(partial(tuple.__new__, BoxRow), columns))  # what `_make` does, at a third of the time


def read(file: Path) -> Usual | None:
    """The content of a file; None if it is not as usual."""
    if (found := read_usual_lists(file, _Content)) is None:
        return None
    content, lines = found
    images = list(zip(content.images, lines["images"], strict=False))  # a file of one line repeats it without end
    categories = list(zip(content.categories, lines["categories"], strict=False))
    return Usual(images, categories, content.annotations, lines["annotations"])
