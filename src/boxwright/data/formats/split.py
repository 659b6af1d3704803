"""Train, validation and test parts drawn by what an image shows, so that one image never lies in two of them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from boxwright.data.dataset import Dataset

PARTS = {"train": 0.8, "val": 0.1, "test": 0.1}


class Splits(dict[str, Dataset]):
    """The parts of a dataset: some of "train", "val", "test", with the same classes in the same order.

    source  the folder or file that was opened
    format  "coco", "voc" or "yolo"
    made    whether boxwright drew any of the parts itself, with this seed
    """

    def __init__(self, parts: dict[str, Dataset], source: Path, format: str, made: bool, seed: int) -> None:
        super().__init__(parts)
        self.source, self.format, self.made, self.seed = source, format, made, seed

    @property
    def names(self) -> tuple[str, ...]:
        return next(iter(self.values())).names

    def __missing__(self, part: str) -> Dataset:
        raise KeyError(f"{self.source} has no {part} part; it has {', '.join(self)}")

    def save(self, path: str | Path) -> None:
        """Write which image is in which part as JSON, file names relative to the source's folder."""
        root = self.source if self.source.is_dir() else self.source.parent
        content = {
            "source": str(self.source),
            "format": self.format,
            "made": self.made,
            "seed": self.seed,
            **{part: [Path(os.path.relpath(data.paths[i], root)).as_posix() for i in range(len(data))]
               for part, data in self.items()},
        }  # fmt: skip
        Path(path).write_text(json.dumps(content, indent=1), encoding="utf-8")


def draw_parts(dataset: Dataset, seed: int, parts: dict[str, float] | None = None) -> dict[str, Dataset]:
    """Divide a dataset by content; `parts` are shares that add up to 1 (default 80/10/10).

    Each image's place is a function of its bytes and the seed alone: adding images moves no other, and copies of
    an image stay together. Shares are therefore met on average, not exactly. Only where a part would stay empty it
    takes the image nearest to it; with fewer different images than parts the last parts are not in the answer.
    """
    shares = dict(PARTS if parts is None else parts)
    draws = np.array([_draw(dataset.paths[i], seed) for i in range(len(dataset))])  # (N,) uniform in 0..1
    borders = np.cumsum(list(shares.values()))[:-1]
    place = np.searchsorted(borders, draws, side="right")
    _fill_empty(place, draws, len(shares))
    chosen = {part: np.flatnonzero(place == k) for k, part in enumerate(shares)}
    return {part: dataset.select(indices) for part, indices in chosen.items() if len(indices)}


def _draw(path: str, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed}:".encode(), digest_size=8)
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return int.from_bytes(digest.digest(), "little") / 2**64


def _fill_empty(place: np.ndarray, draws: np.ndarray, parts: int) -> None:
    """Give each empty part, the first ones first, the nearest image of the part that can best spare one."""
    needed = min(parts, len(np.unique(draws)))
    for part in range(needed):
        members = [np.unique(draws[place == k]) for k in range(parts)]  # copies of an image have one draw
        if not len(members[part]):
            donor = max(range(parts), key=lambda k: (len(members[k]) - (k < needed), k))
            place[draws == members[donor][-1 if part > donor else 0]] = part
