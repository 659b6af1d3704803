"""YOLO text: a `data.yaml` that names folders or lists of images, or `images/` beside `labels/`.

A label file has the name of its image, and is under `labels/` if the image is under `images/`, or beside it. A line is
`class cx cy width height` relative to the upright image's width and height, or a polygon `class x1 y1 x2 y2 …`, of
which the bounding box is taken.
The format: https://docs.ultralytics.com/datasets/detect/
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from boxwright.data.formats.reading import (
    BAD_IMAGE,
    SPLIT_NAMES,
    BoxRow,
    DatasetError,
    ImageRow,
    Problem,
    Reading,
    drop_missing,
    image_size,
)
from boxwright.data.formats.text import names_from_file
from boxwright.data.image import is_image
from boxwright.types import Size

LAYOUTS = "YOLO: data.yaml with `names` and `train`, images/ beside labels/, or classes.txt beside images and .txt"

Box = tuple[float, float, float, float]


@dataclass
class Layout:
    """Where each split's images are: folders, or text files that list them. `names` are by class index."""

    names: dict[int, str]
    splits: dict[str, list[Path]]
    keypoints: bool = False
    problems: list[Problem] = field(default_factory=list)


def find(folder: Path) -> Layout | None:
    """A YAML with `names` and a split, otherwise the usual folders; None if there is neither."""
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in (".yaml", ".yml")]
    described = [file for file in files if _describes_dataset(file)]
    usual = [file for file in described if file.stem in ("data", "dataset")] or described
    if len(usual) > 1:
        names = ", ".join(file.name for file in usual)
        raise DatasetError(f"{folder}: expected one YAML with `names`, found {names}; give the file itself")
    return find_in_yaml(usual[0]) if usual else _find_folders(folder)


def find_in_yaml(file: Path) -> Layout:
    """The splits that a YAML names. Raises DatasetError if it cannot be read, or has no `names` or no split."""
    content = _load_yaml(file)
    layout = Layout(_class_names(content, file), {}, keypoints="kpt_shape" in content)
    for key, split in SPLIT_NAMES.items():
        values = content.get(key)
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or value in ("", "null", "~"):
                continue
            if source := _resolve(value, content.get("path"), file.parent):
                layout.splits.setdefault(split, []).append(source)
            else:
                message = f"{key} names {value}, which does not exist"
                mend = f"put the images there, or correct {key} (and path) in {file.name}"
                layout.problems.append(Problem("missing split", str(file), _line_of(file, key), message, mend))
    if not layout.splits:
        why = f"; {layout.problems[0]}" if layout.problems else ""
        raise DatasetError(f"{file}: expected `train`, `val` or `test` to name existing folders{why}", file)
    return layout


def read(layout: Layout, folder: Path) -> dict[str, Reading]:
    """Every split. Classes without a name are named by their index."""
    readings = {split: _read_split(split, layout, folder) for split in layout.splits}
    empty = [split for split, reading in readings.items() if not reading.images and not reading.problems]
    for split in empty if len(empty) < len(readings) else ():  # exports have empty folders for splits they leave out
        source, mend = str(layout.splits[split][0]), f"put images there, or remove {split}"
        layout.problems.append(Problem("missing split", source, None, f"{split} has no image", mend))
        del readings[split]
    next(iter(readings.values())).problems.extend(layout.problems)
    if not layout.names:
        names = sorted({row.name for reading in readings.values() for row in reading.boxes}, key=int)
        for reading in readings.values():
            reading.names = list(names)
    return readings


