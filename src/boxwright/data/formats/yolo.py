"""YOLO text: a `data.yaml` that names folders or lists of images, or `images/` beside `labels/`.

A label file has the name of its image, and is under `labels/` if the image is under `images/`, or beside it. A line is
`class cx cy width height` relative to the upright image's width and height, or a polygon `class x1 y1 x2 y2 …`, of
which the bounding box is taken. Darknet and CVAT have an `obj.data` in place of the YAML.
The format: https://docs.ultralytics.com/datasets/detect/ and https://docs.cvat.ai/docs/dataset_management/formats/format-yolo/
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from boxwright.data.dataset import Dataset
from boxwright.data.formats.documents import read_yaml
from boxwright.data.formats.images import files_of, locate, measure, where
from boxwright.data.formats.reading import (
    SPLIT_NAMES,
    BoxRow,
    DatasetError,
    Folders,
    ImageRow,
    Problem,
    Reading,
    drop_missing,
)
from boxwright.data.formats.text import (
    class_list,
    find_path,
    is_name,
    is_path,
    listed,
    names_from_file,
    problem_of,
    read_names,
    read_text,
    spelled,
)
from boxwright.data.formats.yolo_labels import Labels, expected_folder
from boxwright.data.formats.yolo_lines import Columns, Line, Unread, parse
from boxwright.data.image import is_image
from boxwright.files import walk
from boxwright.types import Size
from boxwright.units import shown

LAYOUTS = (
    "YOLO: data.yaml with `names` and `train`, obj.data, images/ beside labels/, or classes.txt beside images and .txt"
)

_LONGEST_DATA_FILE = 65536
_MOST_CLASSES = 100_000
"""Of `nc`; names are not counted."""


@dataclass
class Layout:
    """Where each split's images are: folders, or text files that list them.

    names        by class index
    split_names  of a split that has a list of its own, as labelImg leaves it beside the labels
    """

    names: dict[int, str]
    splits: dict[str, list[Path]]
    keypoints: bool = False
    problems: list[Problem] = field(default_factory=list)
    split_names: dict[str, dict[int, str]] = field(default_factory=dict)


def find(folder: Path) -> Layout | None:
    """A YAML with `names` and a split, otherwise obj.data or the usual folders; None if there is none of them."""
    described = [file for file in _yaml_files(folder) if _describes_dataset(file)]
    usual = [file for file in described if file.stem in ("data", "dataset")] or described
    if len(usual) > 1:
        names = ", ".join(file.name for file in usual)
        raise DatasetError(f"{folder}: expected one YAML with `names`, found {names}; give the file itself")
    return find_in_yaml(usual[0]) if usual else _find_in_data(folder) or _find_folders(folder)


def near_miss(folder: Path) -> str:
    """Which part of a layout is there without the other, or where text files are; "" if there is none."""
    for file in _yaml_files(folder):
        keys = read_yaml(file).keys()
        if "names" in keys or keys & SPLIT_NAMES.keys():
            return f"{file.name} has no {'`train`, `val` or `test`' if 'names' in keys else '`names`'}"
    there = {name: bool(spelled(folder, name)) for name in ("images", "labels")}
    if any(there.values()) and not all(there.values()):
        return f"{'images/ is there, labels/' if there['images'] else 'labels/ is there, images/'} is not"
    texts = where(folder, ".txt")
    return f"{texts}; a YAML, or images/ beside labels/, says what they belong to" if texts else ""


def _yaml_files(folder: Path) -> list[Path]:
    return sorted(files_of(folder, ".yaml") + files_of(folder, ".yml"))


def find_in_yaml(file: Path) -> Layout:
    """The splits that a YAML names. Raises DatasetError if it cannot be read, or has no `names` or no split."""
    content = read_yaml(file)
    problems: list[Problem] = []
    layout = Layout(_class_names(content, file, problems), {}, keypoints="kpt_shape" in content, problems=problems)
    return _with_splits(layout, content, file)


def _find_in_data(folder: Path) -> Layout | None:
    """Darknet's obj.data, with lines such as `train = data/train.txt` and `names = data/obj.names`."""
    for file in files_of(folder, ".data"):
        try:
            if file.stat().st_size > _LONGEST_DATA_FILE:
                continue
            entries = [line.split("=", 1) for line in read_text(file).splitlines() if "=" in line]
        except (OSError, DatasetError):
            continue
        content = {key.strip().lower(): value.strip() for key, value in entries}
        if not any(key in content for key in SPLIT_NAMES):
            continue
        problems: list[Problem] = []
        list_of_names = find_path(content.get("names", ""), [folder], os.path.isfile)
        names = read_names(Path(list_of_names), problems) if list_of_names else names_from_file(folder, problems)
        try:
            return _with_splits(Layout(dict(enumerate(names)), {}, problems=problems), content, file)
        except DatasetError:
            if _find_folders(folder) is None:
                raise
    return None


