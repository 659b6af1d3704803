"""LabelMe JSON: a file per image with its `shapes`, beside the image or in a folder of its own.

Points are in continuous pixels of the upright image. The box of a polygon, circle or mask is the smallest around it;
shapes of one `label` and `group_id` are parts of one object, as LabelMe's own exports have it.
The format: https://github.com/wkentaro/labelme
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from boxwright.data.formats.documents import read_json
from boxwright.data.formats.given_splits import Layout
from boxwright.data.formats.images import files_below, files_of, image_folders, image_of, images_by_stem, named_folders
from boxwright.data.formats.reading import SPLIT_NAMES, BoxRow, DatasetError, Folders, ImageRow, Reading, drop_missing
from boxwright.data.formats.text import flag, is_name, is_path, name_classes, problem_of, size_of, start_of
from boxwright.types import Size
from boxwright.units import shown

LAYOUTS = "LabelMe: NAME.json with `shapes` for each image, in one folder, or in train/, val/ and test/"

_JSON_FOLDERS = ("", "annotations", "labels", "json", "jsons", "labelme")
_KEY = re.compile(r'"(shapes|imagePath|imageData)"\s*:')
_NO_CLASS = ("__ignore__", "_background_")
"""LabelMe's lists of classes begin with these, which label pixels, not objects."""

Box = tuple[float, float, float, float]


def find(folder: Path) -> Layout | None:
    """The folder of each split's JSON files; None if there are none."""
    splits: dict[str, Path] = {}
    for base in named_folders(folder, _JSON_FOLDERS):
        for inner in named_folders(base, SPLIT_NAMES):
            if found := _json_folder(inner):
                splits.setdefault(SPLIT_NAMES[inner.name.lower()], found)
    whole = _json_folder(folder)
    if whole and "train" not in splits:
        return Layout(splits | {"train" if splits else "all": whole})
    return Layout(splits, [whole] if whole else []) if splits else None


def near_miss(folder: Path) -> str:
    """A JSON file of LabelMe that is elsewhere; "" if there is none."""
    file = next(filter(is_labelme, files_below(folder, ".json")), None)
    return f"{file.relative_to(folder)} is one of LabelMe" if file else ""


def read(layout: Layout, folder: Path) -> dict[str, Reading]:
    """Every split."""
    readings = {split: _read_split(source, folder) for split, source in layout.files.items()}
    layout.report_unused(next(iter(readings.values())))
    name_classes(readings, folder)
    used = {row.name for reading in readings.values() for row in reading.boxes}
    for reading in readings.values():
        reading.names = [name for name in reading.names if name in used or name not in _NO_CLASS]
        drop_missing(reading)
    return readings


def is_labelme(file: Path) -> bool:
    """By the keys at its start, which come before the image that the file may hold."""
    return _KEY.search(start_of(file)) is not None


def _json_folder(folder: Path) -> Path | None:
    """The folder, or one of the usual ones in it, that has such files."""
    candidates = named_folders(folder, _JSON_FOLDERS)
    return next((path for path in candidates if any(map(is_labelme, files_of(path, ".json")[:8]))), None)


def _read_split(source: Path, folder: Path) -> Reading:
    reading = Reading(names=[])
    inner = source.relative_to(folder).parts
    bases = [source, *(folder / "images" / name for name in inner), source.parent if inner else folder, folder]
    roots = image_folders(base for base in bases if base.is_dir())
    images, folders = images_by_stem(roots), Folders()
    for file in files_of(source, ".json"):
        content = _load(file, reading)
        if content is None:
            continue
        named = content.get("imagePath")
        path = image_of(file, named if is_path(named) else "", images, [source, *roots], folders)
        reading.images.append(ImageRow(path, file.stem, _size(content, file, reading), str(file)))
        reading.boxes += _boxes(content["shapes"], len(reading.images) - 1, file, reading)
    return reading


def _load(file: Path, reading: Reading) -> dict[str, Any] | None:
    try:
        content = read_json(file, "JSON of LabelMe")
    except DatasetError as error:
        reading.problems.append(problem_of(error))
        return None
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        message, mend = "expected a list `shapes`, found none", "remove the file, if it is no annotation"
        reading.report("malformed annotation", file, None, message, mend)
        return None
    return content


def _size(content: dict[str, Any], file: Path, reading: Reading) -> Size | None:
    sides = [content.get("imageHeight"), content.get("imageWidth")]
    size = size_of(*sides)
    if size is None and sides != [None, None]:
        message = f"imageHeight is {shown(sides[0])} and imageWidth is {shown(sides[1])}"
        mend = "write the image's height and width; until then they are read from the image"
        reading.report("wrong size", file, None, message, mend)
    return size


def _boxes(shapes: list[Any], image: int, file: Path, reading: Reading) -> Iterator[BoxRow]:
    """The boxes of one file; shapes of one label and group are joined."""
    rows: dict[object, BoxRow] = {}
    for number, shape in enumerate(shapes, 1):
        label = shape.get("label") if isinstance(shape, dict) else None
        box = _box(shape) if is_name(label) and label.strip() else None
        if box is None or not is_name(label):
            message = f"shape {number} has no box: expected a label, a shape_type with an area and its points, got "
            mend = "draw the shape again or remove it"
            reading.report("malformed annotation", file, None, message + shown(shape), mend)
            continue
        group = shape.get("group_id")
        key = (label, group) if isinstance(group, int | str) else number
        difficult = bool(flag(shape.get("difficult")))
        if key in rows:
            before = rows[key]
            joined = (*map(min, before.box[:2], box[:2]), *map(max, before.box[2:], box[2:]))
            rows[key] = before._replace(box=joined, difficult=before.difficult and difficult)
        else:
            rows[key] = BoxRow(image, label.strip(), box, str(file), difficult=difficult)
    yield from rows.values()


def _box(shape: dict[str, Any]) -> Box | None:
    """The smallest box around a shape; None for points and lines, and if the points are malformed."""
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    try:
        xs, ys = zip(*((float(x), float(y)) for x, y in points or ()), strict=True)
    except (TypeError, ValueError, OverflowError):
        return None
    if kind == "circle" and len(xs) == 2:
        radius = math.dist((xs[0], ys[0]), (xs[1], ys[1]))
        return xs[0] - radius, ys[0] - radius, xs[0] + radius, ys[0] + radius
    if kind == "mask" and len(xs) == 2:  # its second point is the last pixel, not the edge behind it
        return min(xs), min(ys), max(xs) + 1, max(ys) + 1
    if (kind == "rectangle" and len(xs) >= 2) or (kind in ("polygon", "rotation") and len(xs) >= 3):
        return min(xs), min(ys), max(xs), max(ys)
    return None
