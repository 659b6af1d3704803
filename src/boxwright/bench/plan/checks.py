"""Checks before hours are spent: the data, the folder, the free space on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from boxwright.bench.run.job import Effort
from boxwright.data.dataset import Dataset
from boxwright.data.formats import Splits
from boxwright.data.image import ImageError, read_reduced
from boxwright.progress import Progress
from boxwright.train.run import need_objects


def race_splits(splits: Splits) -> tuple[dict[str, Dataset], str]:
    """Train, val and test, and for people what the last one is."""
    if "train" not in splits or "val" not in splits:
        raise ValueError(f"{splits.source}: a race needs a train and a val split; there are {', '.join(splits)}")
    tested = "test" if "test" in splits else "val"
    need_objects(splits, ("train", "val", tested), splits.names)
    description = "test" if tested == "test" else "val, for there is no test split; the epochs are chosen on it too"
    return {"train": splits["train"], "val": splits["val"], "test": splits[tested]}, description


def race_folder(splits: Splits, out: str | Path | None) -> Path:
    """`out`, or runs/DATA-bench."""
    return Path(out) if out is not None else Path("runs") / f"{splits.source.resolve().stem}-bench"


def unreadable(dataset: Dataset) -> list[str]:
    """The errors of the images that cannot be read: no detector finds anything in them."""
    errors = []
    with Progress("read the test split", len(dataset)) as bar:
        for index in range(len(dataset)):
            try:
                read_reduced(dataset.path(index))
            except ImageError as error:
                errors.append(str(error))
            bar.update()
    return errors


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())


def need_room(folder: Path, efforts: Iterable[Effort], seeds: int) -> None:
    """Raises OSError where the disk is too full for a race: a job keeps weights, their average, two moments of the
    optimizer, and two checkpoints."""
    sizes = [effort.bytes for effort in efforts]
    needed = 6 * seeds * sum(sizes) + 4 * max(sizes, default=0)  # the last: a new file beside the old one
    parent = existing(folder)
    free = shutil.disk_usage(parent).free
    if free < needed:
        room = f"{parent} has {free / 1e6:.0f} MB left, and the race needs up to {needed / 1e6:.0f} MB"
        raise OSError(f"{room}; make room, give --out on another disk, or take fewer cells or seeds")
