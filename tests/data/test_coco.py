"""COCO JSON: every usual layout of file and images, classes, ids, and broken entries reported with their line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from boxwright.data.formats import DatasetError, coco, coco_usual, documents, open_dataset, read_splits
from boxwright.data.formats import coco_fields as fields
from boxwright.data.formats.reading import BoxRow, Problem


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
    "CVAT": ("annotations/instances_train.json", "images/train/a.png"),
    "upper case": ("Annotations/train.JSON", "Images/a.png"),
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
    with pytest.raises(DatasetError, match=f"train.json:{line}: .*expected COCO JSON") as caught:
        open_dataset(tmp_path)
    assert (caught.value.file, caught.value.line) == (file, line)


def test_elements_are_those_of_the_json_module(tmp_path: Path) -> None:
    content = document("a.png", "b.png", info={"year": 2017, "list": [1]}, licenses=[], extra=[[1], "x]", None, 2.5])
    for text in (json.dumps(content), json.dumps(content, indent=3), " \n" + json.dumps(content, indent=0) + "\n"):
        found: dict[str, list[Any]] = {}
        for key, element, line in documents._elements(text):
            found.setdefault(key, []).append(element)
            assert 1 <= line <= text.count("\n") + 1
        assert found == {key: value for key, value in content.items() if isinstance(value, list) and value}


def test_the_types_of_ids_are_looked_at_once() -> None:
    """A file may have a million annotations whose ids are of the other type."""

    class Counted(fields.Table):
        count = 0

        def __iter__(self) -> Iterator[fields.Id]:
            self.count += 1
            return super().__iter__()

    table = Counted({1: 0, 2: 1})
    assert [fields.meet(value, table) for value in ("1", 2, "3", "2")] == [1, 2, None, 2]
    assert fields.unmet("3", table) == 'the text "3" (ids there are numbers)' and table.count == 1


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    (tmp_path / "val.json").write_text(json.dumps(document("a.png")), encoding="utf-8-sig")
    assert len(open_dataset(tmp_path)["val"]) == 1


@pytest.mark.parametrize("value", [0, 0.0, False, None, "0", "false", "no", ""])
def test_a_flag_that_says_no(value: object, tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    content = document("a.png")
    content["annotations"][0] |= {"iscrowd": value, "difficult": value}
    target = open_dataset(write(tmp_path / "val.json", content))["val"].target(0)
    assert target.crowd.tolist() == target.difficult.tolist() == [False]


@pytest.mark.parametrize("key", ["iscrowd", "difficult"])
def test_a_flag_that_says_yes_or_nothing_known(key: str, tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    content = document("a.png", "a.png")
    content["annotations"][0][key] = "true"
    content["annotations"][1][key] = "maybe"
    (row,), (problem, *_) = read_first(write(tmp_path / "val.json", content))
    assert (row.crowd, row.difficult) == (key == "iscrowd", key == "difficult")
    assert problem.kind == "malformed annotation" and "are 0 or 1, got {" in problem.message


def read_first(file: Path) -> tuple[list[BoxRow], list[Problem]]:
    reading = next(iter(read_splits(file)[1].values()))
    return reading.boxes, reading.problems


@pytest.mark.parametrize(
    ("ids", "given", "met", "noted"),
    [
        ((1, 2), (1.0, 2.0), (1, 2), False),
        ((1.0, 2.0), (1, 2), (1, 2), False),
        ((1, 2), ("1", "2"), (1, 2), True),
        (("1", "2"), (1, 2.0), ("1", "2"), True),
        (("a1", "01"), ("a1", "01"), ("a1", "01"), False),
    ],
)
def test_ids_of_two_types_meet(
    ids: tuple[Any, Any], given: tuple[Any, Any], met: tuple[Any, Any], noted: bool, tmp_path: Path
) -> None:
    make_image(tmp_path / "a.png")
    content = document("a.png", "a.png")
    for section, key in (("images", "image_id"), ("categories", "category_id")):
        for i in range(2):
            content[section][i]["id"] = ids[i]
            content["annotations"][i][key] = given[i]
    file = write(tmp_path / "val.json", content)
    dataset = open_dataset(file)["val"]
    assert [dataset.image_id(i) for i in range(2)] == list(met)
    assert [dataset.names[label] for label in dataset.labels] == ["dog", "cat"]
    assert [(p.kind, p.severity) for p in problems_of(file)] == [("ids of two types", "note")] * (2 * noted)


@pytest.mark.parametrize(
    ("ids", "given", "message"),
    [
        ((1, 2), "01", 'is of image the text "01" (ids there are numbers), which'),
        (("1", "02"), 2, "is of image 2 (ids there are texts), which"),
        ((1, "2"), "1", 'is of image the text "1", which'),
        ((1, 2), 1.5, "is of image 1.5 (ids there are numbers), which"),
        ((1, 2), None, "is of image null (ids there are numbers), which"),
    ],
)
def test_ids_that_do_not_meet_are_shown_with_their_type(
    ids: tuple[Any, Any], given: object, message: str, tmp_path: Path
) -> None:
    make_image(tmp_path / "a.png")
    content = document("a.png", "a.png")
    for image, value in zip(content["images"], ids, strict=True):
        image["id"] = value
    content["annotations"] = [content["annotations"][0] | {"image_id": given}]
    (problem, *_) = problems_of(write(tmp_path / "val.json", content))
    assert problem.kind == "annotation without image" and message in problem.message


SQUARE = [10, 5, 30, 5, 30, 25, 10, 25]


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({"bbox": ["10", " 5", "20.0", "20"]}, []),
        ({"bbox": [], "segmentation": [SQUARE]}, ["box of a mask"]),
        ({"bbox": None, "segmentation": [SQUARE[:6], SQUARE[2:]]}, ["box of a mask"]),
        ({"bbox": None, "segmentation": SQUARE}, ["box of a mask"]),
        (
            {"bbox": None, "segmentation": {"size": [30, 40], "counts": [305, *[20, 10] * 19, 20, 275]}},
            ["box of a mask"],
        ),
        ({"bbox": None, "segmentation": {"size": [30, 40], "counts": "a9d0:" + "0" * 37 + "W9"}}, ["box of a mask"]),
        ({"bbox": [10, 5, 20, 20], "segmentation": [[0, 0, 1, 1, 2, 2]]}, []),
    ],
)
def test_boxes_as_text_and_of_masks(change: dict[str, Any], kinds: list[str], tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    content = document("a.png")
    content["annotations"][0] |= change
    (row,), problems = read_first(write(tmp_path / "val.json", content))
    assert row.box == (10, 5, 30, 25) and [problem.kind for problem in problems] == kinds


@pytest.mark.parametrize(
    "mask",
    [
        None,
        5,
        [],
        [[]],
        [[[]]],
        "abc",
        [[1, 2, 3]],
        [["x", "y"]],
        [[10**400, 1]],
        {"counts": "abc"},
        {"size": [30, 40], "counts": [1200]},
    ],
)
def test_a_mask_without_a_box(mask: object, tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    content = document("a.png", "a.png")
    content["annotations"][0] |= {"bbox": [], "segmentation": mask}
    boxes, (problem,) = read_first(write(tmp_path / "val.json", content))
    assert len(boxes) == 1 and problem.kind == "malformed annotation"


def test_names_that_are_numbers(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    content = document("a.png", categories=[{"id": 17, "name": 1}, {"id": 18, "name": 2}])
    assert open_dataset(write(tmp_path / "val.json", content))["val"].names == ("1", "2")


@pytest.mark.parametrize("order", [1, -1])
def test_a_head_category_named_like_its_class_is_no_duplicate(order: int, tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    head = {"id": 0, "name": "dog", "supercategory": "none"}
    content = document("a.png", categories=[head, {"id": 18, "name": "dog", "supercategory": "dog"}][::order])
    file = write(tmp_path / "val.json", content)
    assert open_dataset(file)["val"].names == ("dog",) and problems_of(file) == []
    content["annotations"].append(content["annotations"][0] | {"id": 1, "category_id": 0})
    assert [problem.kind for problem in problems_of(write(file, content))] == ["duplicate id"]


def test_the_name_of_an_image_in_its_url(tmp_path: Path) -> None:
    for folder in ("train2017", "val2017"):
        make_image(tmp_path / folder / "a b.png")
    content = document("", "")
    for image, folder in zip(content["images"], ("train2017", "val2017"), strict=True):
        image["coco_url"] = f"http://images.cocodataset.org/{folder}/a%20b.png?size=full"
    dataset = open_dataset(write(tmp_path / "lvis_v1_val.json", content))["val"]
    assert [dataset.path(i) for i in range(2)] == [tmp_path / "train2017" / "a b.png", tmp_path / "val2017" / "a b.png"]


@pytest.mark.parametrize(
    "name",
    [
        "/data/local-files/?d=photos%2Fa%20b.png",
        "http://localhost:8080/data/local-files/?d=photos/a%20b.png&token=1",
        "https://example.org/photos/a%20b.png?size=full",
    ],
)
def test_a_file_name_that_is_an_address_means_its_path(name: str, tmp_path: Path) -> None:
    make_image(tmp_path / "images" / "photos" / "a b.png")
    dataset = open_dataset(write(tmp_path / "val.json", document(name)))["val"]
    assert dataset.path(0) == tmp_path / "images" / "photos" / "a b.png"


@pytest.mark.parametrize(
    "name",
    ["cam0/a.png", "frames/cam0/a.png", "/content/frames/cam0/a.png", "D:\\frames\\cam0\\a.png", ".\\cam0\\a.png"],
)
def test_images_below_a_foreign_root_keep_their_folder(name: str, tmp_path: Path) -> None:
    for folder in ("cam0", "cam1"):
        make_image(tmp_path / "images" / folder / "a.png")
    names = (name, name.replace("cam0", "cam1"))
    dataset = open_dataset(write(tmp_path / "val.json", document(*names)))["val"]
    assert [dataset.path(i).parent.name for i in range(2)] == ["cam0", "cam1"]


@pytest.mark.parametrize("folder", ["default", "Train", "Train/Data"])
def test_images_in_a_folder_named_like_the_file(folder: str, tmp_path: Path) -> None:
    make_image(tmp_path / "images" / folder / "a.png")
    subset, *inner = folder.split("/")
    write(tmp_path / "annotations" / f"instances_{subset}.json", document("/".join([*inner, "a.png"])))
    assert read_first(tmp_path)[0][0].box == (1, 2, 11, 22)


def test_a_split_for_each_image_is_kept(tmp_path: Path) -> None:
    content = document("a.png", "b.png", "c.png")
    for image, split in zip(content["images"], ("valid", "train", "Test"), strict=True):
        make_image(tmp_path / "images" / image["file_name"], image["id"])
        image["split"] = split
    splits = open_dataset(write(tmp_path / "annotations.json", content))
    assert not splits.drawn and list(splits) == ["train", "val", "test"]
    assert [splits[split].image_id(0) for split in splits] == [1, 0, 2]
    assert all(data.boxes.tolist() == [[1, 2, 11, 22]] for data in splits.values())
    content["images"][0]["split"] = "restval"
    with pytest.warns(UserWarning, match="1 of 3 images, such as .*a.png, have no `split` called train, val or test"):
        assert open_dataset(write(tmp_path / "annotations.json", content)).drawn


def test_folders_named_like_splits_are_kept(tmp_path: Path) -> None:
    names = ("train/a.png", "val2017/deep/b.png", "train/c.png")
    for shade, name in enumerate(names):
        make_image(tmp_path / "images" / name, shade)
    content = document(*names)
    splits = open_dataset(write(tmp_path / "annotations.json", content))
    assert {split: [data.image_id(i) for i in range(len(data))] for split, data in splits.items()} == {
        "train": [0, 2],
        "val": [1],
    }
    for name in ("images/b.png", "images/train/b.png"):  # in no split, and all in one
        make_image(tmp_path / name, 1)
        content["images"][1]["file_name"] = name.removeprefix("images/")
        assert open_dataset(write(tmp_path / "annotations.json", content)).drawn


def test_images_that_are_in_several_folders(tmp_path: Path) -> None:
    for shade, name in enumerate(("train/a.png", "val/b.png", "train/c.png")):
        make_image(tmp_path / "images" / name, shade)
    file = write(tmp_path / "annotations.json", document("a.png", "b.png", "c.png"))
    splits = open_dataset(file)
    assert not splits.drawn and {split: len(data) for split, data in splits.items()} == {"train": 2, "val": 1}
    make_image(tmp_path / "images" / "val" / "a.png", 9)  # which one is annotated is not known
    with pytest.warns(UserWarning, match="left out 1 × missing image"):
        assert {split: len(data) for split, data in open_dataset(file).items()} == {"train": 1, "val": 1}
    make_image(tmp_path / "images" / "a.png", 10)
    with pytest.warns(UserWarning, match="have no folder called train, val or test; others have"):
        assert sum(map(len, open_dataset(file).values())) == 3


def test_the_case_of_a_folder_that_no_entry_names_is_no_note(tmp_path: Path) -> None:
    make_image(tmp_path / "Images" / "a.png")
    assert problems_of(write(tmp_path / "train.json", document("a.png"))) == []
    assert [p.kind for p in problems_of(write(tmp_path / "train.json", document("A.png")))] == ["similar file name"]


def test_a_file_without_a_split_is_train_unless_there_is_one(tmp_path: Path) -> None:
    for shade, name in enumerate("abcd"):
        make_image(tmp_path / f"{name}.png", shade)
    write(tmp_path / "annotations.json", document("a.png", "b.png"))
    write(tmp_path / "test.json", document("c.png"))
    splits = open_dataset(tmp_path)
    assert splits.drawn and {split: len(data) for split, data in splits.items()} == {"train": 1, "val": 1, "test": 1}
    write(tmp_path / "train.json", document("d.png"))
    with pytest.warns(UserWarning, match="annotations.json: warning: file not used: .*train.json.* read"):
        assert len(open_dataset(tmp_path)["train"]) == 1


def test_json_without_images_is_left_to_other_formats(tmp_path: Path) -> None:
    make_image(tmp_path / "images" / "a.png")
    write(tmp_path / "notes.json", {"categories": [{"id": 0, "name": "images"}], "info": {"year": 2024}})
    assert coco.find(tmp_path) is None
    for length in (10, 4090, 4096 + (1 << 20) - 4):  # the key may lie on the border of two blocks
        content = {"info": {"text": "x" * length}} | document("a.png")
        write(tmp_path / "notes.json", content)
        assert coco.find(tmp_path) == coco.Layout({"all": tmp_path / "notes.json"})


def test_a_byte_order_mark_of_utf_16(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    (tmp_path / "instances.json").write_text(json.dumps(document("a.png")), "utf-16")
    assert len(open_dataset(tmp_path)["train"]) == 1


def test_text_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_bytes(json.dumps(document("狗.png"), ensure_ascii=False).encode("gbk"))
    with pytest.raises(DatasetError, match="expected text in UTF-8, .* it looks like GBK") as caught:
        open_dataset(tmp_path)
    assert str(caught.value).startswith(f"{file}:1: error: unreadable annotations: expected")


def read_both(file: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, Any, Any]:
    """Whether the file is read at once, what `read_splits` gives then, and what it gives entry by entry."""
    found: list[bool] = []
    rows = coco_usual.Usual.rows

    def watched(*given: Any) -> list[BoxRow] | None:
        boxes = rows(*given)
        found.append(boxes is not None)
        return boxes

    monkeypatch.setattr(coco_usual.Usual, "rows", watched)
    at_once = read_splits(file)
    monkeypatch.setattr(coco_usual, "read", lambda file: None)
    return found == [True], at_once, read_splits(file)


def two_images(folder: Path) -> dict[str, Any]:
    """A document of two images that exist, with what most files have besides."""
    for name in ("a.png", "b.png"):
        make_image(folder / name)
    content = document("a.png", "b.png", info={"year": 2017}, licenses=[{"id": [1, {"a": "]}"}]}])
    content["annotations"][0]["segmentation"] = [[1, 2.5, 3, 4, 5, 6]]
    content["annotations"] += [
        {"image_id": 1, "category_id": 17, "bbox": [0.1, 0.2, 9007199254740990, 1e-7], "iscrowd": True, "id": 7},
        {"image_id": 0, "category_id": 18, "bbox": [0, 0, 0.1, 2], "area": None, "difficult": 1, "id": None},
    ]
    return content


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text + "\n",
        lambda text: json.dumps(json.loads(text), indent=1),
        lambda text: json.dumps(json.loads(text), indent=2).replace("\n", "\r\n"),
        lambda text: "\n\n" + text.replace("}, ", "},\n\n"),
        lambda text: text.replace("dog", "고양이"),
        lambda text: text.replace("dog", "d\\u00f6g"),
        lambda text: text.replace('"images": [', '"images": [ ', 1).replace("}, {", "}\n ,\n{"),
    ],
    ids=["line", "end", "indented", "windows", "blank", "unicode", "escape", "commas"],
)
def test_usual_files_are_read_at_once_with_the_same_result(
    change: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "all.json"
    file.write_bytes(change(json.dumps(two_images(tmp_path))).encode())
    fast, at_once, one_by_one = read_both(file, monkeypatch)
    assert fast and at_once == one_by_one
    assert len(at_once[1]["all"].boxes) == 4


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"images": [', '"annotations": [], "images": ['),
        ('"images": [', '"\\u0061nnotations": [], "images": ['),
        ('"id": 7', '"id": 1'),
        ('"id": 7', '"id": "7"'),
        ('"image_id": 1', '"image_id": 1.0'),
        ('"image_id": 1', '"image_id": "1"'),
        ('"image_id": 1', '"image_id": 9'),
        ('"category_id": 17', '"category_id": 9'),
        ('"iscrowd": true', '"iscrowd": 2'),
        ("9007199254740990", "9007199254740993"),
        ("9007199254740990", '"12"'),
        ("9007199254740990", "NaN"),
        ("[0, 0, 0.1, 2]", "[0, 0, 0.1]"),
        ('"year": 2017', '"year": "\xff"'),
        ('"year": 2017', '"year": "\\ud800"'),
        ('"year": 2017', '\r"year": 2017'),
        ('"year": 2017', '"year": ' + 2000 * "[" + 2000 * "]"),
        ('"year": 2017', '"year": 2017,'),
        ('"dog"}', '"dog"}]}'),
    ],
    ids=lambda text: text[:24],
)
def test_what_is_unusual_is_read_entry_by_entry(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps(two_images(tmp_path))
    assert old in text
    file = tmp_path / "all.json"
    file.write_bytes(text.replace(old, new, 1).encode("latin-1"))
    fast, at_once, one_by_one = read_both(file, monkeypatch)
    assert not fast and repr(at_once) == repr(one_by_one)  # NaN differs from itself
