"""Train, validation and test splits drawn by image content, so that no image is in two of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from boxwright.data.dataset import Dataset, concatenate
from boxwright.data.threads import in_threads
from boxwright.files import write_atomically
from boxwright.units import counted

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}

FEW_OBJECTS = 50
"""A split with fewer objects than this says little: one object more or less found moves its AP by over .02."""


class Splits(dict[str, Dataset]):
    """The splits of a dataset: some of "train", "val", "test", with the same classes in the same order; "all" alone
    where none was drawn.

    source  the folder or file that was opened
    format  a key of `FORMATS`
    drawn   the splits that boxwright drew itself, with this seed
    """

    def __init__(
        self, splits: dict[str, Dataset], source: Path, format: str, drawn: Collection[str], seed: int
    ) -> None:  # fmt: skip
        super().__init__(splits)
        self.source, self.format, self.drawn, self.seed = source, format, tuple(drawn), seed

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
            "drawn": bool(self.drawn),
            "seed": self.seed,
            **{split: [Path(os.path.relpath(data.paths[i], root)).as_posix() for i in range(len(data))]
               for split, data in self.items()},
        }  # fmt: skip
        write_atomically(path, json.dumps(content, indent=1))


def in_order(splits: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """train, val, test, or all."""
    return {split: splits[split] for split in ("all", "train", "val", "test") if split in splits}


def shares_with(val: float | None = None, test: float | None = None) -> dict[str, float]:
    """The shares of train, val and test with these fractions of the images; None stands for a tenth, 0 for no split.

    Raises ValueError unless something is left for train.
    """
    fractions = {"val": SHARES["val"] if val is None else val, "test": SHARES["test"] if test is None else test}
    for split, fraction in fractions.items():
        if not 0 <= fraction < 1:
            raise ValueError(f"expected the {split} fraction in 0..1, such as 0.2 for a fifth, got {fraction:g}")
    left = 1 - sum(fractions.values())
    if left <= 1e-9:
        raise ValueError(f"val {fractions['val']:g} and test {fractions['test']:g} leave nothing for train; lower one")
    return {"train": left} | {split: fraction for split, fraction in fractions.items() if fraction}


def few_objects(splits: Mapping[str, Dataset], drawn: Collection[str]) -> list[str]:
    """A sentence for each split with fewer than `FEW_OBJECTS` objects, crowds apart; `drawn` ones can be larger."""
    options = [f"--{split}-fraction" for split in drawn if split != "train"]
    sentences = []
    for split, dataset in splits.items():
        count = int((~dataset.crowd).sum())
        if count >= FEW_OBJECTS:
            continue
        why, mend = "measure AP", f"give it a larger --{split}-fraction, or " if split in drawn else ""
        if split == "train":
            why, mend = "learn from", f"take less out of it ({', '.join(options)}), or " if options else ""
        found = f"{split} has {counted(count, 'object')}, fewer than {FEW_OBJECTS}: too few to {why}"
        sentences.append(f"{found}; {mend}annotate more images")
    return sentences


def draw_splits(dataset: Dataset, seed: int, shares: dict[str, float] | None = None) -> dict[str, Dataset]:
    """Divide a dataset by content; `shares` of each split add up to 1 (default 80/10/10).

    The split of an image depends on its bytes and the seed alone: adding images moves no other, and copies of an
    image stay together. Shares are therefore met on average, not exactly. A split that would be empty gets the image
    whose draw is nearest; if there are fewer different images than splits, the last splits are missing from the result.
    """
    shares = SHARES if shares is None else shares
    paths = [dataset.paths[i] for i in range(len(dataset))]
    draws = np.array(list(in_threads(partial(_draw, seed=seed), paths)))  # (N,) uniform in 0..1
    borders = np.cumsum(list(shares.values()))[:-1]
    split_of = np.searchsorted(borders, draws, side="right")  # (N,) 0..S-1
    _fill_empty(split_of, draws, len(shares))
    chosen = {split: np.flatnonzero(split_of == k) for k, split in enumerate(shares)}
    return {split: dataset.select(indices) for split, indices in chosen.items() if len(indices)}


def draw_missing(
    given: Splits,
    seed: int = 0,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    again: bool = False,
) -> Splits:
    """Draw the splits that a dataset does not have, by content as `draw_splits` does.

    given      as `open_dataset(..., draw=False)` gives it
    fractions  of the images; a tenth if not given, 0 for no such split. Where there is a train split, what is missing
               is drawn out of it: val, and test if its fraction is given
    again      draw all splits, out of the images of all

    Raises ValueError where there is nothing to draw, or nothing to draw from.
    """
    shares = shares_with(val_fraction, test_fraction)
    if again or "all" in given:
        drawn = draw_splits(concatenate(list(given.values())), seed, shares)
        return Splits(in_order(drawn), given.source, given.format, drawn, seed)
    missing = [split for split in shares if split not in given and (split != "test" or test_fraction is not None)]
    if not missing or "train" not in given:
        lacks = "" if "train" in given else ", and none called train to draw from"
        raise ValueError(
            f"{given.source} has the splits {', '.join(given)}{lacks}; --redraw draws all of them again, and "
            "`boxwright data convert` writes them as they are"
        )
    left = {split: shares[split] for split in missing}
    drawn = draw_splits(given["train"], seed, {"train": 1 - sum(left.values()), **left})
    return Splits(in_order({**given, **drawn}), given.source, given.format, missing, seed)


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
