"""Merging datasets by class name."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from boxwright.data.formats import open_dataset
from boxwright.data.formats.split import Splits
from boxwright.data.merge import merge
from boxwright.data.write import write_dataset
from shapes import write_shapes


def opened(path: Path) -> Splits:
    return open_dataset(path, draw=False)


def test_classes_of_one_name_are_one_and_images_are_renumbered(tmp_path: Path) -> None:
    first = opened(write_shapes(tmp_path / "a", {"train": 3, "val": 2}, seed=1))
    second = opened(write_shapes(tmp_path / "b", {"train": 4, "test": 1}, seed=2, format="voc"))
    renamed = ("triangle", "star", "circle")  # in place of circle, square, triangle
    for split, dataset in second.items():
        second[split] = replace(dataset, names=renamed)
    merged = merge([first, second])
    assert merged.names == ("circle", "square", "triangle", "star")
    assert {split: len(dataset) for split, dataset in merged.items()} == {"train": 7, "val": 2, "test": 1}
    assert [merged[split].image_id(i) for split in merged for i in range(len(merged[split]))] == list(range(1, 11))
    expected = Counter(first["train"].counts()) + Counter(second["train"].counts())
    assert {name: count for name, count in merged["train"].counts().items() if count} == dict(expected)
    assert merged["train"].boxes.tolist() == np.concatenate([first["train"].boxes, second["train"].boxes]).tolist()
    assert merged["train"].path(3) == second["train"].path(0)

    (note,) = write_dataset(merged, tmp_path / "out", "yolo").notes
    assert note.startswith("3 images got another name")  # 00000 to 00002 are in both train splits
    again = opened(tmp_path / "out")
    assert again.names == merged.names and len(again["train"]) == 7
    assert {split: sum(again[split].counts().values()) for split in again} == {
        split: len(merged[split].boxes) for split in merged
    }


def test_images_without_a_split_are_training_images_where_others_have_one(tmp_path: Path) -> None:
    divided = opened(write_shapes(tmp_path / "a", {"train": 2, "val": 1}))
    whole = opened(write_shapes(tmp_path / "b", 5, format="yolo"))
    assert {split: len(dataset) for split, dataset in merge([whole, divided]).items()} == {"train": 7, "val": 1}
    assert {split: len(dataset) for split, dataset in merge([whole, whole]).items()} == {"all": 10}
    with pytest.raises(ValueError, match="two datasets or more to merge, got 1"):
        merge([whole])
