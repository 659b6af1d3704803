"""COCO JSON: every usual layout of file and images, classes, ids, and broken entries reported with their line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from boxwright.data.formats import DatasetError, coco, open_dataset, read_splits
from boxwright.data.formats.reading import Problem


def make_image(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (shade, 0, 0)).save(path)


def document(*names: str, **changes: Any) -> dict[str, Any]:
    """An image of 40×30 for each name, with one box of class `dog`, whose category id comes after `cat`'s."""
    content = {
        "images": [{"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 18, "bbox": [1, 2, 10, 20], "area": 150.5, "iscrowd": 0}
            for i in range(len(names))
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
    }
    return content | changes


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))
    return path


def problems_of(file: Path) -> list[Problem]:
    return next(iter(read_splits(file)[1].values())).problems


LAYOUTS = {
    "json beside images": ("train.json", "images/a.png"),
    "as published": ("annotations/instances_train2017.json", "train2017/a.png"),
    "as published, images inside": ("annotations/instances_train2017.json", "images/train2017/a.png"),
    "annotations and images": ("annotations/train.json", "images/a.png"),
    "annotations and splits": ("annotations/train.json", "train/a.png"),
    "annotations and splits of images": ("annotations/train.json", "images/train/a.png"),
    "Roboflow": ("train/_annotations.coco.json", "train/a.png"),
    "beside the images": ("train.json", "a.png"),
    "one more folder": ("download/train.json", "download/images/a.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, tmp_path: Path) -> None:
    for split in ("train", "val"):
        file, image = (tmp_path / name.replace("train", split) for name in LAYOUTS[layout])
        make_image(image.with_name(f"{split}.png"))
        write(file, document(f"{split}.png"))
    splits = open_dataset(tmp_path)
    assert list(splits) == ["train", "val"] and splits.format == "coco" and not splits.drawn
    for split, dataset in splits.items():
        assert dataset.path(0).name == f"{split}.png" and dataset.path(0).is_file()
        target = dataset.target(0)
        assert target.boxes.tolist() == [[1, 2, 11, 22]] and target.area.tolist() == [150.5]
        assert dataset.names == ("cat", "dog") and target.labels.tolist() == [1]


def test_valid_means_val(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        make_image(tmp_path / split / "a.png")
        write(tmp_path / split / "_annotations.coco.json", document("a.png"))
    assert list(open_dataset(tmp_path)) == ["train", "val", "test"]


def test_a_file_named_like_a_split_is_that_split(tmp_path: Path) -> None:
    make_image(tmp_path / "images" / "a.png")
    assert list(open_dataset(write(tmp_path / "test.json", document("a.png")))) == ["test"]


def test_one_json_without_splits_is_divided(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(10)]
    for i, name in enumerate(names):
        make_image(tmp_path / "images" / name, shade=i)
    write(tmp_path / "annotations.json", document(*names))
    splits = open_dataset(tmp_path)
    assert splits.drawn and set(splits) == {"train", "val", "test"}
    assert sorted(int(data.image_id(i)) for data in splits.values() for i in range(len(data))) == list(range(10))


def test_other_json_files_are_ignored(tmp_path: Path) -> None:
    make_image(tmp_path / "val2017" / "a.png")
    write(tmp_path / "annotations" / "instances_val2017.json", document("a.png"))
    write(tmp_path / "annotations" / "captions_val2017.json", document("a.png"))
    write(tmp_path / "package.json", {"name": "nothing to do with it"})
    write(tmp_path / "detections_val.json", [{"image_id": 1}])
    assert list(open_dataset(tmp_path)) == ["val"]


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("train_a.json", "train_b.json"):
        write(tmp_path / name, document("a.png"))
    with pytest.raises(DatasetError, match="one COCO JSON for train, found train_a.json, train_b.json"):
        open_dataset(tmp_path)


def test_names_with_folders_and_of_other_machines(tmp_path: Path) -> None:
    make_image(tmp_path / "images" / "deep" / "a.png")
    make_image(tmp_path / "images" / "b.png")
    assert len(open_dataset(write(tmp_path / "val.json", document("deep/a.png")))["val"]) == 1
    assert len(open_dataset(write(tmp_path / "val.json", document("C:\\data\\b.png")))["val"]) == 1


def test_ids_as_strings_crowd_and_difficult(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    content = document("a.png")
    content["images"][0]["id"] = content["annotations"][0]["image_id"] = "n0001"
    content["annotations"][0] |= {"iscrowd": 1, "difficult": 1, "segmentation": {"counts": "abc", "size": [30, 40]}}
    dataset = open_dataset(write(tmp_path / "val.json", content))["val"]
    assert dataset.image_id(0) == "n0001"
    assert dataset.target(0).crowd.tolist() == [True] and dataset.target(0).difficult.tolist() == [True]


def test_splits_share_the_order_of_classes(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    write(tmp_path / "train.json", document("a.png"))
    write(tmp_path / "val.json", document("a.png", categories=[{"id": 18, "name": "cow"}, {"id": 19, "name": "cat"}]))
    splits = open_dataset(tmp_path)
    assert splits.names == splits["train"].names == splits["val"].names == ("cat", "dog", "cow")
    assert splits["val"].target(0).labels.tolist() == [2]


def test_a_category_that_is_only_a_supercategory_is_no_class(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    pets = {"id": 0, "name": "pets", "supercategory": "none"}
    categories = [pets, *({"id": i, "name": name, "supercategory": "pets"} for i, name in [(17, "cat"), (18, "dog")])]
    content = document("a.png", categories=categories)
    assert open_dataset(write(tmp_path / "val.json", content))["val"].names == ("cat", "dog")
    content["annotations"][0]["category_id"] = 0
    assert open_dataset(write(tmp_path / "val.json", content))["val"].names == ("pets", "cat", "dog")


def test_a_missing_size_is_read_from_the_image(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    content = document("a.png")
    del content["images"][0]["width"], content["images"][0]["height"]
    assert open_dataset(write(tmp_path / "val.json", content))["val"].size(0) == (30, 40)


def broken(section: str, change: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """A document whose second entry of a section is changed, and that section."""
    content = document("a.png", "a.png")
    content[section][1] |= change
    return content, section


BROKEN = [
    ("unknown class", *broken("annotations", {"category_id": 99}), "annotation 1 is of category 99, not one of"),
    ("annotation without image", *broken("annotations", {"image_id": 99}), "annotation 1 is of image 99"),
    ("duplicate id", *broken("annotations", {"id": 0}), "annotation 0 has the id of an earlier one"),
    ("malformed annotation", *broken("annotations", {"bbox": [1, 2, 3]}), "needs a `bbox` of four numbers"),
    ("malformed annotation", *broken("annotations", {"bbox": [1, 2, 3, "four"]}), "needs a `bbox` of four numbers"),
    ("malformed annotation", *broken("images", {"file_name": ""}), "needs an `id` and a `file_name`"),
    ("malformed annotation", *broken("categories", {"name": None}), "needs an `id` and a `name`"),
    ("duplicate id", *broken("images", {"id": 0}), "image id 0 (a.png) was given to an earlier image"),
    ("duplicate id", *broken("categories", {"id": 18}), "category 18 (cat) has the id"),
    ("missing image", *broken("images", {"file_name": "b.png"}), "b.png, there is none"),
    ("wrong size", *broken("images", {"width": 0}), "image 1 has height 30 and width 0"),
]


@pytest.mark.parametrize(("kind", "content", "section", "message"), BROKEN)
def test_a_broken_entry_is_named_with_its_line(
    kind: str, content: dict[str, Any], section: str, message: str, tmp_path: Path
) -> None:
    make_image(tmp_path / "a.png")
    file = write(tmp_path / "val.json", content)
    lines = [number for number, line in enumerate(file.read_text().splitlines(), 1) if line == "  {"]
    expected = lines[{"images": 1, "annotations": 3, "categories": 5}[section]]
    problem = problems_of(file)[0]
    assert (problem.kind, problem.file, problem.line) == (kind, str(file), expected)
    assert message in problem.message and problem.mend


def test_opening_leaves_broken_entries_out_and_counts_them(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    content = document("a.png", "a.png", "gone.png")
    content["annotations"][0]["bbox"] = [1, 2, 0, 5]
    content["annotations"][1]["category_id"] = 99
    file = write(tmp_path / "val.json", content)
    with pytest.warns(UserWarning, match="1 × missing image.*boxwright data check") as caught:
        dataset = open_dataset(file)["val"]
    assert len(caught) == 1
    assert all(f"1 × {kind}" in str(caught[0].message) for kind in ("degenerate box", "unknown class"))
    assert len(dataset) == 2 and len(dataset.boxes) == 0


def test_boxes_are_clipped_to_the_image(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    content = document("a.png")
    content["annotations"][0]["bbox"] = [-5, 10, 50, 50]
    target = open_dataset(write(tmp_path / "val.json", content))["val"].target(0)
    assert target.boxes.tolist() == [[0, 10, 40, 30]] and target.area.tolist() == [150.5]


def test_a_wrong_size_does_not_cost_boxes(tmp_path: Path) -> None:
    """The JSON says 20×10, but the image is 40×30, and the box lies well inside it."""
    make_image(tmp_path / "a.png")
    content = document("a.png")
    content["images"][0] |= {"width": 20, "height": 10}
    content["annotations"][0]["bbox"] = [25, 15, 10, 10]
    dataset = open_dataset(write(tmp_path / "val.json", content))["val"]
    assert dataset.size(0) == (30, 40) and dataset.target(0).boxes.tolist() == [[25, 15, 35, 25]]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"images": [\n{"id": 1,\n"file_name": }]}', 3),
        ('{"images": [\n{"id": 1}', 2),
        ('{"images": [{"id": 1}]\n"annotations": []}', 2),
        ('{"images": []}\nand more', 2),
        ("[]", 1),
        ("", 1),
    ],
)
def test_broken_json_is_an_error_with_its_line(text: str, line: int, tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text(text)
    with pytest.raises(DatasetError, match=f"train.json:{line}: .*not valid JSON") as caught:
        open_dataset(tmp_path)
    assert (caught.value.file, caught.value.line) == (file, line)


def test_elements_are_those_of_the_json_module(tmp_path: Path) -> None:
    content = document("a.png", "b.png", info={"year": 2017, "list": [1]}, licenses=[], extra=[[1], "x]", None, 2.5])
    for text in (json.dumps(content), json.dumps(content, indent=3), " \n" + json.dumps(content, indent=0) + "\n"):
        found: dict[str, list[Any]] = {}
        for key, element, line in coco._elements(text):
            found.setdefault(key, []).append(element)
            assert 1 <= line <= text.count("\n") + 1
        assert found == {key: value for key, value in content.items() if isinstance(value, list) and value}


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    (tmp_path / "val.json").write_text(json.dumps(document("a.png")), encoding="utf-8-sig")
    assert len(open_dataset(tmp_path)["val"]) == 1
