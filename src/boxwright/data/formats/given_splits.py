"""Splits that the data has itself: in the names of its files, in an entry of each image, or as folders of images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from boxwright.data.formats.reading import SPLIT_NAMES, DatasetError, Reading


@dataclass
class Layout:
    """The file or folder of each split, or of "all" if there are none; `unused` are others, with annotations too."""

    files: dict[str, Path]
    unused: list[Path] = field(default_factory=list)

    def report_unused(self, reading: Reading) -> None:
        for file in self.unused:
            message = f"no split is named in it, and {', '.join(map(str, self.files.values()))} are read"
            mend = "name its split in the file's name, or give the file itself"
            reading.report("file not used", file, None, message, mend)


def layout_of(files: Iterable[Path], folder: Path, kind: str, preferred: str = "") -> Layout | None:
    """The layout of files that each hold all annotations of one split, or of all; None if there is no file.

    kind       of the files, for the message
    preferred  how the names of files begin that count before others of their split

    A file without a split in its name is train where others have one and none is train. Raises DatasetError if
    several files could be the same split.
    """
    candidates: dict[str, list[Path]] = {}
    for file in files:
        candidates.setdefault(split_of(file, folder), []).append(file)
    trainval = candidates.pop("trainval", None)
    if trainval and "train" not in candidates:
        candidates["train"] = trainval
    unused: list[Path] = []
    if len(candidates) > 1 and (whole := candidates.pop("all", [])):
        unused = whole if candidates.setdefault("train", whole) is not whole else []
    for split, several in candidates.items():
        candidates[split] = best = [file for file in several if file.name.startswith(preferred)] or several
        if len(best) > 1:
            names = ", ".join(str(file.relative_to(folder)) for file in best)
            raise DatasetError(f"{folder}: expected one {kind} for {split}, found {names}; give the file itself")
    return Layout({split: several[0] for split, several in candidates.items()}, unused) if candidates else None


def split_of(file: Path, folder: Path) -> str:
    """One of train, val, test, trainval, by the words in the file's name or by its folder; otherwise all."""
    words = re.findall(r"[a-z]+", file.stem.lower()) + ([file.parent.name.lower()] if file.parent != folder else [])
    return next((SPLIT_NAMES.get(word, word) for word in words if word in SPLIT_NAMES or word == "trainval"), "all")


def divide(reading: Reading, splits: Mapping[int | str, str], folder: Path) -> dict[str, Reading]:
    """A reading for each of `splits`, which are by image id; without them, for each folder of images named like one.

    Splits that some images have and others do not are reported, and not used.
    """
    if not _complete(reading, splits, "`split`"):
        splits = {image.id: split for image in reading.images if (split := _split_in(image.path, folder))}
        if len(set(splits.values())) < 2 or not _complete(reading, splits, "folder"):
            return {"all": reading}
    readings = {split: Reading(reading.names, measured=reading.measured) for split in dict.fromkeys(splits.values())}
    new_index: list[int] = []
    for image in reading.images:
        images = readings[splits[image.id]].images
        new_index.append(len(images))
        images.append(image)
    for row in reading.boxes:
        split = splits[reading.images[row.image].id]
        readings[split].boxes.append(row._replace(image=new_index[row.image]))
    next(iter(readings.values())).problems = reading.problems
    return readings


def _complete(reading: Reading, splits: Mapping[int | str, str], kind: str) -> bool:
    """Whether every image has a split; reports if only some have one."""
    without = [image for image in reading.images if image.id not in splits]
    if splits and without:
        names = ", ".join(dict.fromkeys(splits.values()))
        message = f"{len(without)} of {len(reading.images)} images, such as {without[0].path}, have no {kind} called "
        message += f"train, val or test; others have ({names}), which is not used"
        mend = f"give every image a {kind} called so, or none"
        reading.report("split not used", without[0].file, without[0].line, message, mend)
    return bool(splits) and not without


def _split_in(path: str, folder: Path) -> str:
    """The split that a folder of the image is named like; "" if there is none."""
    parts = Path(os.path.relpath(path, folder)).parts[:-1]
    return next(filter(None, (SPLIT_NAMES.get(part.lower().rstrip("0123456789")) for part in parts)), "")
