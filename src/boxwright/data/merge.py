"""Several datasets as one: classes that have the same name are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from boxwright.data.dataset import Dataset, concatenate
from boxwright.data.formats.split import Splits, in_order
from boxwright.files import sha256


def merge(datasets: Sequence[Splits]) -> Splits:
    """The images of all datasets, split by split, with the classes of all in the order in which they appear.

    datasets  as `open_dataset(..., draw=False)` gives them. Where some have splits, the images of one that has none
              become training images

    Image ids are counted from 1. Raises ValueError for fewer than two datasets.
    """
    if len(datasets) < 2:
        raise ValueError(f"expected two datasets or more to merge, got {len(datasets)}")
    names = tuple(dict.fromkeys(name for splits in datasets for name in splits.names))
    divided = any("all" not in splits for splits in datasets)
    parts: dict[str, list[Dataset]] = {}
    for splits in datasets:
        for split, dataset in splits.items():
            split = "train" if split == "all" and divided else split
            parts.setdefault(split, []).append(_labelled_by(names, dataset))
    merged = {split: concatenate(several) for split, several in parts.items()}
    first = 1
    for split, dataset in in_order(merged).items():
        merged[split] = replace(dataset, ids=np.arange(first, first + len(dataset), dtype=np.int64))
        first += len(dataset)
    return Splits(in_order(merged), datasets[0].source, datasets[0].format, (), datasets[0].seed)


def in_two_splits(splits: Splits) -> list[tuple[Path, str, Path, str]]:
    """Files of the same content in different splits: the later one and its split, then the first one and its split."""
    images = [(dataset.path(index), split) for split, dataset in splits.items() for index in range(len(dataset))]
    sizes = [path.stat().st_size for path, _ in images]
    often = Counter(sizes)
    first: dict[str, tuple[Path, str]] = {}
    found = []
    for (path, split), size in zip(images, sizes, strict=True):
        if often[size] == 1:
            continue  # no other file can have its content
        before, its_split = first.setdefault(sha256(path), (path, split))
        if its_split != split:
            found.append((path, split, before, its_split))
    return found


def _labelled_by(names: tuple[str, ...], dataset: Dataset) -> Dataset:
    new_label = np.array([names.index(name) for name in dataset.names], np.int64)
    return replace(dataset, names=names, labels=new_label[dataset.labels])
