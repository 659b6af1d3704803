"""Dataset: columns, targets, selection, restriction to classes, and a round trip through COCO JSON."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.data.dataset import Dataset, Strings
from boxwright.data.formats import open_dataset
from boxwright.data.formats.coco import write_coco
from boxwright.types import Size


@pytest.fixture
def pets(tmp_path: Path) -> Dataset:
    """Three images: a cat and a dog; nothing; a crowd of dogs and a difficult cat with a mask smaller than its box."""
    for name in ("a", "b", "ü"):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
    return Dataset(
        names=("cat", "dog"),
        paths=Strings.pack(str(tmp_path / f"{name}.png") for name in ("a", "b", "ü")),
        ids=np.array([7, 5, 9]),
        sizes=np.array([[30, 40]] * 3),
        offsets=np.array([0, 2, 2, 4]),
        boxes=np.array([[0, 0, 10, 10], [5.1, 5.2, 20.3, 20.7], [1, 2, 3, 4], [0, 0, 40, 30]], np.float32),
        labels=np.array([0, 1, 1, 0]),
        crowd=np.array([False, False, True, False]),
        difficult=np.array([False, False, False, True]),
        area=np.array([100, 235.6, 4, 600], np.float32),
    )


def columns(dataset: Dataset) -> list[list[object]]:
    names = ("sizes", "offsets", "boxes", "labels", "crowd", "difficult", "area")
    return [getattr(dataset, name).tolist() for name in names]


def test_an_image_and_its_objects(pets: Dataset) -> None:
    assert len(pets) == 3
    assert pets.path(2).name == "ü.png" and pets.path(2).is_file()
    assert pets.size(0) == Size(height=30, width=40)
    assert pets.image_id(1) == 5 and isinstance(pets.image_id(1), int)
    target = pets.target(2)
    assert target.boxes.tolist() == [[1, 2, 3, 4], [0, 0, 40, 30]] and target.boxes.dtype == torch.float32
    assert target.labels.tolist() == [1, 0] and target.labels.dtype == torch.int64
    assert target.crowd.tolist() == [True, False]
    assert target.difficult.tolist() == [False, True]
    assert target.area.tolist() == [4, 600]
    assert pets.counts() == {"cat": 2, "dog": 2}


def test_an_image_without_objects_has_an_empty_target(pets: Dataset) -> None:
    assert pets.target(1).boxes.shape == (0, 4) and len(pets.target(1)) == 0


def test_a_target_is_a_copy(pets: Dataset) -> None:
    pets.target(0).boxes.zero_()
    assert pets.boxes[0, 2] == 10


def test_indices_outside_are_refused(pets: Dataset) -> None:
    for call in (pets.path, pets.size, pets.image_id, pets.target):
        with pytest.raises(IndexError, match="3 is not in 0..2"):
            call(3)
    with pytest.raises(IndexError, match=r"-1\.\.2"):
        pets.select([2, -1])


def test_select_takes_images_in_the_order_given(pets: Dataset) -> None:
    chosen = pets.select([2, 0, 2])
    assert [chosen.image_id(i) for i in range(3)] == [9, 7, 9]
    assert chosen.offsets.tolist() == [0, 2, 4, 6]
    assert chosen.target(1).boxes.tolist() == pets.target(0).boxes.tolist()
    assert chosen.target(2).labels.tolist() == [1, 0]
    assert len(pets.select([])) == 0 and pets.select([]).boxes.shape == (0, 4)


def test_restrict_keeps_all_images_and_renames_labels(pets: Dataset) -> None:
    dogs = pets.restrict(["dog"])
    assert dogs.names == ("dog",) and len(dogs) == 3
    assert [dogs.target(i).labels.tolist() for i in range(3)] == [[0], [], [0]]
    assert dogs.target(2).crowd.tolist() == [True]
    assert pets.restrict(["dog", "cat"]).target(0).labels.tolist() == [1, 0]


def test_restrict_refuses_unknown_and_repeated_classes(pets: Dataset) -> None:
    with pytest.raises(ValueError, match="out of cat, dog; got cow; unknown: cow"):
        pets.restrict(["cow"])
    with pytest.raises(ValueError, match="twice"):
        pets.restrict(["cat", "cat"])


def test_a_coco_round_trip_changes_nothing(pets: Dataset, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "val.json"
    write_coco(pets, file)
    again = open_dataset(file)["val"]
    assert columns(again) == columns(pets)
    assert again.names == pets.names
    assert [again.image_id(i) for i in range(3)] == [7, 5, 9]
    assert [again.path(i).resolve() for i in range(3)] == [pets.path(i) for i in range(3)]
    assert json.loads(file.read_text())["images"][0]["file_name"] == "../a.png"


def test_random_boxes_survive_coco_to_the_last_bit(pets: Dataset, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 30, (4, 2, 2)), axis=1).reshape(4, 4)
    random = Dataset(**{**vars(pets), "boxes": corners.astype(np.float32)})
    write_coco(random, tmp_path / "test.json")
    assert (open_dataset(tmp_path / "test.json")["test"].boxes == random.boxes).all()


def test_a_column_is_an_array_so_that_workers_share_it(pets: Dataset) -> None:
    for name, column in vars(pets).items():
        arrays = [column] if isinstance(column, np.ndarray) else list(vars(column).values()) if name != "names" else []
        assert all(array.dtype != object for array in arrays), name
    assert columns(pickle.loads(pickle.dumps(pets))) == columns(pets)


def test_strings() -> None:
    words = Strings.pack(["", "ab", "日本"])
    assert [words[i] for i in range(3)] == ["", "ab", "日本"]
    assert words.select(np.array([2, 1])).buffer.nbytes == 8


def test_an_item_is_an_image_and_its_objects(pets: Dataset):
    image, target = pets[0]
    assert (image.dtype, image.shape, image.is_contiguous()) == (torch.uint8, (3, 30, 40), True)
    assert torch.equal(target.boxes, pets.target(0).boxes)
    assert [len(target) for _, target in pets] == [2, 0, 2]
    assert len(pets[-1][1]) == 2
    with pytest.raises(IndexError, match="3 is not in 0..2"):
        pets[3]


def test_an_item_of_a_turned_photograph_is_upright(pets: Dataset, tmp_path: Path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (30, 40)).save(tmp_path / "a.png", exif=exif)
    assert pets[0][0].shape == (3, 30, 40)
