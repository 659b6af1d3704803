"""COCO's annotation and results files as columns for the evaluation: usual files at once, others entry by entry."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from boxwright.data.formats.documents import read_json, read_usual
from boxwright.data.formats.text import class_list, flag, is_name
from boxwright.units import shown

Id = int | float | str
"""The id of an image or a category in a COCO file."""


class Annotations(NamedTuple):
    """The content of an annotation file.

    images      a number, from 0, for each id
    categories  likewise
    names       of the categories, by number
    objects     (M, 8) float64: image, category, both by number, x, y, width, height, area, crowd
    """

    images: dict[Id, int]
    categories: dict[Id, int]
    names: list[str]
    objects: np.ndarray


class _Object(msgspec.Struct, gc=False):
    """An annotation of the usual types; `area` is nan where it is not given."""

    image_id: int | str
    category_id: int | str
    bbox: tuple[float, float, float, float]
    area: float = math.nan
    iscrowd: int | bool = False


class _Image(msgspec.Struct, gc=False):
    id: int | str


class _Truth(msgspec.Struct):
    images: list[_Image]
    categories: list[dict[str, Any]] = []
    annotations: list[_Object] = []


class _Detection(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int | str
    bbox: tuple[float, float, float, float]
    score: float


_image_id, _category_id, _bbox, _score = map(attrgetter, ("image_id", "category_id", "bbox", "score"))


def read_annotations(path: Path) -> Annotations:
    """The objects of the images and categories in the file. Raises ValueError for what is not in COCO's format."""
    usual = read_usual(path, _Truth)
    if usual is not None and usual.images and {entry.iscrowd for entry in usual.annotations} <= {0, 1}:
        images = _numbered(image.id for image in usual.images)
        categories, names = _named(path, usual.categories)
        owners, labels, boxes = _columns(usual.annotations, images, categories)
        area = np.array([entry.area for entry in usual.annotations], np.float64)
        with np.errstate(over="ignore"):  # what is infinite is refused below
            area = np.where(np.isnan(area), boxes[:, 2] * boxes[:, 3], area)
        crowd = np.array([entry.iscrowd for entry in usual.annotations], np.float64)
        objects = np.column_stack([owners, labels, boxes, area, crowd])
        if _finite(objects[:, 2:7]).all():
            return Annotations(images, categories, names, objects[(owners >= 0) & (labels >= 0)])
    return _read_any_annotations(path)


def _read_any_annotations(path: Path) -> Annotations:
    content = read_json(path, "a COCO annotation file")
    if not isinstance(content, dict) or not content.get("images"):
        raise ValueError(f'{path}: expected a COCO annotation file, found no "images" in it')
    parts = {part: content.get(part) or [] for part in ("images", "categories", "annotations")}
    for part, records in parts.items():
        if not isinstance(records, list):
            raise ValueError(f'{path}: expected a COCO annotation file, where "{part}" is a list; got {shown(records)}')
    images = _numbered(_ids(path, "images", parts["images"]))
    categories, names = _named(path, parts["categories"])
    objects = []
    for number, entry in enumerate(parts["annotations"]):
        try:
            image, category = images.get(entry["image_id"]), categories.get(entry["category_id"])
            x, y, width, height = map(float, entry["bbox"])
            area = float(entry.get("area", width * height))
            crowd = flag(entry.get("iscrowd"))
            if crowd is None:
                raise ValueError("iscrowd")
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"{path}: annotations[{number}] should have image_id, category_id, bbox [x, y, width, height] and, "
                f"if given, area and iscrowd 0 or 1; got {shown(entry, 200)}"
            ) from error
        if not math.isfinite(x + y + width + height + area):
            raise ValueError(f"{path}: annotations[{number}] has a number that is not finite: {shown(entry, 200)}")
        if image is not None and category is not None:
            objects.append((image, category, x, y, width, height, area, crowd))
    return Annotations(images, categories, names, np.array(objects, dtype=np.float64).reshape(-1, 8))


