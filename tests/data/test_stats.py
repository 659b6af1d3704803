"""The numbers that describe a dataset, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from boxwright.data.dataset import Dataset, Strings
from boxwright.data.stats import stats


def dataset(boxes: list[list[float]], labels: list[int], offsets: list[int], crowd: list[bool]) -> Dataset:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    return Dataset(
        names=("cat", "dog", "owl"),
        paths=Strings.pack(f"{i}.png" for i in range(len(offsets) - 1)),
        ids=np.arange(len(offsets) - 1),
        sizes=np.array([[100, 400]] * (len(offsets) - 1)),
        offsets=np.array(offsets),
        boxes=array,
        labels=np.array(labels, np.int64),
        crowd=np.array(crowd, bool),
        difficult=np.zeros(len(array), bool),
        area=(array[:, 2:] - array[:, :2]).prod(axis=1),
    )


TRAIN = dataset(
    [[0, 0, 20, 20], [0, 0, 40, 40], [0, 0, 200, 50], [0, 0, 300, 100]],
    [0, 0, 0, 1],
    [0, 3, 3, 4],
    [False, False, False, True],
)
VAL = dataset([[0, 0, 10, 40]], [1], [0, 1], [False])


def test_by_hand() -> None:
    found = stats({"train": TRAIN, "val": VAL})
    train, val = found.splits.values()
    assert (train.images, train.empty, train.boxes, train.crowds, train.difficult) == (3, 1, 4, 1, 0)
    assert (
        train.objects_per_image.greatest == 3 and train.objects_per_image.median == 0
    )  # of 3, 0 and 0: a crowd is none
    assert train.width.median == 400 and train.height.least == 100
    assert train.shift == pytest.approx(3 / 4 - 3 / 5)  # of cat and dog: 3 and 1, in all 3 and 2
    assert val.shift == pytest.approx(3 / 5)
    cat, dog, owl = found.classes.values()
    assert (cat.boxes, cat.images) == ({"train": 3, "val": 0}, {"train": 1, "val": 0})
    assert (cat.small, cat.medium, cat.large) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert cat.side[::2] == pytest.approx((20, 40, 100)) and cat.aspect[::2] == pytest.approx((1, 1, 4))
    assert cat.part.median == pytest.approx(40 / 200)
    assert dog.boxes == {"train": 1, "val": 1} and dog.aspect.median == pytest.approx(0.25)  # without the crowd
    assert owl.small is None and owl.side.median is None
    assert found.all.boxes == {"train": 4, "val": 1} and found.all.small == pytest.approx(2 / 4)
    assert found.missing == {"cat": ["val"]}


def test_a_split_without_a_box() -> None:
    empty = dataset([], [], [0, 0], [])
    found = stats({"train": TRAIN, "test": empty})
    assert found.splits["test"].shift is None and found.splits["test"].empty == 1
    assert stats({"test": empty}).all.side.median is None
    with pytest.raises(ValueError, match="at least one split"):
        stats({})
