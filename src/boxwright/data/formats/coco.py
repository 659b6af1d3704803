"""COCO JSON: `train.json` beside `images/`, `annotations/instances_*.json`, one JSON without splits, Roboflow exports.

Boxes are `[x, y, width, height]` in continuous pixels. Masks are ignored; every annotation needs a box.
The format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.data.dataset import Dataset
from boxwright.data.formats.reading import SPLIT_NAMES, BoxRow, DatasetError, Folders, ImageRow, Reading, drop_missing
from boxwright.files import write_atomically
from boxwright.types import Size

LAYOUTS = (
    "COCO: NAME.json, annotations/NAME.json or train/_annotations.coco.json, with `images`, `annotations`, `categories`"
)

_OTHER_TASKS = re.compile(r"captions_|person_keypoints_|panoptic_|stuff_|image_info_|\.")  # "." hides a file
_FIRST_KEY = re.compile(r'\s*\{\s*"(info|licenses|images|annotations|categories|type|year)"\s*:')
_SPACE = re.compile(r"\s*")
_decode = json.JSONDecoder().raw_decode


def find(folder: Path) -> dict[str, Path]:
    """The JSON file of each split; {"all": file} for one without splits; {} if there is none.

    Raises DatasetError if several files could be the same split.
    """
    parents = [folder, folder / "annotations", *(folder / name for name in SPLIT_NAMES)]
    files = [file for parent in parents for file in sorted(parent.glob("*.json")) if _is_coco(file)]
    candidates: dict[str, list[Path]] = {}
    for file in files:
        candidates.setdefault(split_of(file, folder), []).append(file)
    if len(candidates) > 1:
        candidates.pop("all", None)
    trainval = candidates.pop("trainval", None)
    if trainval and "train" not in candidates:
        candidates["train"] = trainval
    for split, several in candidates.items():
        candidates[split] = preferred = [file for file in several if file.name.startswith("instances")] or several
        if len(preferred) > 1:
            names = ", ".join(str(file.relative_to(folder)) for file in preferred)
            raise DatasetError(f"{folder}: expected one COCO JSON for {split}, found {names}; give the file itself")
    return {split: preferred[0] for split, preferred in candidates.items()}


def split_of(file: Path, folder: Path) -> str:
    """One of train, val, test, trainval, by the words in the file's name or by its folder; otherwise all."""
    words = re.findall(r"[a-z]+", file.stem.lower()) + ([file.parent.name.lower()] if file.parent != folder else [])
    return next((SPLIT_NAMES.get(word, word) for word in words if word in SPLIT_NAMES or word == "trainval"), "all")


def read(files: dict[str, Path], folder: Path) -> dict[str, Reading]:
    """Every split. A category that is only the supercategory of others, as Roboflow writes one, is not a class."""
    readings: dict[str, Reading] = {}
    supercategories: set[str] = set()
    for split, file in files.items():
        readings[split], of_this_file = _read_file(file, folder)
        supercategories |= of_this_file
    used = {row.name for reading in readings.values() for row in reading.boxes}
    for reading in readings.values():
        reading.names = [name for name in reading.names if name in used or name not in supercategories]
    return readings


