"""LabelMe JSON: shapes of every kind become boxes by hand, in the layouts that people keep them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boxwright.data.check import check
from boxwright.data.dataset import Dataset
from boxwright.data.formats import DatasetError, open_dataset, read_splits


def write(json_file: Path, image: Path, *shapes: dict[str, Any], **fields: Any) -> None:
    """An image of 40 x 30, unlike all others, and its annotation."""
    for path in (json_file, image):
        path.parent.mkdir(parents=True, exist_ok=True)
    colour = (len(str(image)), sum(map(ord, image.stem)) % 256, 99)
    Image.new("RGB", (40, 30), colour).save(image)
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": image.name,
        "imageData": "A" * 9000,
    }
    json_file.write_text(json.dumps(content | {"imageHeight": 30, "imageWidth": 40} | fields), encoding="utf-8")


def shape(kind: str | None, *points: tuple[float, float], label: str = "cat", **fields: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **fields}


RECTANGLE = shape("rectangle", (30, 25), (10, 5))


def content(folder: Path) -> list[tuple[str, tuple[float, ...]]]:
    """Names and boxes of the only image."""
    (dataset,) = open_dataset(folder).values()
    return boxes_of(dataset)


def boxes_of(dataset: Dataset) -> list[tuple[str, tuple[float, ...]]]:
    return [(dataset.names[k], tuple(box)) for k, box in zip(dataset.labels, dataset.boxes.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("drawn", "box"),
    [
        (RECTANGLE, (10, 5, 30, 25)),
        (shape("rectangle", (10, 5), (30, 5), (30, 25), (10, 25)), (10, 5, 30, 25)),
        (shape("polygon", (3, 9), (20.5, 2), (11, 28)), (3, 2, 20.5, 28)),
        (shape(None, (3, 9), (20.5, 2), (11, 28)), (3, 2, 20.5, 28)),
        (shape("circle", (20, 15), (23, 19)), (15, 10, 25, 20)),
        (shape("rotation", (20, 5), (30, 15), (20, 25), (10, 15)), (10, 5, 30, 25)),
        (shape("mask", (10, 5), (29, 24), mask="iVBORw0"), (10, 5, 30, 25)),
    ],
    ids=["rectangle", "four corners", "polygon", "without a type", "circle", "rotated", "mask"],
)
def test_the_box_of_a_shape(tmp_path: Path, drawn: dict[str, Any], box: tuple[float, ...]) -> None:
    write(tmp_path / "a.json", tmp_path / "a.png", drawn)
    assert content(tmp_path) == [("cat", box)]
    assert check(tmp_path) == []


def test_shapes_of_one_label_and_group_are_one_object(tmp_path: Path) -> None:
    parts = [shape("rectangle", (1, 1), (5, 5), group_id=7), shape("rectangle", (9, 3), (12, 20), group_id=7)]
    dog = shape("rectangle", (2, 2), (4, 4), label="dog", group_id=7)
    write(tmp_path / "a.json", tmp_path / "a.png", *parts, dog, shape("rectangle", (20, 20), (30, 30)))
    assert content(tmp_path) == [("cat", (1, 1, 12, 20)), ("dog", (2, 2, 4, 4)), ("cat", (20, 20, 30, 30))]


@pytest.mark.parametrize(
    "odd",
    [
        shape("point", (3, 4)),
        shape("line", (3, 4), (9, 9)),
        shape("linestrip", (3, 4), (9, 9), (5, 1)),
        shape("polygon", (3, 4), (9, 9)),
        shape("rectangle"),
        shape("rectangle", (1, 2)) | {"points": [[1, 2], [3]]},
        shape("rectangle", (1, 2)) | {"points": None},
        shape("rectangle", (1, 2), (10**400, 4)),
        RECTANGLE | {"label": " "},
        RECTANGLE | {"label": 3},
        "cat",
    ],
)
def test_what_has_no_box_is_named_and_the_rest_goes_on(tmp_path: Path, odd: Any) -> None:
    write(tmp_path / "a.json", tmp_path / "a.png", odd, RECTANGLE)
    with pytest.warns(UserWarning, match="1 × malformed annotation"):
        assert content(tmp_path) == [("cat", (10, 5, 30, 25))]
    (problem,) = check(tmp_path)
    assert problem.file == str(tmp_path / "a.json") and "shape 1 has no box" in problem.message


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"shapes": 3}', '{"version": "1"}'], ids=["empty", "torn", "list", "no list", "other"]
)
def test_a_broken_file_costs_its_image_only(tmp_path: Path, text: str) -> None:
    write(tmp_path / "a.json", tmp_path / "a.png", RECTANGLE)
    (tmp_path / "b.json").write_text(text)
    with pytest.warns(UserWarning, match="1 × malformed annotation"):
        assert len(content(tmp_path)) == 1


def test_text_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.json", tmp_path / "a.png", RECTANGLE)
    (tmp_path / "b.json").write_bytes('{"shapes": [], "imagePath": "狗.png"}'.encode("gbk"))
    (problem,) = [problem for problem in check(tmp_path) if problem.severity == "error"]
    assert problem.file == str(tmp_path / "b.json") and "UTF-8" in problem.message


@pytest.mark.parametrize(
    ("json_file", "image", "image_path"),
    [
        ("a.json", "a.png", "a.png"),
        ("a.json", "a.png", "name_before.png"),
        ("a.json", "photos.png", "photos.png"),
        ("json/a.json", "images/a.png", "..\\images\\a.png"),
        ("labels/a.json", "img/photo.png", "C:\\work\\img\\photo.png"),
        ("annotations/a.JSON", "a.png", None),
    ],
)
def test_where_the_image_is(tmp_path: Path, json_file: str, image: str, image_path: str | None) -> None:
    write(tmp_path / json_file, tmp_path / image, RECTANGLE, imagePath=image_path)
    (dataset,) = open_dataset(tmp_path).values()
    assert dataset.path(0) == tmp_path / image and dataset.image_id(0) == "a"


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.json", tmp_path / "a.png", RECTANGLE)
    write(tmp_path / "b.json", tmp_path / "b.png", RECTANGLE)
    (tmp_path / "b.png").unlink()
    with pytest.warns(UserWarning, match="1 × missing image"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("layout", ["{split}", "{split}/json", "labels/{split}"])
def test_splits_are_folders(tmp_path: Path, layout: str) -> None:
    for name, count in (("train", 3), ("Valid", 2), ("test", 1)):
        folder = tmp_path / layout.format(split=name)
        for i in range(count):
            write(folder / f"{i}.json", tmp_path / "images" / name / f"{i}.png", RECTANGLE)
    splits = open_dataset(tmp_path)
    assert {split: len(data) for split, data in splits.items()} == {"train": 3, "val": 2, "test": 1}
    assert not splits.drawn and splits["val"].path(0) == tmp_path / "images" / "Valid" / "0.png"


def test_files_beside_the_splits_are_train_or_named(tmp_path: Path) -> None:
    write(tmp_path / "a.json", tmp_path / "a.png", RECTANGLE)
    write(tmp_path / "test" / "b.json", tmp_path / "test" / "b.png", RECTANGLE)
    assert {split: data.image_id(0) for split, data in open_dataset(tmp_path).items()} == {"train": "a", "test": "b"}
    write(tmp_path / "train" / "c.json", tmp_path / "train" / "c.png", RECTANGLE)
    with pytest.warns(UserWarning, match="warning: file not used"):
        assert open_dataset(tmp_path)["train"].image_id(0) == "c"


def test_the_size_is_that_of_the_annotation_where_it_is_one(tmp_path: Path) -> None:
    write(tmp_path / "a.json", tmp_path / "a.png", RECTANGLE, imageHeight=None, imageWidth=None)
    write(tmp_path / "b.json", tmp_path / "b.png", RECTANGLE, imageHeight=-1, imageWidth="40")
    write(tmp_path / "c.json", tmp_path / "c.png", RECTANGLE, imageHeight=10**30, imageWidth=40)
    _, readings = read_splits(tmp_path)
    (reading,) = readings.values()
    assert [image.size for image in reading.images] == [None, None, None]
    assert [(problem.kind, problem.file) for problem in reading.problems] == [
        ("wrong size", str(tmp_path / f"{name}.json")) for name in "bc"
    ]


def test_class_names(tmp_path: Path) -> None:
    write(tmp_path / "a.json", tmp_path / "a.png", RECTANGLE, RECTANGLE | {"label": "ant"})
    assert open_dataset(tmp_path).names == ("ant", "cat")
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ncat\ndog\n")
    with pytest.warns(UserWarning, match="1 × unknown class"):
        assert open_dataset(tmp_path).names == ("cat", "dog")


def test_one_file_is_no_dataset(tmp_path: Path) -> None:
    write(tmp_path / "a.json", tmp_path / "a.png", RECTANGLE)
    with pytest.raises(DatasetError, match="LabelMe's annotation of one image; name its folder"):
        open_dataset(tmp_path / "a.json")


def test_images_without_shapes_are_background(tmp_path: Path) -> None:
    write(tmp_path / "a.json", tmp_path / "a.png", RECTANGLE)
    write(tmp_path / "b.json", tmp_path / "b.png")
    splits = open_dataset(tmp_path)
    assert sum(map(len, splits.values())) == 2
    assert np.concatenate([data.boxes for data in splits.values()]).tolist() == [[10, 5, 30, 25]]


def test_an_image_called_test_makes_no_coco_json(tmp_path: Path) -> None:
    for name in ("test", "a"):
        write(tmp_path / f"{name}.json", tmp_path / f"{name}.png", RECTANGLE)
    assert open_dataset(tmp_path).format == "labelme"


def test_of_two_images_of_one_name_the_one_in_the_json_counts(tmp_path: Path) -> None:
    write(tmp_path / "a.json", tmp_path / "a.png", RECTANGLE)
    Image.new("RGB", (20, 15)).save(tmp_path / "a.bmp")
    (dataset,) = open_dataset(tmp_path).values()
    assert dataset.path(0).name == "a.png" and boxes_of(dataset) == [("cat", (10, 5, 30, 25))]