def _with_splits(layout: Layout, content: dict[str, Any], file: Path) -> Layout:
    """The layout with the splits that the file's content names."""
    if (path := content.get("path")) is not None and not isinstance(path, str):
        message = f"expected a folder in `path`, got {shown(path)}, which is not used"
        mend, line = "name the folder, or leave `path` out", _line_of(file, "path")
        layout.problems.append(Problem("malformed annotation", str(file), line, message, mend, "warning"))
    for key, split in SPLIT_NAMES.items():
        values = content.get(key)
        for value in values if isinstance(values, list) else [values]:
            if value in (None, "", "null", "~"):
                continue
            if not is_path(value):
                message, mend = f"{key} names {shown(value)}, which is no path", f"correct {key} in {file.name}"
                layout.problems.append(Problem("missing split", str(file), _line_of(file, key), message, mend))
            elif source := _resolve(value, content.get("path"), file.parent):
                layout.splits.setdefault(split, []).append(source)
            else:
                message = f"{key} names {value}, which does not exist"
                mend = f"put the images there, or correct {key} (and path) in {file.name}"
                layout.problems.append(Problem("missing split", str(file), _line_of(file, key), message, mend))
    if not layout.splits:
        missing = next((problem for problem in layout.problems if problem.kind == "missing split"), None)
        why = f"; {missing}" if missing else ""
        raise DatasetError(f"{file}: expected `train`, `val` or `test` to name existing folders{why}", file)
    return layout


def read(layout: Layout, folder: Path) -> dict[str, Reading]:
    """Every split. Classes without a name are named by their index."""
    used: dict[str, set[Path]] = {split: set() for split in layout.splits}
    readings = {split: _read_split(split, layout, folder, used[split]) for split in layout.splits}
    empty = [split for split, reading in readings.items() if not reading.images and not reading.problems]
    for split in empty if len(empty) < len(readings) else ():  # exports have empty folders for splits they leave out
        source, mend = str(layout.splits[split][0]), f"put images there, or remove {split}"
        layout.problems.append(Problem("missing split", source, None, f"{split} has no image", mend))
        del readings[split]
    next(iter(readings.values())).problems.extend(layout.problems)
    for split, reading in readings.items():
        if reading.images and not used[split]:
            _report_unlabelled(split, reading, folder, used)
    if not layout.names and not layout.split_names:
        names = sorted({row.name for reading in readings.values() for row in reading.boxes}, key=int)
        for reading in readings.values():
            reading.names = list(names)
    return readings


def _describes_dataset(file: Path) -> bool:
    if file.stem in ("data", "dataset"):
        return bool(read_yaml(file))
    try:
        content = read_yaml(file)
    except DatasetError:
        return False
    return "names" in content and any(key in content for key in SPLIT_NAMES)


def _line_of(file: Path, key: str) -> int | None:
    """The first line that begins with the key, of a YAML or of obj.data."""
    pattern = re.compile(rf"{key}\s*[:=]", re.IGNORECASE)
    return next((number for number, line in enumerate(read_text(file).splitlines(), 1) if pattern.match(line)), None)


