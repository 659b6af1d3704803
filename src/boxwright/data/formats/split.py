"""Train, validation and test splits drawn by image content, so that no image is in two of them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from boxwright.data.dataset import Dataset
from boxwright.files import write_atomically

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


class Splits(dict[str, Dataset]):
    """The splits of a dataset: some of "train", "val", "test", with the same classes in the same order.

    source  the folder or file that was opened
    format  a key of `FORMATS`
    drawn   whether boxwright drew any of the splits itself, with this seed
    """

    def __init__(self, splits: dict[str, Dataset], source: Path, format: str, drawn: bool, seed: int) -> None:
        super().__init__(splits)
        self.source, self.format, self.drawn, self.seed = source, format, drawn, seed

    @property
    def names(self) -> tuple[str, ...]:
        return next(iter(self.values())).names

    def __missing__(self, split: str) -> Dataset:
        raise KeyError(f"{self.source} has no {split} split; it has {', '.join(self)}")

    def save(self, path: str | Path) -> None:
        """Write the images of each split as JSON, file names relative to the source's folder."""
        root = self.source if self.source.is_dir() else self.source.parent
        content = {
            "source": str(self.source),
            "format": self.format,
            "drawn": self.drawn,
            "seed": self.seed,
            **{split: [Path(os.path.relpath(data.paths[i], root)).as_posix() for i in range(len(data))]
               for split, data in self.items()},
        }  # fmt: skip
        write_atomically(path, json.dumps(content, indent=1))


def draw_splits(dataset: Dataset, seed: int, shares: dict[str, float] | None = None) -> dict[str, Dataset]:
    """Divide a dataset by content; `shares` of each split add up to 1 (default 80/10/10).

    The split of an image depends on its bytes and the seed alone: adding images moves no other, and copies of an
    image stay together. Shares are therefore met on average, not exactly. A split that would be empty gets the image
    whose draw is nearest; if there are fewer different images than splits, the last splits are missing from the result.
    """
    shares = SHARES if shares is None else shares
    draws = np.array([_draw(dataset.paths[i], seed) for i in range(len(dataset))])  # (N,) uniform in 0..1
    borders = np.cumsum(list(shares.values()))[:-1]
    split_of = np.searchsorted(borders, draws, side="right")  # (N,) 0..S-1
    _fill_empty(split_of, draws, len(shares))
    chosen = {split: np.flatnonzero(split_of == k) for k, split in enumerate(shares)}
    return {split: dataset.select(indices) for split, indices in chosen.items() if len(indices)}


def _draw(path: str, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed}:".encode(), digest_size=8)
    with open(path, "rb") as stream:
        hashlib.file_digest(stream, lambda: digest)
    return int.from_bytes(digest.digest(), "little") / 2**64


def _fill_empty(split_of: np.ndarray, draws: np.ndarray, num_splits: int) -> None:
    """Give each empty split, in order, the nearest image of the split that has most to spare; changes `split_of`."""
    needed = min(num_splits, len(np.unique(draws)))
    for split in range(needed):
        members = [np.unique(draws[split_of == k]) for k in range(num_splits)]  # copies of an image have one draw
        if not len(members[split]):
            donor = max(range(num_splits), key=lambda k: (len(members[k]) - (k < needed), k))
            split_of[draws == members[donor][-1 if split > donor else 0]] = split
