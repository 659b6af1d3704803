"""Writing datasets: exact boxes in every format and back, what a format cannot express, and nothing overwritten."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boxwright.data.dataset import Dataset, Strings
from boxwright.data.formats import open_dataset
from boxwright.data.formats.split import Splits, draw_missing, few_objects, shares_with
from boxwright.data.image import read_annotated
from boxwright.data.write import WRITERS, write_dataset, write_lists
from shapes import write_shapes

NAMES = ("dog", "no", "a: b", "<&>", "été 犬")


def make(
    folder: Path, name: str, boxes: list[list[float]], size: tuple[int, int] = (50, 100), **columns: list[Any]
) -> Dataset:
    """One image of height and width `size` with boxes of class 0."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size[1], size[0])).save(folder / name)
    array, count = np.array(boxes, np.float32).reshape(-1, 4), len(boxes)
    return Dataset(
        names=NAMES,
        paths=Strings.pack([str(folder / name)]),
        ids=np.array([7]),
        sizes=np.array([size]),
        offsets=np.array([0, count]),
        boxes=array,
        labels=np.zeros(count, np.int64),
        crowd=np.array(columns.get("crowd", [False] * count), bool),
        difficult=np.array(columns.get("difficult", [False] * count), bool),
        area=np.array(columns.get("area", (array[:, 2:] - array[:, :2]).prod(axis=1)), np.float32),
    )


def random_dataset(folder: Path, rng: np.random.Generator, whole: bool) -> Dataset:
    """Five images, the third without a box, with boxes wider than a pixel, of whole or of any coordinates."""
    folder.mkdir(parents=True)
    sizes, boxes, counts = rng.integers(20, 500, (5, 2)), [], []
    for i, (height, width) in enumerate(sizes.tolist()):
        Image.new("L", (width, height)).save(folder / f"{folder.name}{i}.png")
        corners = np.sort(rng.uniform(0, [width, height], (30, 2, 2)), axis=1).reshape(-1, 4)
        corners[:3] = [0, 0, width, height], [0, 0, 2, 2], [width - 2, height - 2, width, height]
        corners = corners.round() if whole else corners
        corners = corners[(corners[:, 2:] - corners[:, :2] > 1).all(axis=1)] if i != 2 else corners[:0]
        boxes.append(corners.astype(np.float32))
        counts.append(len(corners))
    rows = np.concatenate(boxes)
    return Dataset(
        names=NAMES,
        paths=Strings.pack(str(folder / f"{folder.name}{i}.png") for i in range(5)),
        ids=np.arange(5),
        sizes=sizes,
        offsets=np.cumsum([0, *counts]),
        boxes=rows,
        labels=rng.integers(0, len(NAMES) - 1, len(rows)),  # the last class has no box
        crowd=np.zeros(len(rows), bool),
        difficult=np.zeros(len(rows), bool),
        area=(rows[:, 2:] - rows[:, :2]).prod(axis=1),
    )