def _class_names(content: dict[str, Any], file: Path, problems: list[Problem]) -> dict[int, str]:
    given, count = content.get("names"), content.get("nc")
    if not isinstance(given, list | dict) and isinstance(count, str) and count.isdecimal():
        if len(count) > len(str(_MOST_CLASSES)) or int(count) > _MOST_CLASSES:
            message = f"{file}: expected at most {_MOST_CLASSES:,} classes, got nc: {shown(count)}"
            raise DatasetError(f"{message}; correct it, or give `names`", file, _line_of(file, "nc"))
        return {index: str(index) for index in range(int(count))}
    entries = list(given.items() if isinstance(given, dict) else enumerate(given if isinstance(given, list) else ()))
    try:
        named = dict(sorted((int(index), name) for index, name in entries if name == "" or is_name(name)))
    except ValueError:
        named = {}
    if not isinstance(given, list | dict) or len(named) < len(entries):
        message = f"{file}: expected `names` as a list or as `0: name` lines, got {shown(given)}"
        raise DatasetError(f"{message}; give one name per class", file, _line_of(file, "names"))
    names, wrong = class_list(named.values(), list(named))
    for _, what in wrong:
        mend = "give each class its own name; its index stays the same"
        problems.append(Problem("ambiguous class", str(file), _line_of(file, "names"), what, mend))
    return dict(zip(named, names, strict=True))


def _resolve(value: str, path: object, folder: Path) -> Path | None:
    """The folder or file that a YAML means. Exports often have paths of another machine or another folder level."""
    roots = [folder / path, folder / Path(path).name] if isinstance(path, str) and path else []
    found = find_path(value, [*roots, folder], os.path.exists)
    if found is None or os.path.realpath(found) == os.path.abspath(os.sep):  # all files of the machine are no split
        return None
    inner = spelled(Path(found), "images")
    return inner if inner and inner.is_dir() and not any(map(is_image, os.listdir(found))) else Path(found)


def _find_folders(folder: Path) -> Layout | None:
    """images/ beside labels/, each with or without splits; train/images; or images and their .txt in one folder."""
    problems: list[Problem] = []
    names = dict(enumerate(names_from_file(folder, problems)))
    images, labels = spelled(folder, "images"), spelled(folder, "labels")
    if images and labels and images.is_dir() and labels.is_dir():
        if _are_json(labels):
            return None
        splits = _by_split(images, "") or {"all": [images]}
    else:
        found = _by_split(folder, "images").items()
        splits = {split: folders for split, folders in found if spelled(folders[0].parent, "labels")}
    if not splits and (names or problems):
        find_label = Labels().of
        labelled = any(find_label(file) for file in folder.iterdir() if is_image(file.name))
        splits = {"all": [folder]} if labelled else {}
    split_names = {} if names else _names_beside_labels(splits, problems)
    return Layout(names, splits, problems=problems, split_names=split_names) if splits else None


def _are_json(labels: Path) -> bool:
    """Whether the labels are those of LabelMe, not text."""
    suffixes = set[str]()
    for file in walk(labels):
        suffixes.add(file.suffix.lower())
        if ".txt" in suffixes:
            return False
    return ".json" in suffixes


def _by_split(folder: Path, inner: str) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {}
    for child in sorted(folder.iterdir()):
        split = SPLIT_NAMES.get(child.name.lower().rstrip("0123456789"))
        if split and (source := spelled(child, inner)) and source.is_dir():
            splits.setdefault(split, []).append(source)
    return splits


def _names_beside_labels(splits: dict[str, list[Path]], problems: list[Problem]) -> dict[str, dict[int, str]]:
    """Each split's class names, by index, from the classes.txt that labelImg leaves beside the labels; {} without."""
    labels, found = Labels(), dict[str, dict[int, str]]()
    for split, sources in splits.items():
        files = [file for source in sources if (file := spelled(labels.folder(source), "classes.txt"))]
        if files and (names := read_names(files[0], problems)):
            found[split] = dict(enumerate(names))
    for split in splits.keys() - found.keys() if len({tuple(names.values()) for names in found.values()}) > 1 else ():
        message = f"{split} has no classes.txt, and those of other splits differ; that of {next(iter(found))} is used"
        mend = "put the classes.txt beside its labels with which they were drawn"
        problems.append(Problem("ambiguous class", str(splits[split][0]), None, message, mend))
    return {split: found.get(split, next(iter(found.values()))) for split in splits} if found else {}