def _ids(path: Path, part: str, records: Sequence[Any]) -> Iterator[Id]:
    for number, record in enumerate(records):
        value = record.get("id") if isinstance(record, dict) else None
        if not isinstance(value, int | float | str):
            raise ValueError(f"{path}: {part}[{number}] should have an id, got {shown(record, 200)}")
        yield value


def _numbered(ids: Iterable[Id]) -> dict[Id, int]:
    """A number for each id, in the order of the ids, which decides between detections of equal scores."""
    in_order = sorted(set(ids), key=lambda value: (isinstance(value, str), value))
    return {value: number for number, value in enumerate(in_order)}


def _named(path: Path, records: Sequence[Any]) -> tuple[dict[Id, int], list[str]]:
    """A number for the id of each category, and the names by these."""
    categories = _numbered(_ids(path, "categories", records))
    named = {record["id"]: record.get("name", record["id"]) for record in records}
    named = {category: text if is_name(text := shown(name)) else "" for category, name in named.items()}
    names, _ = class_list(named[category] for category in categories)
    return categories, names


def _columns(
    entries: Sequence[_Object | _Detection], images: Mapping[Id, int], categories: Mapping[Id, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image and category by number (R,), -1 for those that are not known, and boxes (R, 4) as written."""
    count, unknown = len(entries), repeat(-1)
    owners = np.fromiter(map(images.get, map(_image_id, entries), unknown), np.int64, count)
    labels = np.fromiter(map(categories.get, map(_category_id, entries), unknown), np.int64, count)
    boxes = np.fromiter(chain.from_iterable(map(_bbox, entries)), np.float64, 4 * count).reshape(-1, 4)
    return owners, labels, boxes


def _finite(rows: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.isfinite(rows.sum(axis=1))


def read_results(path: Path, annotations: Annotations) -> np.ndarray:
    """The rows of a results file (D, 7) float64: image by number, x, y, width, height, score, category by number.

    Raises ValueError for what is not in COCO's format, and for an image or a category that the annotations do not have.
    """
    images, categories, rows = annotations.images, annotations.categories, None
    if (usual := read_usual(path, list[_Detection])) is not None:
        owners, labels, boxes = _columns(usual, images, categories)
        if (owners >= 0).all() and (labels >= 0).all():
            rows = np.column_stack([owners, boxes, np.fromiter(map(_score, usual), np.float64, len(usual)), labels])
    if rows is None:
        rows = _read_any_results(path, images, categories)
    finite = _finite(rows)
    if not finite.all():
        raise ValueError(f"{path}: entry {np.argmin(finite)} has a number that is not finite")
    return rows


def _read_any_results(path: Path, images: Mapping[Id, int], categories: Mapping[Id, int]) -> np.ndarray:
    entries = read_json(path, "a COCO results file")
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of detections, as COCO results are, got a {type(entries).__name__}")
    rows = np.empty((len(entries), 7))
    for number, entry in enumerate(entries):
        try:
            image, category = images.get(entry["image_id"]), categories.get(entry["category_id"])
            x, y, width, height = entry["bbox"]
            rows[number, 1:6] = x, y, width, height, entry["score"]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"{path}: entry {number} should have image_id, category_id, bbox [x, y, width, height] and score, "
                f"got {shown(entry, 200)}"
            ) from error
        if image is None or category is None:
            known = " and ".join(f"{what} such as {next(iter(ids), None)!r:.100}" for what, ids in
                                 (("images", images), ("categories", categories)))  # fmt: skip
            raise ValueError(
                f"{path}: entry {number} has image {entry['image_id']!r:.100} and category "
                f"{entry['category_id']!r:.100}, which are not both in the annotation file "
                f"(it has {known}); are both files of the same split?"
            )
        rows[number, [0, 6]] = image, category
    return rows
