"""Write a dataset in another format, as a new folder that opens again: annotations, and its images copied or linked."""

from __future__ import annotations

import os
import shutil
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from boxwright.data.dataset import Dataset, Strings
from boxwright.data.formats import coco, open_dataset, voc, yolo
from boxwright.data.formats.split import Splits, in_order
from boxwright.data.formats.text import class_list
from boxwright.data.image import IMAGE_SUFFIXES, is_image, read_header
from boxwright.data.threads import in_threads
from boxwright.files import new_folder
from boxwright.units import counted

WRITERS: dict[str, Any] = {"coco": coco, "voc": voc, "yolo": yolo}
_TITLES = {"coco": "COCO", "voc": "VOC", "yolo": "YOLO"}

Images = Literal["copy", "link", "none"]


@dataclass(frozen=True)
class Written:
    """What `write_dataset` has made.

    images  of each split
    notes   what the format cannot express, and what is different for other reasons
    """

    folder: Path
    format: str
    images: dict[str, int]
    boxes: dict[str, int]
    notes: list[str]


def write_dataset(
    splits: Mapping[str, Dataset],
    out: str | Path,
    format: str,
    images: Images = "copy",
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write the splits, or the split "all", to a new folder that `open_dataset` opens.

    out       a folder that does not exist or is empty; it appears whole or not at all
    format    coco, voc or yolo
    images    copy, link (symbolic links), or none: COCO then names the images where they are; VOC and YOLO find images
              by their folder and name alone, so theirs have to be put there
    progress  called with the number of images done and their total, if they are copied or linked

    Boxes come back as they are: those of COCO and VOC to the last bit, those of YOLO within 1e-9 pixels. What the
    format cannot express is in the notes. Raises ValueError where `out` has files in it or lies in the dataset, OSError
    where a file cannot be written.
    """
    if format not in WRITERS:
        raise ValueError(f"expected a format out of {', '.join(WRITERS)} to write, got {format}")
    out = Path(out)
    check_outside(out, splits)
    splits = in_order(splits)
    notes: list[str] = []
    splits = _expressible(_named(splits, format, notes), format, notes)
    sources = {split: [dataset.path(i) for i in range(len(dataset))] for split, dataset in splits.items()}
    with new_folder(out, "--out") as folder:
        placed = _numbered(splits)
        if images != "none" or format != "coco":
            placed = _placed(placed, folder, WRITERS[format].image_folder, notes)
        WRITERS[format].write(placed, folder)
        if images == "none" and format != "coco":
            where = " and ".join(dict.fromkeys(f"{WRITERS[format].image_folder(split)}/" for split in splits))
            notes.append(
                f"the images were not written; put them into {where} of {out}, by the names of the annotations"
            )
        elif images != "none":
            pairs = [(source, placed[split].path(i)) for split in splits for i, source in enumerate(sources[split])]
            _put(pairs, images, progress)
        if (images != "none" or format == "coco") and (different := _difference(placed, folder, format)):
            notes.append(f"opened again, {different}: `boxwright data check {out}` gives the reasons")
    return _written(out, format, splits, notes)


def write_lists(splits: Splits, out: str | Path) -> Written:
    """Write only the files that name each split's images where they are: nothing is copied.

    A YOLO dataset gets a text file for each split and data.yaml, and keeps its label files; any other a COCO JSON for
    each split, and so does one whose label files do not fit one list of classes. Raises ValueError as `write_dataset`,
    and where there are no splits.
    """
    if "all" in splits:
        raise ValueError(f"{splits.source} has no splits to list; `draw_missing` draws them")
    if splits.format != "yolo":
        return write_dataset(splits, out, "coco", "none")
    out, given, format, notes = Path(out), in_order(splits), "yolo", list[str]()
    check_outside(out, splits)
    with new_folder(out, "--out") as folder:
        yolo.write_lists(given, folder)
        if different := _difference(given, folder, "yolo"):
            for file in folder.iterdir():
                file.unlink()
            coco.write(_numbered(given), folder)
            format = "coco"
            notes.append(
                f"lists of YOLO do not fit: with them, {different}; the label files do not all count the classes from "
                "0 in one order. These are COCO JSONs"
            )
    return _written(out, format, given, notes)


def _written(out: Path, format: str, splits: Mapping[str, Dataset], notes: list[str]) -> Written:
    images = {split: len(dataset) for split, dataset in splits.items()}
    return Written(out, format, images, {split: len(dataset.boxes) for split, dataset in splits.items()}, notes)


def check_outside(out: Path, splits: Mapping[str, Dataset]) -> None:
    """Raises ValueError where `out` is in the dataset or in a folder of its images, and would be read with them."""
    folders = {dataset.path(i).parent for dataset in splits.values() for i in range(len(dataset))}
    folders |= {splits.source} if isinstance(splits, Splits) else set()
    parents = set(Path(os.path.realpath(out)).parents)
    for folder in sorted(folders):
        if folder.is_dir() and (real := Path(os.path.realpath(folder))) in parents:
            raise ValueError(
                f"{out} lies in {real}, which belongs to the dataset that is read; give an --out beside it"
            )


def _named(splits: Mapping[str, Dataset], format: str, notes: list[str]) -> dict[str, Dataset]:
    """The splits with class names that the format can write: VOC and YOLO list them as lines."""
    given = next(iter(splits.values())).names
    names, _ = class_list("".join(letter if letter.isprintable() else "_" for letter in name) for name in given)
    if format == "coco" or tuple(names) == given:
        return dict(splits)
    changed = [f"{old!r} is {new!r}" for old, new in zip(given, names, strict=True) if old != new]
    notes.append(f"{_TITLES[format]} has classes as lines, without a blank at either end: {', '.join(changed)}")
    return {split: replace(dataset, names=tuple(names)) for split, dataset in splits.items()}


def _expressible(splits: Mapping[str, Dataset], format: str, notes: list[str]) -> dict[str, Dataset]:
    """The splits with what the format can express; the rest is named."""
    if format == "coco":
        return dict(splits)
    title, result = _TITLES[format], dict[str, Dataset]()
    named: dict[str, list[Path]] = defaultdict(list)
    for split, dataset in splits.items():
        if format == "yolo":
            dataset = _upright(dataset)
        sides = dataset.boxes[:, 2:] - dataset.boxes[:, :2]
        owners = dataset.owners()
        flat = (sides <= 1).any(axis=1) & (format == "voc") & ~dataset.crowd
        other_area = np.abs(dataset.area - sides.prod(axis=1)) > 1e-4 * np.abs(dataset.area)
        broken = (dataset.boxes % 1 != 0).any(axis=1) & (format == "voc")
        left_out = dataset.crowd | flat
        for key, rows in {
            "crowd": dataset.crowd,
            "flat": flat,
            "difficult": dataset.difficult & ~left_out & (format == "yolo"),
            "area": other_area & ~left_out,
            "broken": broken & ~left_out,
        }.items():
            named[key] += [dataset.path(owner) for owner in owners[rows].tolist()]
        result[split] = dataset.keep_boxes(~left_out)
    texts = {
        "crowd": f"{title} has no crowds: {{}} left out, such as in {{}}",
        "flat": "VOC has no box of a pixel's width or height, or less: {} left out, such as in {}",
        "difficult": "YOLO has no difficult objects: {} written as others, such as in {}",
        "area": f"{title} has no area but that of the box: that of {{}} is lost, such as in {{}}",
        "broken": "VOC counts whole pixels: {} written with decimals, which other readers may round, such as in {}",
    }
    notes += [
        text.format(counted(len(named[key]), "object"), named[key][0]) for key, text in texts.items() if named[key]
    ]
    return result


def _upright(dataset: Dataset) -> Dataset:
    """Boxes and sizes of the upright images, where an image was annotated as it is stored."""
    boxes, sizes = dataset.boxes.copy(), dataset.sizes.copy()
    headers = in_threads(read_header, [dataset.path(i) for i in range(len(dataset))])
    for i, header in enumerate(headers):
        size, orientation = header.upright, header.orientation
        if dataset.size(i) != size and dataset.size(i) == size[::-1]:
            rows = slice(dataset.offsets[i], dataset.offsets[i + 1])
            x1, y1, x2, y2 = boxes[rows].T
            height, width = dataset.size(i)
            across = (height - y2, height - y1) if orientation in (6, 7) else (y1, y2)
            down = (width - x2, width - x1) if orientation in (7, 8) else (x1, x2)
            boxes[rows] = np.stack([across[0], down[0], across[1], down[1]], axis=1)
            sizes[i] = size
    return replace(dataset, boxes=boxes, sizes=sizes)


def _numbered(splits: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """Image ids are kept if they are whole numbers, each once; otherwise images are counted from 1."""
    ids = [dataset.image_id(i) for dataset in splits.values() for i in range(len(dataset))]
    if all(isinstance(value, int) for value in ids) and len(set(ids)) == len(ids):
        return dict(splits)
    numbered, first = dict[str, Dataset](), 1
    for split, dataset in splits.items():
        numbered[split] = replace(dataset, ids=np.arange(first, first + len(dataset), dtype=np.int64))
        first += len(dataset)
    return numbered


def _placed(
    splits: Mapping[str, Dataset], folder: Path, image_folder: Callable[[str], str], notes: list[str]
) -> dict[str, Dataset]:
    """The splits with the paths that their images get; images of one folder differ by more than the suffix."""
    taken: dict[str, set[str]] = defaultdict(lambda: {"classes", "labels"})  # lists of classes beside labels
    placed, renamed = dict[str, Dataset](), list[tuple[str, str]]()
    for split, dataset in splits.items():
        inner, paths = image_folder(split), list[str]()
        for path in (dataset.path(i) for i in range(len(dataset))):
            name = _free_name(_plain_name(path), taken[inner])
            if name != path.name:
                renamed.append((str(path), name))
            paths.append(os.path.join(folder, inner, name))
        placed[split] = replace(dataset, paths=Strings.pack(paths))
    if renamed:
        before, after = renamed[0]
        notes.append(f"{counted(len(renamed), 'image')} got another name, to keep all apart: {before} is {after}")
    return placed


def _plain_name(path: Path) -> str:
    """The file's name, such that every format can write it: printable, not hidden, with one suffix of images."""
    name = "".join(letter if letter.isprintable() else "_" for letter in path.name)
    stem, suffix = os.path.splitext(name)
    if not is_image(f"x{suffix}"):
        stem, suffix = name, f".{read_header(path).format.lower()}"
        suffix = suffix if is_image(f"x{suffix}") else ".png"
    while os.path.splitext(stem)[1].lower() in IMAGE_SUFFIXES | {".xml"}:
        stem = os.path.splitext(stem)[0]
    return (stem.strip().lstrip(".") or "image") + suffix


def _free_name(name: str, taken: set[str]) -> str:
    """a.jpg, a-2.jpg, a-3.jpg; names that differ in case or suffix alone are the same. Adds to `taken`."""
    stem, suffix = os.path.splitext(name)
    free, number = stem, 1
    while free.casefold() in taken:
        number += 1
        free = f"{stem}-{number}"
    taken.add(free.casefold())
    return free + suffix


def _put(pairs: Sequence[tuple[Path, Path]], images: Images, progress: Callable[[int, int], None] | None) -> None:
    for folder in {to.parent for _, to in pairs}:
        folder.mkdir(parents=True, exist_ok=True)

    def put(pair: tuple[Path, Path]) -> None:
        source, to = pair
        if images == "copy":
            shutil.copyfile(source, to)
            return
        try:
            to.symlink_to(os.path.realpath(source))
        except OSError as error:
            message = f"cannot be linked to ({error.strerror or error}); take --images copy"
            raise OSError(error.errno or 0, message, str(source)) from error

    for done, _ in enumerate(in_threads(put, pairs, most=4), 1):
        if progress:
            progress(done, len(pairs))


def _difference(written: Mapping[str, Dataset], folder: Path, format: str) -> str:
    """How what was written differs once it is opened; "" if it does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            opened = open_dataset(folder, format=format, draw=False)
        except ValueError as error:
            return f"it is refused ({str(error).replace(f'{folder}{os.sep}', '')})"
    if list(opened) != list(written):
        return f"it has the splits {', '.join(opened)} in place of {', '.join(written)}"
    if opened.names != next(iter(written.values())).names:
        return "its classes are others"
    return next(filter(None, (_changed(split, written[split], opened[split]) for split in written)), "")


def _changed(split: str, written: Dataset, opened: Dataset) -> str:
    if len(opened) != len(written):
        return f"{split} has {len(opened)} of its {counted(len(written), 'image')}"
    expected, got = (dict(_by_path(dataset)) for dataset in (written, opened))
    for path, (labels, boxes) in expected.items():
        if path not in got:
            return f"{split} does not have {path}"
        if got[path][0] != labels or not np.allclose(got[path][1], boxes, rtol=0, atol=1e-3):
            return f"{split} has other boxes of {Path(path).name}"
    return ""


def _by_path(dataset: Dataset) -> Iterator[tuple[str, tuple[list[int], np.ndarray]]]:
    for i in range(len(dataset)):
        rows = slice(dataset.offsets[i], dataset.offsets[i + 1])
        path = dataset.path(i)
        yield (
            os.path.join(os.path.realpath(path.parent), path.name),
            (dataset.labels[rows].tolist(), dataset.boxes[rows]),
        )
