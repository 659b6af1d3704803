"""Find the problems of a dataset, with their file, line and remedy: decodes every image, checks every annotation."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from boxwright.data.formats import DatasetError, Problem, read_splits
from boxwright.data.formats.build import build
from boxwright.data.formats.reading import ImageRow, Reading, unreadable, without_collector
from boxwright.data.image import ImageError, is_image, read_reduced
from boxwright.data.threads import in_threads
from boxwright.device import cores
from boxwright.types import Size

__all__ = ["Problem", "check"]

_RANK = {"error": 0, "warning": 1, "note": 2}
_LISTED_PER_FOLDER = 20

Decoded = tuple[str, Size] | Problem
"""An image's fingerprint and size, or why it cannot be read."""


@without_collector()
def check(
    path: str | Path,
    format: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> list[Problem]:
    """All problems of a dataset, errors first, then by file and line; [] if there is none.

    path      as for `open_dataset`
    progress  called with the number of images decoded and their total
    workers   threads that decode; as many as there are cores if not given, at least 8, since they wait for the disk

    Two images are duplicates if they decode to the same pixels, whatever the names and formats of their files. Broken
    content never raises: a dataset that cannot be opened is one problem.
    """
    source = Path(path)
    try:
        format, readings = read_splits(source, format)
    except DatasetError as error:
        file = str(error.file or source)
        return [Problem("unreadable annotations", file, error.line, str(error), _how_to_open(source, error))]
    names = list(dict.fromkeys(name for reading in readings.values() for name in reading.names))
    problems = [p for reading in readings.values() for p in build(reading, names)[1] if p.kind != "unreadable image"]
    decoded = _decode_all(readings.values(), progress, workers)
    problems += [image for image in decoded.values() if isinstance(image, Problem)]
    problems += _ambiguous_names(names, source)
    problems += _duplicate_images(readings, decoded)
    problems += _not_listed(readings.values())
    for split, reading in readings.items():
        problems += _only_crowds(split, reading)
        problems += _without_boxes(reading, decoded)
        problems += _duplicate_boxes(reading)
    return sorted(dict.fromkeys(problems), key=lambda p: (_RANK[p.severity], p.file, p.line or 0))


def _how_to_open(source: Path, error: DatasetError) -> str:
    if not source.exists():
        return "check the path"
    if error.file is not None:
        return "correct this file, or export it again"
    if source.is_file():
        return "name the dataset's folder, or the .json or .yaml with its annotations"
    return "arrange the files in one of these layouts, or name the folder or file of the annotations"


def _decode_all(
    readings: Iterable[Reading], progress: Callable[[int, int], None] | None, workers: int | None
) -> dict[str, Decoded]:
    paths = list(dict.fromkeys(image.path for reading in readings for image in reading.images))
    decoded: dict[str, Decoded] = {}
    threads = workers or max(8, cores())
    for path, result in zip(paths, in_threads(_decode, paths, threads, most=4), strict=True):
        decoded[path] = result
        if progress:
            progress(len(decoded), len(paths))
    return decoded


def _decode(path: str) -> Decoded:
    try:
        pixels, _ = read_reduced(path)
    except ImageError as error:
        return unreadable(path, error)
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)  # without a copy, while other threads run
    return digest.hexdigest(), Size(*pixels.shape[:2])


def _only_crowds(split: str, reading: Reading) -> Iterator[Problem]:
    if reading.boxes and all(row.crowd for row in reading.boxes):
        row = reading.boxes[0]
        message = f"all {len(reading.boxes)} boxes of {split} are crowds, which are neither learnt nor counted"
        yield Problem("only crowds", row.file, row.line, message, "set `iscrowd` to 0 for boxes of single objects")


def _without_boxes(reading: Reading, decoded: dict[str, Decoded]) -> Iterator[Problem]:
    annotated = {row.image for row in reading.boxes}
    for index, image in enumerate(reading.images):
        if index not in annotated and not isinstance(decoded[image.path], Problem):
            message = f"{image.path} has no box"
            mend = "nothing to do if it shows no object: such images are useful as background"
            yield Problem("image without annotation", image.file, image.line, message, mend)


def _duplicate_images(readings: dict[str, Reading], decoded: dict[str, Decoded]) -> Iterator[Problem]:
    first: dict[str, tuple[str, ImageRow]] = {}
    for split, reading in readings.items():
        for image in reading.images:
            result = decoded[image.path]
            if isinstance(result, Problem):
                continue
            earlier_split, earlier = first.setdefault(result[0], (split, image))
            if earlier is image:
                continue
            if earlier_split == split:
                message = f"{image.path} has the same pixels as {earlier.path}"
                yield Problem("duplicate image", image.file, image.line, message, "keep one of them")
            else:
                message = f"{image.path} in {split} has the same pixels as {earlier.path} in {earlier_split}"
                mend = "remove it from one: metrics on training images are too good"
                yield Problem("image in two splits", image.file, image.line, message, mend)


def _not_listed(readings: Iterable[Reading]) -> Iterator[Problem]:
    """Images in the dataset's folders that no annotation names."""
    folders: defaultdict[str, set[str]] = defaultdict(set)
    for reading in readings:
        for image in reading.images:
            folder, name = os.path.split(image.path)
            folders[folder].add(name)
    for folder, listed in sorted(folders.items()):
        rest = sorted(name for name in os.listdir(folder) if is_image(name) and name not in listed)
        mend = "annotate it, or list it without boxes if it shows no object"
        for name in rest[:_LISTED_PER_FOLDER]:
            message = "no annotation names this image; it is not used"
            yield Problem("image not listed", os.path.join(folder, name), None, message, mend)
        if len(rest) > _LISTED_PER_FOLDER:
            message = f"no annotation names {len(rest) - _LISTED_PER_FOLDER} further images of this folder"
            yield Problem("image not listed", folder, None, message, mend)


def _duplicate_boxes(reading: Reading) -> Iterator[Problem]:
    rows = reading.boxes
    corners = np.array([row.box for row in rows], np.float64).reshape(-1, 4)
    labels: dict[str, int] = {}
    whose = np.array([(row.image, labels.setdefault(row.name, len(labels))) for row in rows], np.int64).reshape(-1, 2)
    order = np.lexsort((*corners.T, *whose.T))  # stable: of equal boxes the first comes first
    corners, whose = corners[order], whose[order]
    repeated = (corners[1:] == corners[:-1]).all(axis=1) & (whose[1:] == whose[:-1]).all(axis=1)
    first = np.maximum.accumulate(np.where(np.append([False], repeated), 0, np.arange(len(rows))))
    for index in np.flatnonzero(repeated) + 1:
        row, earlier = rows[order[index]], rows[order[first[index]]]
        where = "" if earlier.line is None else f", on line {earlier.line}"
        message = f"the same box of class {row.name} as before{where}"
        yield Problem("duplicate box", row.file, row.line, message, "keep one of them")


def _ambiguous_names(names: list[str], source: Path) -> Iterator[Problem]:
    for similar in similar_names(names):
        message = f"classes {' and '.join(map(repr, similar))} differ in spelling only, and count as different"
        yield Problem("ambiguous class", str(source), None, message, "spell them alike if they mean the same")


def similar_names(names: Iterable[str]) -> list[list[str]]:
    """Class names that differ in spelling only, such as `Traffic light` and `traffic_light`."""
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        spellings["".join(filter(str.isalnum, name.casefold()))].append(name)
    return [similar for similar in spellings.values() if len(similar) > 1]