def _read_file(file: Path, folder: Path) -> tuple[Reading, set[str]]:
    reading = Reading(names=[])
    sections: dict[str, list[tuple[Any, int]]] = {"images": [], "annotations": [], "categories": []}
    try:
        for key, element, line in _elements(file.read_text(encoding="utf-8-sig")):
            if key == "annotations" and isinstance(element, dict):
                element.pop("segmentation", None)  # most of the file, and not used
            if key in sections:
                sections[key].append((element, line))
    except (OSError, UnicodeDecodeError, RecursionError, json.JSONDecodeError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        message, mend = f"not valid JSON: {error}", "export it again, or correct it there"
        reading.report("unreadable annotations", file, line, message, mend)
        return reading, set()
    if not sections["images"]:
        message = "expected a list `images` with an entry per image, found none"
        reading.report("unreadable annotations", file, None, message, "export it again as COCO object detection")
        return reading, set()
    classes, supercategories = _categories(sections["categories"], file, reading)
    index_of = _images(sections["images"], file, folder, reading)
    _annotations(sections["annotations"], classes, index_of, file, reading)
    drop_missing(reading)
    return reading, supercategories


def _elements(text: str) -> Iterator[tuple[str, Any, int]]:
    """Every element of the lists in the outermost object: (key, element, line), decoded one at a time."""

    def skip(at: int) -> int:
        space = _SPACE.match(text, at)
        return space.end() if space else at

    def expect(at: int, marks: str) -> int:
        if text[at : at + 1] not in tuple(marks):
            raise json.JSONDecodeError(f"expected {' or '.join(marks)}", text, at)
        return skip(at + 1)

    line, counted = 1, 0
    at = expect(skip(0), "{")
    while text[at : at + 1] != "}":
        key, at = _decode(text, at)
        at = expect(skip(at), ":")
        if text[at : at + 1] != "[":
            _, at = _decode(text, at)
        else:
            at = skip(at + 1)
            while text[at : at + 1] != "]":
                line, counted = line + text.count("\n", counted, at), at
                element, at = _decode(text, at)
                yield key, element, line
                at = skip(at)
                if text[at : at + 1] != "]":
                    at = expect(at, ",")
            at += 1
        at = skip(at)
        if text[at : at + 1] != "}":
            at = expect(at, ",")
    if skip(at + 1) != len(text):
        raise json.JSONDecodeError("expected the end of the file", text, skip(at + 1))


def _categories(elements: list[tuple[Any, int]], file: Path, reading: Reading) -> tuple[dict[Any, str], set[str]]:
    """Names by category id, in the order of ids, and the names of supercategories."""
    classes: dict[Any, str] = {}
    supercategories: set[str] = set()
    for element, line in elements:
        name, key = (element.get("name"), element.get("id")) if isinstance(element, dict) else (None, None)
        if not isinstance(name, str) or not _is_id(key):
            _malformed(reading, file, line, "a category needs an `id` and a `name`", element)
        elif key in classes or name in classes.values():
            message = f"category {key} ({name}) has the id or the name of an earlier one"
            reading.report("duplicate id", file, line, message, "keep one of them")
            classes.setdefault(key, name)
        else:
            classes[key] = name
            if (supercategory := element.get("supercategory")) != name and isinstance(supercategory, str):
                supercategories.add(supercategory)
    if all(isinstance(key, int) for key in classes):
        classes = dict(sorted(classes.items()))
    reading.names = list(dict.fromkeys(classes.values()))
    return classes, supercategories


def _images(elements: list[tuple[Any, int]], file: Path, folder: Path, reading: Reading) -> dict[Any, int]:
    """Fill in `reading.images`; return the index of each image by its id."""
    good: list[tuple[dict[str, Any], int]] = []
    index_of: dict[Any, int] = {}
    for element, line in elements:
        if not isinstance(element, dict) or not _is_id(element.get("id")) or not _is_name(element.get("file_name")):
            _malformed(reading, file, line, "an image needs an `id` and a `file_name`", element)
        elif element["id"] in index_of:
            message = f"image id {element['id']} ({element['file_name']}) was given to an earlier image"
            mend = "give every image its own id; the annotations of this id may belong to either"
            reading.report("duplicate id", file, line, message, mend)
        else:
            index_of[element["id"]] = len(good)
            good.append((element, line))
    root, whole = _image_root([element["file_name"] for element, _ in good], file, folder)
    for element, line in good:
        name = element["file_name"] if whole else re.split(r"[/\\]", element["file_name"])[-1]
        sides: list[Any] = [element.get("height"), element.get("width")]
        size = Size(int(sides[0]), int(sides[1])) if all(map(_is_extent, sides)) else None
        if size is None and sides != [None, None]:
            message = f"image {element['id']} has height {sides[0]} and width {sides[1]}"
            mend = "write the image's height and width; until then they are read from the image"
            reading.report("wrong size", file, line, message, mend)
        reading.images.append(ImageRow(os.path.join(root, name), element["id"], size, str(file), line))
    return index_of


def _image_root(names: list[str], file: Path, folder: Path) -> tuple[str, bool]:
    """The folder of most images, and whether the folders within `file_name` count.

    COCO does not define where the images are, so the usual folders are tried on a sample of names.
    """
    split = split_of(file, folder)
    same = [name for name, meaning in SPLIT_NAMES.items() if meaning == split]
    ends = [*re.findall(r"_((?:train|val|test|trainval)\d*)$", file.stem), *same]
    inner = ["", "images", *ends, *(f"images/{end}" for end in ends), *(f"{end}/images" for end in ends), "data"]
    roots = [base / end for base in (file.parent, folder) for end in [*inner, "JPEGImages", "img", "imgs"]]
    folders = Folders()
    sample = names[:: max(1, len(names) // 32)]
    best, most = (str(file.parent), True), 0
    for found in (folders.__contains__, folders.alike):  # names that only look alike, where no name is right
        for whole in (True, False):
            tried = sample if whole else [re.split(r"[/\\]", name)[-1] for name in sample]
            for root in dict.fromkeys(map(str, roots)):
                hits = sum(bool(found(os.path.join(root, name))) for name in tried)
                if hits > most:
                    best, most = (root, whole), hits
        if most:
            break
    return best


def _annotations(
    elements: list[tuple[Any, int]], classes: dict[Any, str], index_of: dict[Any, int], file: Path, reading: Reading
) -> None:
    """Fill in `reading.boxes`."""
    seen: set[Any] = set()
    for element, line in elements:
        box = element.get("bbox") if isinstance(element, dict) else None
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            _malformed(reading, file, line, "an annotation needs a `bbox` of four numbers", element)
            continue
        key, image, category = element.get("id"), element.get("image_id"), element.get("category_id")
        label = f"annotation {key}"
        if not _is_id(image) or image not in index_of:
            message, mend = f"{label} is of image {image}, which `images` does not have", "add the image or remove it"
            reading.report("annotation without image", file, line, message, mend)
            continue
        if not _is_id(category) or category not in classes:
            message, mend = f"{label} is of category {category}, not one of {list(classes)}", "add it to `categories`"
            reading.report("unknown class", file, line, message, mend)
            continue
        if _is_id(key):
            if key in seen:
                message, mend = f"{label} has the id of an earlier one; both are kept", "give each its own id"
                reading.report("duplicate id", file, line, message, mend, "warning")
            seen.add(key)
        x, y, width, height = box
        area = element.get("area")
        row = BoxRow(
            index_of[image],
            classes[category],
            (x, y, x + width, y + height),
            str(file),
            line,
            bool(element.get("iscrowd", 0)),
            bool(element.get("difficult", 0)),
            area if _is_number(area) else None,
        )
        reading.boxes.append(row)


def write_coco(dataset: Dataset, path: str | Path) -> None:
    """Write a dataset as COCO JSON with `file_name`s relative to the JSON's folder.

    Reading it again gives the same columns: image ids, class order, boxes to the last bit, crowd, difficult, area.
    """
    path = Path(path)
    root = path.resolve().parent
    images, annotations = [], []
    for i in range(len(dataset)):
        name = Path(os.path.relpath(dataset.path(i).resolve(), root)).as_posix()
        height, width = dataset.size(i)
        images.append({"id": dataset.image_id(i), "file_name": name, "width": width, "height": height})
    owners = np.repeat(np.arange(len(dataset)), np.diff(dataset.offsets)).tolist()
    boxes = dataset.boxes.astype(np.float64)  # the float64 difference of two float32 adds up again exactly
    boxes[:, 2:] -= boxes[:, :2]
    for row, owner in enumerate(owners):
        annotation = {
            "id": row + 1,
            "image_id": images[owner]["id"],
            "category_id": int(dataset.labels[row]) + 1,
            "bbox": boxes[row].tolist(),
            "area": float(dataset.area[row]),
            "iscrowd": int(dataset.crowd[row]),
        }
        annotations.append(annotation | ({"difficult": 1} if dataset.difficult[row] else {}))
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(dataset.names)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_atomically(path, json.dumps(content))


def _malformed(reading: Reading, file: Path, line: int, expected: str, element: Any) -> None:
    got = json.dumps(element)
    message = f"{expected}, got {got if len(got) <= 120 else got[:117] + '...'}"
    reading.report("malformed annotation", file, line, message, "mend or remove the entry")


def _is_coco(file: Path) -> bool:
    """By its first key, or by its name if it is broken: parsing half a gigabyte to find out is too slow."""
    if _OTHER_TASKS.match(file.name):
        return False
    with file.open(encoding="utf-8-sig", errors="replace") as stream:
        start = stream.read(4096)
    return bool(_FIRST_KEY.match(start)) or file.stem in SPLIT_NAMES or file.name == "_annotations.coco.json"


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53)


def _is_extent(value: Any) -> bool:
    return _is_number(value) and 0 < value < 2**31