def _read_split(split: str, layout: Layout, folder: Path, used: set[Path]) -> Reading:
    """The split as annotated; adds its label files to `used`."""
    names = layout.split_names.get(split, layout.names)
    reading = Reading(names=list(names.values()))
    rows = [row for source in layout.splits[split] for row in _images(source, folder, reading)]
    names_of = [Path(path).stem for path, _, _ in rows]
    stems = Counter(names_of)
    for stem, (path, file, line) in zip(names_of, rows, strict=True):
        image_id = stem if stems[stem] == 1 else Path(os.path.relpath(path, folder)).as_posix()
        reading.images.append(ImageRow(path, image_id, None, file, line))
    drop_missing(reading)
    measure(reading)
    labels, lines, sizes = Labels(), list[Line](), dict[int, Size]()
    images_of: dict[Path, str] = {}  # by label file
    for index, image in enumerate(reading.images):
        path = Path(image.path)
        label_file = labels.of(path) or labels.alike(path)
        if label_file is None:
            continue
        if label_file.stem != path.stem:
            if label_file.stem in stems:  # it belongs to another image
                continue
            message, mend = f"{label_file} is read for {image.path}", "name both alike; other programs may not find it"
            reading.report("similar file name", label_file, None, message, mend)
        first = images_of.setdefault(label_file, image.path)
        if first != image.path:
            message = f"{first} and {image.path} share {label_file}: both get its boxes"
            reading.report(
                "shared annotation", image.file, image.line, message, "rename one, with a label file of its own"
            )
        if image.size:
            sizes[index] = image.size
            lines += _lines(label_file, index, reading)
    used.update(images_of)
    _add_boxes(lines, sizes, names, layout.keypoints, reading)
    for source in layout.splits[split]:
        if source.is_dir():  # a list may leave out images on purpose
            _report_unused(labels.folder(source), source, used, reading)
    return reading


def _images(source: Path, folder: Path, reading: Reading) -> Iterator[tuple[str, str, int | None]]:
    """(image, file that lists it, line) of a folder, or of a text file with one path per line."""
    if source.is_dir():
        for path in walk(source):
            if is_image(path.name):
                yield str(path), str(path), None
        return
    try:
        lines = read_text(source).splitlines()
    except DatasetError as error:
        reading.problems.append(problem_of(error))
        return
    folders = Folders()
    for line, text in enumerate(lines, 1):
        name = text.strip()
        if name and not is_path(name):
            message, mend = f"expected the path of an image, got {shown(name)}", "mend or remove the line"
            reading.report("malformed annotation", source, line, message, mend)
        elif name:
            found = locate(name, (source.parent, folder), folders)
            yield str(Path(found) if found else source.parent / name), str(source), line


def _lines(file: Path, image: int, reading: Reading) -> Iterator[Line]:
    try:
        lines = read_text(file).splitlines()
    except DatasetError as error:
        reading.problems.append(problem_of(error))
        return
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        line = parse(text, image, str(file), number)
        if isinstance(line, Unread):
            reading.report("malformed annotation", file, number, line.reason, line.mend)
        else:
            yield line