def _load_yaml(file: Path) -> dict[str, Any]:
    """Every scalar as the string in the file: YAML would turn a class called `no` into False."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        raise DatasetError(f"{file}: expected YAML: {error}; correct it there", file, line) from error
    return content if isinstance(content, dict) else {}


def _describes_dataset(file: Path) -> bool:
    if file.stem in ("data", "dataset"):
        return bool(_load_yaml(file))
    try:
        content = _load_yaml(file)
    except DatasetError:
        return False
    return "names" in content and any(key in content for key in SPLIT_NAMES)


def _line_of(file: Path, key: str) -> int | None:
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    return next((number for number, line in enumerate(lines, 1) if line.startswith(f"{key}:")), None)


def _class_names(content: dict[str, Any], file: Path) -> dict[int, str]:
    names = content.get("names")
    try:
        if isinstance(names, dict):
            return {int(key): str(name) for key, name in sorted(names.items(), key=lambda item: int(item[0]))}
        if isinstance(names, list):
            return dict(enumerate(map(str, names)))
        return {index: str(index) for index in range(int(content["nc"]))}
    except (KeyError, TypeError, ValueError) as error:
        message = f"{file}: expected `names` as a list or as `0: name` lines, got {names}; give one name per class"
        raise DatasetError(message, file, _line_of(file, "names")) from error


def _resolve(value: str, path: str | None, folder: Path) -> Path | None:
    """The folder or file that a YAML means. Exports often have paths of another machine or another folder level."""
    roots = [folder / path, folder / Path(path).name] if path else []
    parts = [part for part in value.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    ends = ["/".join(parts[k:]) for k in range(len(parts)) if k == 0 or parts[k:] != ["images"]]
    for root in [*roots, folder]:
        for candidate in [root / value, *(root / end for end in ends)]:
            inner = candidate / "images"
            if inner.is_dir() and not any(map(is_image, os.listdir(candidate))):
                return inner
            if candidate.exists():
                return candidate
    return None


def _find_folders(folder: Path) -> Layout | None:
    """images/ beside labels/, each with or without splits; train/images; or images and their .txt in one folder."""
    problems: list[Problem] = []
    names = dict(enumerate(names_from_file(folder, problems)))
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        return Layout(names, _by_split(folder / "images", "") or {"all": [folder / "images"]}, problems=problems)
    splits = _by_split(folder, "images").items()
    if labelled := {split: folders for split, folders in splits if (folders[0].parent / "labels").is_dir()}:
        return Layout(names, labelled, problems=problems)
    images = (file for file in folder.iterdir() if is_image(file.name))
    has_labels = names and any(file.with_suffix(".txt").is_file() for file in images)
    return Layout(names, {"all": [folder]}, problems=problems) if has_labels else None


def _by_split(folder: Path, inner: str) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {}
    for child in sorted(folder.iterdir()):
        split = SPLIT_NAMES.get(child.name.lower().rstrip("0123456789"))
        if split and (child / inner).is_dir():
            splits.setdefault(split, []).append(child / inner)
    return splits


def _read_split(split: str, layout: Layout, folder: Path) -> Reading:
    reading = Reading(names=list(dict.fromkeys(layout.names.values())), measured=True)
    rows = [row for source in layout.splits[split] for row in _images(source, folder)]
    stems = Counter(Path(path).stem for path, _, _ in rows)
    for path, file, line in rows:
        stem = Path(path).stem
        image_id = stem if stems[stem] == 1 else Path(os.path.relpath(path, folder)).as_posix()
        reading.images.append(ImageRow(path, image_id, None, file, line))
    drop_missing(reading)
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(_size_or_none, (image.path for image in reading.images)))
    reading.images = [image._replace(size=size) for image, size in zip(reading.images, sizes, strict=True)]
    used: set[Path] = set()
    for index, image in enumerate(reading.images):
        label_file = _label_file(Path(image.path))
        used.add(label_file)
        if image.size and label_file.is_file():
            _read_labels(label_file, index, image.size, layout, reading)
    for source in layout.splits[split]:
        _unused_labels(source, used, reading)
    return reading


def _images(source: Path, folder: Path) -> Iterator[tuple[str, str, int | None]]:
    """(image, file that lists it, line) of a folder, or of a text file with one path per line."""
    if source.is_dir():
        for parent, _, entries in sorted(os.walk(source)):
            for entry in sorted(entries):
                if is_image(entry):
                    path = os.path.join(parent, entry)
                    yield path, path, None
        return
    for line, text in enumerate(source.read_text(encoding="utf-8-sig").splitlines(), 1):
        if name := text.strip():
            candidates = [source.parent / name, folder / name]
            yield str(next((path for path in candidates if path.is_file()), candidates[0])), str(source), line


def _size_or_none(path: str) -> Size | None:
    try:
        return image_size(path)
    except BAD_IMAGE:
        return None  # `build` reads it again and reports the problem


def _label_file(image: Path) -> Path:
    beside = image.with_suffix(".txt")
    parts = list(beside.parts)
    if "images" not in parts[:-1]:
        return beside
    last = len(parts) - 2 - parts[-2::-1].index("images")
    parallel = Path(*parts[:last], "labels", *parts[last + 1 :])
    return beside if not parallel.is_file() and beside.is_file() else parallel


def _read_labels(file: Path, image: int, size: Size, layout: Layout, reading: Reading) -> None:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reading.report("malformed annotation", file, None, f"expected text: {error}", "write it again")
        return
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        parsed = _parse_line(text, layout.keypoints)
        if parsed is None:
            message = f"expected `class cx cy width height` or a polygon, got `{text.strip()[:80]}`"
            reading.report("malformed annotation", file, number, message, "mend or remove it")
            continue
        index, (x1, y1, x2, y2) = parsed
        if layout.names and index not in layout.names:
            message = f"class {index} is not one of {', '.join(f'{k} {name}' for k, name in layout.names.items())}"
            reading.report("unknown class", file, number, message, "correct the index, or name the class in the YAML")
            continue
        box = (x1 * size.width, y1 * size.height, x2 * size.width, y2 * size.height)
        reading.boxes.append(BoxRow(image, layout.names.get(index, str(index)), box, str(file), number))


def _parse_line(text: str, keypoints: bool) -> tuple[int, Box] | None:
    """Class index and box relative to the image's size, xyxy; None if the line is malformed."""
    try:
        first, *numbers = map(float, text.split())
    except ValueError:
        return None
    if not first.is_integer() or first < 0 or len(numbers) < 4:
        return None
    if len(numbers) == 4 or keypoints:
        cx, cy, width, height = numbers[:4]
        return int(first), (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
    if len(numbers) < 6 or len(numbers) % 2:
        return None
    if not all(map(math.isfinite, numbers)):
        return int(first), (math.nan, math.nan, math.nan, math.nan)
    xs, ys = numbers[::2], numbers[1::2]
    return int(first), (min(xs), min(ys), max(xs), max(ys))


def _unused_labels(source: Path, used: set[Path], reading: Reading) -> None:
    """Report labels without an image; only for a whole folder of images, since a list may omit some on purpose."""
    labels = _label_file(source / "x.jpg").parent
    if not source.is_dir() or labels == source or not labels.is_dir():
        return
    for file in sorted(labels.rglob("*.txt")):
        if file not in used and file.name != "classes.txt":
            mend = "put the image there, or remove the file"
            reading.report("annotation without image", file, 1, "no image has this name", mend)
