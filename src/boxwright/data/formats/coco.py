"""COCO JSON: `train.json` beside `images/`, `annotations/instances_*.json`, one JSON without splits, Roboflow exports.

Boxes are `[x, y, width, height]` in continuous pixels. A mask is read only where there is no such box, for its box.
The format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from boxwright.data.dataset import Dataset
from boxwright.data.formats import coco_fields as fields
from boxwright.data.formats import coco_usual
from boxwright.data.formats.coco_usual import Section
from boxwright.data.formats.documents import read_lists
from boxwright.data.formats.given_splits import Layout, divide, layout_of, split_of
from boxwright.data.formats.images import files_of, named_folders, where
from boxwright.data.formats.labelme import is_labelme
from boxwright.data.formats.reading import SPLIT_NAMES, BoxRow, DatasetError, Folders, ImageRow, Reading, drop_missing
from boxwright.data.formats.text import encoding_of, flag, is_name, listed, number, problem_of, size_of, start_of
from boxwright.files import write_atomically
from boxwright.units import shown

LAYOUTS = (
    "COCO: NAME.json, annotations/NAME.json or train/_annotations.coco.json, with `images`, `annotations`, `categories`"
)

_OTHER_TASKS = re.compile(r"captions_|person_keypoints_|panoptic_|stuff_|image_info_")
_FIRST_KEY = re.compile(r'\s*\{\s*"(info|licenses?|images|annotations|categories|type|year)"\s*:')
_IMAGES = re.compile(r'"images"\s*:')


class _Annotation(NamedTuple):
    """An annotation whose image and category are not looked up yet: there may be millions.

    ids  as written
    box  xyxy
    """

    id: Any
    image_id: Any
    category_id: Any
    box: tuple[float, float, float, float]
    line: int
    crowd: bool
    difficult: bool
    area: float | None


def find(folder: Path) -> Layout | None:
    """The JSON file of each split; None if there is none. Raises DatasetError if several could be the same split."""
    return layout_of(filter(_is_coco, _json_files(folder)), folder, "COCO JSON", preferred="instances")


def near_miss(folder: Path) -> str:
    """What a JSON file that is no COCO JSON lacks, or where others are; "" if there is none."""
    for file in _json_files(folder):
        start = start_of(file)
        key = re.match(r'\s*\{\s*("[^"]*")', start)
        lack = f"begins with {key[1]}" if key and not _FIRST_KEY.match(start) else "has no list `images`"
        return f"{file.relative_to(folder)} {lack if key else 'holds no object with keys'}"
    return where(folder, ".json")


def _json_files(folder: Path) -> list[Path]:
    parents = named_folders(folder, ("", "annotations", *SPLIT_NAMES))
    return [file for parent in parents for file in files_of(parent, ".json")]


def read(layout: Layout, folder: Path) -> dict[str, Reading]:
    """Every split. A category that is only the supercategory of others, as Roboflow writes one, is not a class.

    A file without splits is divided if each of its images has a `split`, or is in a folder named like one.
    """
    readings: dict[str, Reading] = {}
    supercategories: set[str] = set()
    for split, file in layout.files.items():
        readings |= _read_file(split, file, folder, supercategories)
    used = {row.name for reading in readings.values() for row in reading.boxes}
    for reading in readings.values():
        reading.names = [name for name in reading.names if name in used or name not in supercategories]
    layout.report_unused(next(iter(readings.values())))
    return readings


def _read_file(split: str, file: Path, folder: Path, supercategories: set[str]) -> dict[str, Reading]:
    """The split, or those into which it is divided; adds to `supercategories`."""
    reading, splits = _read_at_once(file, folder, supercategories) or _read_entries(file, folder, supercategories)
    drop_missing(reading)
    return divide(reading, splits, folder) if split == "all" else {split: reading}


def _read_at_once(file: Path, folder: Path, supercategories: set[str]) -> tuple[Reading, dict[fields.Id, str]] | None:
    """A file that is as usual, and the split of each image if every image names one; None for any other file."""
    usual, reading = coco_usual.read(file), Reading(names=[])
    if usual is None or not usual.images:
        return None
    classes = _categories(usual.categories, usual.annotated(), file, reading, supercategories)
    index_of, splits = _images(usual.images, file, folder, reading)
    if (rows := usual.rows(classes, index_of, file)) is None:
        return None
    reading.boxes = rows
    return reading, splits


def _read_entries(file: Path, folder: Path, supercategories: set[str]) -> tuple[Reading, dict[fields.Id, str]]:
    """As `_read_at_once`, of any file, entry by entry, with what is wrong among its problems."""
    reading = Reading(names=[])
    sections: dict[str, Section] = {"images": [], "categories": []}
    annotations: list[_Annotation] = []
    masks: list[int] = []
    try:
        for key, element, line in read_lists(file, "COCO JSON"):
            if key not in sections and key != "annotations":
                continue
            if not isinstance(element, dict):
                _malformed(reading, file, line, f"`{key}` is a list of objects", element)
            elif key in sections:
                sections[key].append((element, line))
            elif annotation := _annotation(element, line, file, reading, masks):
                annotations.append(annotation)
    except DatasetError as error:
        reading.problems.append(problem_of(error, "unreadable annotations"))
        return reading, {}
    if not sections["images"]:
        message = "expected a list `images` with an entry per image, found none"
        reading.report("unreadable annotations", file, None, message, "export it again as COCO object detection")
        return reading, {}
    if masks:
        message = f"{len(masks)} annotations have no `bbox` of four numbers; the box of their `segmentation` is taken"
        reading.report("box of a mask", file, masks[0], message, "nothing to do")
    annotated = {fields.id_of(annotation.category_id) for annotation in annotations}
    classes = _categories(sections["categories"], annotated, file, reading, supercategories)
    index_of, splits = _images(sections["images"], file, folder, reading)
    _boxes(annotations, fields.Table(classes), fields.Table(index_of), file, reading)
    return reading, splits


def _categories(
    elements: Section, annotated: set[fields.Id | None], file: Path, reading: Reading, supercategories: set[str]
) -> dict[fields.Id, str]:
    """Names by category id, in the order of ids; fills in `reading.names`, adds to `supercategories`.

    annotated  the categories of annotations
    """
    good: list[tuple[fields.Id, str, int]] = []
    above: set[str] = set()
    for element, line in elements:
        name, key = element.get("name"), fields.id_of(element.get("id"))
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        if not is_name(name) or key is None:
            _malformed(reading, file, line, "a category needs an `id` and a `name`", element)
            continue
        good.append((key, name, line))
        if isinstance(element.get("supercategory"), str):
            above.add(element["supercategory"])
            supercategories |= {element["supercategory"]} - {name}
    annotated = annotated | {fields.in_other_type(key) for key in annotated if key is not None}
    count = Counter(name for _, name, _ in good)
    classes: dict[fields.Id, str] = {}
    used = set[str]()
    for key, name, line in good:
        if count[name] > 1 and name in above and key not in annotated:  # the head of a class of the same name
            count[name] -= 1
        elif key in classes or name in used:
            message = f"category {key} ({name}) has the id or the name of an earlier one"
            reading.report("duplicate id", file, line, message, "keep one of them")
            classes.setdefault(key, name)
        else:
            classes[key] = name
            used.add(name)
    if all(isinstance(key, int) for key in classes):
        classes = dict(sorted(classes.items()))
    reading.names = list(dict.fromkeys(classes.values()))
    return classes


def _images(
    elements: Section, file: Path, folder: Path, reading: Reading
) -> tuple[dict[fields.Id, int], dict[fields.Id, str]]:
    """Fill in `reading.images`; return the index of each image by its id, and its split if every image names one."""
    good: list[tuple[fields.Id, str, dict[str, Any], int]] = []
    index_of: dict[fields.Id, int] = {}
    for element, line in elements:
        key, name = fields.id_of(element.get("id")), fields.file_name(element)
        if key is None or not name:
            _malformed(reading, file, line, "an image needs an `id` and a `file_name`", element)
        elif key in index_of:
            message = f"image id {key} ({name}) was given to an earlier image"
            mend = "give every image its own id; the annotations of this id may belong to either"
            reading.report("duplicate id", file, line, message, mend)
        else:
            index_of[key] = len(good)
            good.append((key, name, element, line))
    paths = _image_paths([name for _, name, _, _ in good], file, folder)
    splits: dict[fields.Id, str] = {}
    for path, (key, _, element, line) in zip(paths, good, strict=True):
        sides = [element.get("height"), element.get("width")]
        size = size_of(*sides)
        if size is None and sides != [None, None]:
            message = f"image {shown(element['id'])} has height {shown(sides[0])} and width {shown(sides[1])}"
            mend = "write the image's height and width; until then they are read from the image"
            reading.report("wrong size", file, line, message, mend)
        reading.images.append(ImageRow(path, key, size, str(file), line))
        if split := SPLIT_NAMES.get(str(element.get("split")).lower()):
            splits[key] = split
    return index_of, splits


def _image_paths(names: list[str], file: Path, folder: Path) -> list[str]:
    """The path of each image. COCO does not define where they are: in the folder that has most of them, or, for those
    which are not there, in the only other of the usual ones that has the image."""
    folders, split = Folders(), split_of(file, folder)
    roots = _usual_roots(file, folder, split)
    root, skipped = _image_root(names, roots, folders)
    if split == "all":  # an image of the same name may be in each of these, so none of them counts for all images
        bases = named_folders(folder, ("", "images"))
        roots += [str(inner) for base in bases for inner in named_folders(base, SPLIT_NAMES)]
    if not os.path.isdir(root) and len(alike := folders.alike(root)) == 1:
        root = alike[0]
    others, paths = list(filter(os.path.isdir, roots)), list[str]()
    for end in (_end(name, skipped) for name in names):
        path = os.path.join(root, end)
        if path not in folders:
            elsewhere = dict.fromkeys(os.path.join(other, end) for other in others)
            found = [other for other in elsewhere if other in folders]
            path = found[0] if len(found) == 1 else path
        paths.append(path)
    return paths


def _usual_roots(file: Path, folder: Path, split: str) -> list[str]:
    """Where tools put the images of an annotation file."""
    same = [name for name, meaning in SPLIT_NAMES.items() if meaning == split]
    tag = file.stem.removeprefix("instances_")  # as CVAT names its folders: default, Train, Validation
    ends = [*re.findall(r"_((?:train|val|test|trainval)\d*)$", file.stem), *same, tag]
    inner = ["", "images", *ends, *(f"images/{end}" for end in ends), *(f"{end}/images" for end in ends), "data"]
    roots = [base / end for base in (file.parent, folder) for end in [*inner, "JPEGImages", "img", "imgs"]]
    return list(map(str, dict.fromkeys(roots)))


def _image_root(names: list[str], roots: list[str], folders: Folders) -> tuple[str, int]:
    """The root of most images of a sample, and how many leading parts of a `file_name` are skipped, as `_end` counts
    them: those of another machine."""
    sample = names[:: max(1, len(names) // 32)]
    longest = max((name.count("/") + name.count("\\") for name in sample), default=0) + 1
    best, most = (roots[0], 0), 0
    for found in (folders.__contains__, folders.alike):  # names that only look alike, where no name is right
        for skipped in range(longest + 1):
            for root in roots:
                hits = sum(bool(found(os.path.join(root, _end(name, skipped)))) for name in sample)
                if hits > most:
                    best, most = (root, skipped), hits
            if most == len(sample):
                return best
        if most:
            return best
    return best


def _end(name: str, skipped: int) -> str:
    """The name as it is for 0; its parts for 1; without the first of them for 2, and so on; the last always stays."""
    if not skipped:
        return name
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]
    return "/".join(parts[skipped - 1 :] or parts[-1:])


def _annotation(
    element: dict[str, Any], line: int, file: Path, reading: Reading, masks: list[int]
) -> _Annotation | None:
    """None for what has no box, or flags that are none; the line of one whose box is that of its mask is in `masks`."""
    if (box := fields.box(element)) is None:
        box = fields.box_of_mask(element.get("segmentation"))
        masks += [line] if box else []
    if box is None:
        _malformed(reading, file, line, "an annotation needs a `bbox` of four numbers or a `segmentation`", element)
        return None
    crowd, difficult = flag(element.get("iscrowd")), flag(element.get("difficult"))
    if crowd is None or difficult is None:
        _malformed(reading, file, line, "`iscrowd` and `difficult` are 0 or 1", element)
        return None
    x, y, width, height = box
    ids = element.get("id"), element.get("image_id"), element.get("category_id")
    return _Annotation(*ids, (x, y, x + width, y + height), line, crowd, difficult, number(element.get("area")))


def _boxes(
    annotations: list[_Annotation],
    classes: fields.Table,
    index_of: fields.Table,
    file: Path,
    reading: Reading,
) -> None:
    """Fill in `reading.boxes`."""
    seen: set[fields.Id] = set()
    unequal: dict[str, list[int]] = {"image_id": [], "category_id": []}
    for annotation in annotations:
        key, line = fields.id_of(annotation.id), annotation.line
        image = fields.meet(annotation.image_id, index_of)
        category = fields.meet(annotation.category_id, classes)
        if image is None or image not in index_of:
            unmet = fields.unmet(annotation.image_id, index_of)
            message = f"annotation {shown(annotation.id)} is of image {unmet}, which `images` does not have"
            reading.report("annotation without image", file, line, message, "add the image or remove it")
            continue
        if category is None or category not in classes:
            unmet = fields.unmet(annotation.category_id, classes)
            message = f"annotation {shown(annotation.id)} is of category {unmet}, not one of [{listed(classes)}]"
            reading.report("unknown class", file, line, message, "add it to `categories`")
            continue
        if annotation.image_id != image:
            unequal["image_id"].append(line)
        if annotation.category_id != category:
            unequal["category_id"].append(line)
        if key is not None:
            if key in seen:
                message = f"annotation {shown(annotation.id)} has the id of an earlier one; both are kept"
                reading.report("duplicate id", file, line, message, "give each its own id", "warning")
            seen.add(key)
        row = (annotation.box, str(file), line, annotation.crowd, annotation.difficult, annotation.area)
        reading.boxes.append(BoxRow(index_of[image], classes[category], *row))
    for name, lines in unequal.items():
        if lines:
            message = f"`{name}` of {len(lines)} annotations is a number and the id a text, or the other way round"
            reading.report("ids of two types", file, lines[0], message, "nothing to do: each number is the id's text")


def write_coco(dataset: Dataset, path: str | Path) -> None:
    """Write a dataset as COCO JSON with `file_name`s relative to the JSON's folder.

    Reading it again gives the same columns: image ids, class order, boxes to the last bit, crowd, difficult, area.
    """
    path = Path(path)
    root = path.resolve().parent
    images, annotations = [], []
    for i in range(len(dataset)):
        path_of_image = dataset.path(i)  # a link to an image is named itself, not the file behind it
        name = Path(os.path.relpath(path_of_image.parent.resolve() / path_of_image.name, root)).as_posix()
        height, width = dataset.size(i)
        images.append({"id": dataset.image_id(i), "file_name": name, "width": width, "height": height})
    owners = dataset.owners().tolist()
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


def image_folder(split: str) -> str:
    """Where `write` expects the images of a split, or of "all"."""
    return "images" if split == "all" else f"images/{split}"


def write(splits: Mapping[str, Dataset], folder: Path) -> None:
    """Write a JSON for each split, annotations.json for "all"; file names are relative to the folder."""
    for split, dataset in splits.items():
        write_coco(dataset, folder / f"{'annotations' if split == 'all' else split}.json")


def _malformed(reading: Reading, file: Path, line: int, expected: str, element: Any) -> None:
    reading.report("malformed annotation", file, line, f"{expected}, got {shown(element)}", "mend or remove the entry")


def _is_coco(file: Path) -> bool:
    """By its first key and `images`, or by its name, since it may be broken; parsing half a gigabyte is too slow."""
    if _OTHER_TASKS.match(file.name):
        return False
    if file.stem.lower() in SPLIT_NAMES or file.name == "_annotations.coco.json":
        return not is_labelme(file)  # of an image that is called so
    try:
        with file.open(encoding=encoding_of(file), errors="replace") as stream:
            text = stream.read(4096)
            if not _FIRST_KEY.match(text):
                return False
            while text and not _IMAGES.search(text):
                text = text[-64:] + rest if (rest := stream.read(1 << 20)) else ""
    except OSError:  # it may not be read, or is a link to nothing
        return False
    return bool(text)