def _add_boxes(
    lines: list[Line], sizes: dict[int, Size], names: dict[int, str], keypoints: bool, reading: Reading
) -> None:
    columns = Columns(lines, keypoints)
    known = listed([f"{index} {name}" for index, name in names.items()])
    for line in lines:
        box = columns.box(line)
        if isinstance(box, Unread):
            reading.report("malformed annotation", line.file, line.number, box.reason, box.mend)
        elif names and line.index not in names:
            message = f"class {line.index} is not one of {known}"
            mend = "correct the index, or name the class in the YAML"
            reading.report("unknown class", line.file, line.number, message, mend)
        else:
            height, width = sizes[line.image]
            pixels = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
            name = names.get(line.index, str(line.index))
            reading.boxes.append(BoxRow(line.image, name, pixels, line.file, line.number))
    for group in columns.unused:
        message = f"{len(group)} lines like `{group[0].text}` have {group[0].extra} after the box, which is not used"
        reading.report("unused columns", group[0].file, group[0].number, message, "nothing to do if that is what it is")


def _report_unused(labels: Path, source: Path, used: set[Path], reading: Reading) -> None:
    """Report label files without an image, where they have a folder of their own."""
    if labels == source:
        return
    for file in walk(labels):
        if file.suffix.lower() == ".txt" and file not in used and file.name.lower() != "classes.txt":
            mend = "put the image there, or remove the file"
            reading.report("annotation without image", file, 1, "no image has this name", mend)


def _report_unlabelled(split: str, reading: Reading, folder: Path, used: dict[str, set[Path]]) -> None:
    """Report that no image of the split has a label file, if there are labels elsewhere."""
    others = set[Path]().union(*used.values())
    stems = {Path(image.path).stem for image in reading.images}
    alike = Counter(
        file.parent
        for file in walk(folder)
        if file.suffix.lower() == ".txt" and file.stem in stems and file not in others
    )
    looked = expected_folder(Path(reading.images[0].path).parent)
    message = f"none of the {len(reading.images)} images of {split} has a label file in {looked} or beside it"
    if alike:
        where, count = alike.most_common(1)[0]
        message += f"; {where} has {count} of their names"
        mend = f"move the label files to {looked}"
    elif others:
        message += ", though other splits have labels"
        mend = f"put label files into {looked}, or leave out {split}"
    else:
        return
    reading.report("split without labels", looked, None, message, mend)


def image_folder(split: str) -> str:
    """Where `write` expects the images of a split, or of "all"."""
    return "images" if split == "all" else f"images/{split}"


def write(splits: Mapping[str, Dataset], folder: Path) -> None:
    """Write a label file for each image, and data.yaml, or classes.txt for "all".

    Sizes are those of upright images. YOLO knows neither crowds nor difficult objects: they are written as others.
    """
    for split, dataset in splits.items():
        labels = folder / image_folder(split).replace("images", "labels")
        labels.mkdir(parents=True)
        for index in range(len(dataset)):
            rows = slice(dataset.offsets[index], dataset.offsets[index + 1])
            pairs = zip(dataset.labels[rows].tolist(), dataset.boxes[rows].tolist(), strict=True)
            lines = [_label_line(label, box, dataset.size(index)) for label, box in pairs]
            (labels / f"{dataset.path(index).stem}.txt").write_text("".join(lines), encoding="utf-8")
    names = next(iter(splits.values())).names
    if "all" in splits:
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    else:
        _write_yaml({split: image_folder(split) for split in splits}, names, folder)


def write_lists(splits: Mapping[str, Dataset], folder: Path) -> None:
    """Write a list of images for each split, as absolute paths, and data.yaml; labels stay beside the images."""
    for split, dataset in splits.items():
        paths = [os.path.abspath(dataset.path(index)) for index in range(len(dataset))]
        (folder / f"{split}.txt").write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    _write_yaml({split: f"{split}.txt" for split in splits}, next(iter(splits.values())).names, folder)


def _write_yaml(sources: dict[str, str], names: Sequence[str], folder: Path) -> None:
    content = {**sources, "names": dict(enumerate(names))}
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=2**31)
    (folder / "data.yaml").write_text(text, encoding="utf-8")


def _label_line(label: int, box: Sequence[float], size: Size) -> str:
    """All digits, so that reading gives the same float32 again."""
    (x1, y1, x2, y2), (height, width) = box, size
    values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return f"{label} {' '.join(map(str, values))}\n"
