"""What is looked at before hours are spent: the data, the folder, the room on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np

from boxwright.bench.run.job import Effort
from boxwright.data.dataset import Dataset
from boxwright.data.formats import Splits
from boxwright.data.image import ImageError, read_image
from boxwright.progress import Progress


def parts_of(splits: Splits) -> tuple[dict[str, Dataset], str]:
    """Train, val and test, and what the last one is."""
    if "train" not in splits or "val" not in splits:
        raise ValueError(f"{splits.source}: a race needs a train and a val part; there are {', '.join(splits)}")
    tested = "test" if "test" in splits else "val"
    for part in ("train", "val", tested):
        if not len(splits[part].boxes):
            raise ValueError(f"{splits.source}: there is no object in the {part} part")
    said = "test" if tested == "test" else "val, for there is no test part: it has also chosen the epochs"
    return {"train": splits["train"], "val": splits["val"], "test": splits[tested]}, said


def fingerprint(parts: Mapping[str, Dataset]) -> str:
    """Another one where images come or go, or annotations are mended."""
    content = sha256()
    for part, dataset in parts.items():
        content.update("\n".join([part, *dataset.names, *(dataset.path(i).name for i in range(len(dataset)))]).encode())
        for column in (dataset.sizes, dataset.offsets, dataset.boxes, dataset.labels, dataset.crowd):
            content.update(np.ascontiguousarray(column).tobytes())
    return content.hexdigest()[:12]


def unreadable(dataset: Dataset) -> list[str]:
    """The images in which nobody can find anything."""
    found = []
    with Progress("read the test part", len(dataset)) as bar:
        for index in range(len(dataset)):
            try:
                read_image(dataset.path(index))
            except ImageError as error:
                found.append(str(error))
            bar.update()
    return found


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that there is."""
    return next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())


def need_room(folder: Path, efforts: Iterable[Effort], seeds: int) -> None:
    """Before hours are lost. A job keeps weights, their average, two moments of the optimizer, and two checkpoints."""
    sizes = [effort.bytes for effort in efforts]
    needed = 6 * seeds * sum(sizes) + 4 * max(sizes, default=0)  # the last: what is written beside an old file
    there = existing(folder)
    free = shutil.disk_usage(there).free
    if free < needed:
        raise OSError(
            f"{there} has {free / 1e6:.0f} MB left, and the race needs up to {needed / 1e6:.0f} MB; make room, give "
            "--out on another disk, or take fewer cells or seeds"
        )