def test_the_numbers_of_each_format(tmp_path: Path) -> None:
    data = make(tmp_path / "given", "a.png", [[10, 20, 30, 45]])
    for format in WRITERS:
        written = write_dataset({"train": data}, tmp_path / format, format)
        assert (written.notes, written.images, written.boxes) == ([], {"train": 1}, {"train": 1})
    (annotation,) = json.loads((tmp_path / "coco" / "train.json").read_text())["annotations"]
    assert annotation["bbox"] == [10, 20, 20, 25]
    xml = (tmp_path / "voc" / "Annotations" / "a.xml").read_text()
    assert "<xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>45</ymax>" in xml
    assert (tmp_path / "voc" / "ImageSets" / "Main" / "train.txt").read_text() == "a\n"
    assert (tmp_path / "yolo" / "labels" / "train" / "a.txt").read_text() == "0 0.2 0.65 0.2 0.5\n"


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(WRITERS, 2)))
def test_boxes_are_the_same_in_every_format_and_back(first: str, second: str, whole: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(len(first + second))
    given = {"train": random_dataset(tmp_path / "a", rng, whole), "test": random_dataset(tmp_path / "b", rng, whole)}
    splits = given
    for step, format in enumerate((first, second, first, "coco")):
        out = tmp_path / str(step)
        notes = write_dataset(splits, out, format, "link" if step else "copy").notes
        assert all("decimals" in note for note in notes) and (not notes or not whole)
        splits = open_dataset(out, draw=False)
        assert (splits.format, list(splits), splits.names) == (format, ["train", "test"], NAMES)
    exact = "yolo" not in (first, second)
    for split, expected in given.items():
        got = splits[split]
        for column in ("sizes", "offsets", "labels", "crowd", "difficult"):
            assert getattr(got, column).tolist() == getattr(expected, column).tolist()
        assert np.abs(got.boxes.astype(np.float64) - expected.boxes).max() <= (0 if exact or whole else 1e-9)
        assert [got.path(i).name for i in range(5)] == [expected.path(i).name for i in range(5)]


def test_what_a_format_cannot_express_is_named(tmp_path: Path) -> None:
    boxes = [[0, 0, 20, 20], [5, 5, 6, 30], [10, 10, 30, 30], [40, 10, 60.5, 30], [0, 0, 50, 50]]
    crowd, difficult = [True, False, False, False, False], [False, False, True, False, False]
    area = [400, 25, 400, 410, 1700]  # that of the last is a mask's
    data = make(tmp_path / "given", "a.png", boxes, crowd=crowd, difficult=difficult, area=area)
    coco = write_dataset({"train": data}, tmp_path / "coco", "coco")
    again = open_dataset(tmp_path / "coco", draw=False)["train"]
    assert coco.notes == [] and coco.boxes == {"train": 5}
    for column in ("boxes", "crowd", "difficult", "area", "ids"):
        assert getattr(again, column).tolist() == getattr(data, column).tolist()

    voc = write_dataset({"train": data}, tmp_path / "voc", "voc")
    again = open_dataset(tmp_path / "voc", draw=False)["train"]
    assert again.boxes.tolist() == data.boxes[2:].tolist() and again.difficult.tolist() == [True, False, False]
    crowds, flat, areas, decimals = voc.notes
    assert crowds == f"VOC has no crowds: 1 object left out, such as in {tmp_path}/given/a.png"
    assert flat.startswith("VOC has no box of a pixel's width or height, or less: 1 object left out")
    assert areas.startswith("VOC has no area but that of the box: that of 1 object is lost")
    assert decimals.startswith("VOC counts whole pixels: 1 object written with decimals")

    yolo = write_dataset({"train": data}, tmp_path / "yolo", "yolo")
    again = open_dataset(tmp_path / "yolo", draw=False)["train"]
    assert again.boxes.tolist() == data.boxes[1:].tolist() and not again.difficult.any()
    assert [note.partition(":")[0] for note in yolo.notes] == [
        "YOLO has no crowds",
        "YOLO has no difficult objects",
        "YOLO has no area but that of the box",
    ]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_images_that_were_annotated_as_stored_are_turned_for_yolo(orientation: int, tmp_path: Path) -> None:
    data = make(tmp_path / "given", "a.png", [[5, 10, 25, 18]], size=(40, 90))
    pixels = np.zeros((40, 90), np.uint8)
    pixels[10:18, 5:25] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(data.path(0), exif=exif)
    write_dataset({"train": data}, tmp_path / "yolo", "yolo")
    again = open_dataset(tmp_path / "yolo", draw=False)["train"]
    assert again.size(0) == (90, 40)
    image, _ = read_annotated(again.path(0), again.size(0))
    rows, columns = np.nonzero(image[..., 0])
    assert again.boxes.tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]


@pytest.mark.parametrize("format", WRITERS)
def test_images_are_copied_linked_or_left(format: str, tmp_path: Path) -> None:
    given = open_dataset(write_shapes(tmp_path / "given", 4, format="voc"), draw=False)
    for how in ("copy", "link", "none"):
        written = write_dataset(given, tmp_path / how, format, how)
        images = [path for path in (tmp_path / how).rglob("*.png")]
        assert (len(images), {path.is_symlink() for path in images}) == (
            (0, set()) if how == "none" else (4, {how == "link"})
        )
        assert bool(written.notes) == (how == "none" and format != "coco")
        assert not (tmp_path / how / "ImageSets").exists()
        if how != "none" or format == "coco":
            again = open_dataset(tmp_path / how, draw=False)
            assert list(again) == ["all"] and again.names == given.names
            assert np.allclose(again["all"].boxes, given["all"].boxes, rtol=0, atol=1e-9)
    if format != "coco":  # the images can be put there by hand
        shutil.copytree(next((tmp_path / "copy").rglob("*.png")).parent, tmp_path / "none" / written_folder(format))
        assert len(open_dataset(tmp_path / "none", draw=False)["all"]) == 4


def written_folder(format: str) -> str:
    return WRITERS[format].image_folder("all")


