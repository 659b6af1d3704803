"""What is wrong with a dataset, where, and how to mend it: every image decoded, every annotation looked at."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from boxwright.data.formats import DatasetError, Problem, read_parts
from boxwright.data.formats.reading import ImageRow, Reading, build, unreadable
from boxwright.data.image import is_image, read_image
from boxwright.files import sha256
from boxwright.types import Size

__all__ = ["Problem", "check"]

_RANK = {"error": 0, "warning": 1, "note": 2}
_LISTED_APIECE = 20

Look = tuple[str, Size] | Problem
"""An image's fingerprint and size, or why it cannot be read."""


def check(
    path: str | Path, format: str | None = None, progress: Callable[[int, int], None] | None = None, workers: int = 8
) -> list[Problem]:
    """All problems of a dataset, errors first, then by file and line; [] where nothing is wrong.

    path      as for `open_dataset`
    progress  called with the number of images decoded and their total
    workers   threads that decode

    Two images are the same where they decode to the same pixels, whatever their files are called. Never raises for
    what is in the dataset: one that cannot be opened at all is one problem.
    """
    source = Path(path)
    try:
        format, readings = read_parts(source, format)
    except DatasetError as error:
        place = str(error.file or source)
        return [Problem("unreadable annotations", place, error.line, str(error), _how_to_open(source, error))]
    names = list(dict.fromkeys(name for reading in readings.values() for name in reading.names))
    problems = [p for reading in readings.values() for p in build(reading, names)[1] if p.kind != "unreadable image"]
    looks = _look_at_all(readings.values(), progress, workers)
    problems += [look for look in looks.values() if isinstance(look, Problem)]
    problems += _same_names(names, source)
    problems += _same_images(readings, looks)
    problems += _not_listed(readings.values())
    for reading in readings.values():
        problems += _wrong_sizes(reading, looks)
        problems += _without_boxes(reading, looks)
        problems += _same_boxes(reading)
    return sorted(dict.fromkeys(problems), key=lambda p: (_RANK[p.severity], p.file, p.line or 0))


def _how_to_open(source: Path, error: DatasetError) -> str:
    if not source.exists():
        return "check the path"
    if error.file is not None:
        return "mend this file, or make it anew with the tool it came from"
    if source.is_file():
        return "name the dataset's folder, or the .json or .yaml with its annotations"
    return "arrange the files in a layout named here, or name the folder or file where the annotations are"


def _look_at_all(
    readings: Iterable[Reading], progress: Callable[[int, int], None] | None, workers: int
) -> dict[str, Look]:
    paths = list(dict.fromkeys(image.path for reading in readings for image in reading.images))
    looks: dict[str, Look] = {}
    with ThreadPoolExecutor(workers) as pool:
        for path, look in zip(paths, pool.map(_look, paths), strict=True):
            looks[path] = look
            if progress:
                progress(len(looks), len(paths))
    return looks


def _look(path: str) -> Look:
    try:
        pixels = read_image(path)
    except (OSError, ValueError) as error:
        return unreadable(path, error)
    fingerprint = sha256(repr(pixels.shape).encode() + pixels.tobytes())
    return fingerprint, Size(*pixels.shape[:2])


def _wrong_sizes(reading: Reading, looks: dict[str, Look]) -> Iterator[Problem]:
    for image in reading.images:
        look = looks[image.path]
        if isinstance(look, Problem) or image.size in (None, look[1]):
            continue
        said, true = (f"{size.width}×{size.height}" for size in (image.size, look[1]))
        message = f"says {said}, but {image.path} is {true}"
        turned = image.size == look[1][::-1]
        mend = "write the true size; look whether the boxes fit" + (
            ", for they may have been drawn on the image before it was turned upright by its EXIF tag"
            if turned
            else ", for the image may have been resized or exchanged since"
        )
        yield Problem("wrong size", image.file, image.line, message, mend)


def _without_boxes(reading: Reading, looks: dict[str, Look]) -> Iterator[Problem]:
    annotated = {row.image for row in reading.boxes}
    for index, image in enumerate(reading.images):
        if index not in annotated and not isinstance(looks[image.path], Problem):
            message = f"{image.path} has no box"
            mend = "nothing to do if it shows no object: such images teach what is background"
            yield Problem("image without annotation", image.file, image.line, message, mend)


def _same_images(readings: dict[str, Reading], looks: dict[str, Look]) -> Iterator[Problem]:
    first: dict[str, tuple[str, ImageRow]] = {}
    for part, reading in readings.items():
        for image in reading.images:
            look = looks[image.path]
            if isinstance(look, Problem):
                continue
            earlier_part, earlier = first.setdefault(look[0], (part, image))
            if earlier is image:
                continue
            if earlier_part == part:
                message = f"{image.path} shows the same as {earlier.path}"
                yield Problem("duplicate image", image.file, image.line, message, "keep one of them")
            else:
                message = f"{image.path} in {part} shows the same as {earlier.path} in {earlier_part}"
                mend = "take it out of one: what was trained on cannot be measured on"
                yield Problem("image in two splits", image.file, image.line, message, mend)


def _not_listed(readings: Iterable[Reading]) -> Iterator[Problem]:
    """Images that lie among the others but that no annotation names."""
    folders: defaultdict[str, set[str]] = defaultdict(set)
    for reading in readings:
        for image in reading.images:
            folder, name = os.path.split(image.path)
            folders[folder].add(name)
    for folder, listed in sorted(folders.items()):
        rest = sorted(name for name in os.listdir(folder) if is_image(name) and name not in listed)
        mend = "annotate it, or list it without boxes if it shows no object"
        for name in rest[:_LISTED_APIECE]:
            message = "no annotation names this image; it is not used"
            yield Problem("image not listed", os.path.join(folder, name), None, message, mend)
        if len(rest) > _LISTED_APIECE:
            message = f"nor are {len(rest) - _LISTED_APIECE} further images here named by any annotation"
            yield Problem("image not listed", folder, None, message, mend)


def _same_boxes(reading: Reading) -> Iterator[Problem]:
    seen: dict[tuple[object, ...], int | None] = {}
    for row in reading.boxes:
        key = (row.image, row.name, *row.box)
        if key in seen:
            where = "" if seen[key] is None else f" on line {seen[key]}"
            message = f"the same box of class {row.name} stands{where} already"
            yield Problem("duplicate box", row.file, row.line, message, "keep one of them")
        seen.setdefault(key, row.line)


def _same_names(names: list[str], source: Path) -> Iterator[Problem]:
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        spellings["".join(filter(str.isalnum, name.casefold()))].append(name)
    for similar in spellings.values():
        if len(similar) > 1:
            message = f"classes {' and '.join(map(repr, similar))} differ in spelling only, and are learnt as different"
            yield Problem("ambiguous class", str(source), None, message, "write them alike if they mean the same")