def test_nothing_is_overwritten_and_no_part_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = open_dataset(write_shapes(tmp_path / "given", {"train": 2}), draw=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="names a new folder, and .*full has files in it"):
        write_dataset(given, tmp_path / "full", "voc")
    with pytest.raises(ValueError, match="mine.txt is a file"):
        write_dataset(given, tmp_path / "full" / "mine.txt", "voc")
    for inside in (tmp_path / "given" / "voc", tmp_path / "given" / "images" / "voc"):
        with pytest.raises(ValueError, match="belongs to the dataset"):
            write_dataset(given, inside, "voc")
    with pytest.raises(ValueError, match="expected a format out of coco, voc, yolo to write, got csv"):
        write_dataset(given, tmp_path / "csv", "csv")
    before = sorted(tmp_path.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        write_dataset(given, tmp_path / "out", "voc")

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # of a file system without links

    monkeypatch.setattr(Path, "symlink_to", refused)
    with pytest.raises(OSError, match="take --images copy"):
        write_dataset(given, tmp_path / "out", "voc", "link")
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "empty").mkdir()
    monkeypatch.undo()
    write_dataset(given, tmp_path / "empty", "voc")
    assert len(open_dataset(tmp_path / "empty", draw=False)["train"]) == 2


@pytest.mark.parametrize("format", WRITERS)
def test_images_of_equal_and_of_odd_names_stay_apart(format: str, tmp_path: Path) -> None:
    names = ["a/x.png", "b/x.png", "b/X.jpg", "a/x-2.png", ".hidden.png", "two.jpg.png", "classes.png", "line\nend.png"]
    parts = [make((tmp_path / "in" / name).parent, Path(name).name, [[k, 0, 50, 50]]) for k, name in enumerate(names)]
    shutil.copyfile(parts[0].path(0), tmp_path / "in" / "photo")
    Image.new("L", (100, 50)).save(tmp_path / "in" / "photo", "JPEG")
    paths = [str(part.path(0)) for part in parts] + [str(tmp_path / "in" / "photo")]
    boxes = np.array([[k, 0, 50, 50] for k in range(len(paths))], np.float32)
    count = len(paths)
    data = Dataset(
        NAMES, Strings.pack(paths), Strings.pack(map(str, range(count))), np.array([[50, 100]] * count),
        np.arange(count + 1), boxes, np.zeros(count, np.int64), np.zeros(count, bool), np.zeros(count, bool),
        (boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
    )  # fmt: skip
    (renamed,) = write_dataset({"all": data}, tmp_path / "out", format).notes
    assert f"{count - 1} images got another name, to keep all apart: {tmp_path}/in/b/x.png is x-2.png" == renamed
    again = open_dataset(tmp_path / "out", draw=False)["all"]
    found = {again.path(i).name: again.target(i).boxes[0, 0].item() for i in range(len(again))}
    assert found == {
        "x.png": 0, "x-2.png": 1, "X-3.jpg": 2, "x-2-2.png": 3, "hidden.png": 4, "two.png": 5, "classes-2.png": 6,
        "line_end.png": 7, "photo.jpeg": 8,
    }  # fmt: skip


def test_a_class_name_that_a_format_cannot_write_is_changed_and_named(tmp_path: Path) -> None:
    data = make(tmp_path / "in", "a.png", [[1, 2, 30, 40]])
    odd = replace(data, names=(" dog", "dog", "a\nb", *NAMES[3:]))
    for format in ("voc", "yolo"):
        (note,) = write_dataset({"all": odd}, tmp_path / format, format).notes
        assert note.endswith(r"without a blank at either end: ' dog' is 'dog', 'dog' is 'dog (2)', 'a\nb' is 'a_b'")
        assert open_dataset(tmp_path / format, draw=False).names == ("dog", "dog (2)", "a_b", *NAMES[3:])
    assert write_dataset({"all": odd}, tmp_path / "coco", "coco").notes == []
    assert open_dataset(tmp_path / "coco", draw=False).names == odd.names


def test_boxes_that_are_not_read_again_are_named(tmp_path: Path) -> None:
    data = make(tmp_path / "in", "a.png", [[0, 0, 1, 1]])  # read as a box in shares
    (note,) = write_dataset({"train": data}, tmp_path / "out", "coco").notes
    assert note.startswith("opened again, ") and f"`boxwright data check {tmp_path / 'out'}`" in note


@pytest.mark.parametrize("format", ["coco", "voc", "yolo", "labelme", "csv"])
def test_drawn_splits_open_again_as_lists_and_as_folders(format: str, tmp_path: Path) -> None:
    source = write_shapes(tmp_path / "given", 12, format=format)
    before = sorted(source.rglob("*"))
    expected = open_dataset(source, seed=3)
    splits = draw_missing(open_dataset(source, draw=False), seed=3)
    write_lists(splits, tmp_path / "lists")
    write_dataset(splits, tmp_path / "folders", format if format in WRITERS else "coco")
    for out in ("lists", "folders"):
        again = open_dataset(tmp_path / out)
        assert not again.drawn and list(again) == list(expected) and again.names == expected.names
        for split, dataset in expected.items():
            names = [dataset.path(i).name for i in range(len(dataset))]
            assert [again[split].path(i).name for i in range(len(dataset))] == names
            assert np.allclose(again[split].boxes, dataset.boxes, rtol=0, atol=1e-9)
    assert again["train"].path(0).parent != expected["train"].path(0).parent
    assert sorted(source.rglob("*")) == before and not list((tmp_path / "lists").rglob("*.png"))


def test_splits_of_yolo_labels_that_count_otherwise_are_listed_by_coco(tmp_path: Path) -> None:
    source = write_shapes(tmp_path / "given", {"train": 4, "val": 2}, format="yolo")
    yaml = source / "data.yaml"
    yaml.write_text(yaml.read_text().replace("names: [circle, square, triangle]", "names: {0: c, 2: t, 1: s}"))
    given = open_dataset(source, draw=False)
    assert write_lists(given, tmp_path / "good").notes == [] and (tmp_path / "good" / "train.txt").exists()
    yaml.write_text(yaml.read_text().replace("names: {0: c, 2: t, 1: s}", "names: {0: c, 2: t}"))
    with pytest.warns(UserWarning, match="unknown class"):
        given = open_dataset(source, draw=False)
    written = write_lists(given, tmp_path / "lists")
    assert written.format == "coco" and "do not all count the classes" in written.notes[0]
    assert {file.name for file in (tmp_path / "lists").iterdir()} == {"train.json", "val.json"}
    again = open_dataset(tmp_path / "lists")
    assert again.names == ("c", "t") and again["train"].boxes.tolist() == given["train"].boxes.tolist()
    with pytest.raises(ValueError, match="no splits to list"):
        write_lists(open_dataset(write_shapes(tmp_path / "whole", 3), draw=False), tmp_path / "never")


def sizes(splits: Splits) -> dict[str, int]:
    return {split: len(dataset) for split, dataset in splits.items()}


def test_what_is_missing_is_drawn_and_what_is_there_stays(tmp_path: Path) -> None:
    given = open_dataset(write_shapes(tmp_path / "a", {"train": 30, "test": 4}), draw=False)
    splits = draw_missing(given, val_fraction=0.3)
    assert sizes(splits)["test"] == 4 and sizes(splits)["train"] + sizes(splits)["val"] == 30
    assert 3 <= sizes(splits)["val"] <= 15 and list(splits) == ["train", "val", "test"]
    splits = draw_missing(given, test_fraction=0, again=True)
    assert sum(sizes(splits).values()) == 34 and list(splits) == ["train", "val"]
    full = open_dataset(write_shapes(tmp_path / "b", {"train": 3, "val": 1}), draw=False)
    with pytest.raises(ValueError, match="has the splits train, val; --redraw draws"):
        draw_missing(full)
    assert list(draw_missing(full, test_fraction=0.4)) == ["train", "val", "test"]
    with pytest.raises(ValueError, match="has the splits test, and none called train"):
        draw_missing(open_dataset(write_shapes(tmp_path / "c", {"test": 3}), draw=False))


def test_fractions_and_few_objects() -> None:
    assert shares_with() == pytest.approx({"train": 0.8, "val": 0.1, "test": 0.1})
    assert shares_with(0.25, 0) == {"train": 0.75, "val": 0.25}
    for fractions, message in (((1.0, 0), "val fraction in 0..1"), ((0.5, 0.5), "leave nothing"), ((0, -1), "test")):
        with pytest.raises(ValueError, match=message):
            shares_with(*fractions)
    boxes = np.zeros((51, 4), np.float32)
    crowd = np.arange(51) < 2
    zeros = np.zeros(51, np.int64)
    data = Dataset(
        ("a",), Strings.pack(["x"]), zeros[:1], zeros[:2].reshape(1, 2), np.array([0, 51]), boxes, zeros, crowd, crowd,
        boxes[:, 0],
    )  # fmt: skip
    (sentence,) = few_objects({"val": data}, ["val"])
    few = "val has 49 objects, fewer than 50: too few to measure AP; "
    assert sentence == few + "give it a larger --val-fraction, or annotate more images"
    assert few_objects({"val": data}, ["test"]) == [few + "annotate more images"]
    (sentence,) = few_objects({"train": data}, ["val", "test"])
    assert sentence.endswith(
        "learn from; take less out of it (--val-fraction, --test-fraction), or annotate more images"
    )
    assert few_objects({"val": data.keep_boxes(~crowd)}, ())
    assert not few_objects({"val": replace(data, crowd=crowd & False)}, ())


def test_links_are_not_followed_by_file_names(tmp_path: Path) -> None:
    given = open_dataset(write_shapes(tmp_path / "given", {"train": 2}), draw=False)
    write_dataset(given, tmp_path / "linked", "coco", "link")
    names = [image["file_name"] for image in json.loads((tmp_path / "linked" / "train.json").read_text())["images"]]
    assert names == ["images/train/00000.png", "images/train/00001.png"]
    assert os.path.realpath(tmp_path / "linked" / names[0]) == str(given["train"].path(0).resolve())
