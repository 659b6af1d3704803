"""YOLO text: every usual YAML and folder layout, boxes and polygons, and broken lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from boxwright.data.formats import DatasetError, open_dataset, read_splits
from boxwright.data.formats.reading import Problem

DOG = "1 0.5 0.5 0.5 0.2\n"  # of an image of 40×30: 10, 12, 30, 18
NAMES = "names: [cat, dog]\n"


def make_image(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (shade, 0, 0)).save(path)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def one_image(folder: Path, label: str = DOG, head: str = NAMES) -> Path:
    """A dataset of one image whose label file is returned."""
    make_image(folder / "images" / "val" / "a.png")
    write(folder / "data.yaml", f"{head}val: images/val\n")
    return write(folder / "labels" / "val" / "a.txt", label)


def problems_of(folder: Path) -> list[Problem]:
    return [problem for reading in read_splits(folder)[1].values() for problem in reading.problems]


PARALLEL = "images/train/a.png"  # its label file is labels/train/a.txt
NESTED = "train/images/a.png"
YAMLS = {
    "folders of images": ("train: images/train\nval: images/val\n", PARALLEL),
    "with a path": ("path: .\ntrain: images/train\nval: images/val\n", PARALLEL),
    "path of elsewhere": ("path: ../datasets/x\ntrain: images/train\nval: images/val\n", PARALLEL),
    "Roboflow": ("train: ../train/images\nval: ../val/images\n", NESTED),
    "Roboflow in Colab": ("train: /content/x/train/images\nval: /content/x/val/images\n", NESTED),
    "splits without images": ("train: train\nval: val\n", NESTED),
    "labels beside the images": ("train: train\nval: val\n", "train/a.png"),
    "several folders": ("train: [images/train]\nval:\n- images/val\ntest:\n", PARALLEL),
}


@pytest.mark.parametrize("case", YAMLS)
def test_yaml(case: str, tmp_path: Path) -> None:
    splits_in_yaml, path = YAMLS[case]
    folder = tmp_path / "set"
    for split in ("train", "val"):
        image = path.replace("train", split)
        make_image(folder / image)
        write((folder / image.replace("images", "labels")).with_suffix(".txt"), DOG)
    file = write(folder / "data.yaml", NAMES + splits_in_yaml)
    for source in (folder, file):
        splits = open_dataset(source)
        assert list(splits) == ["train", "val"] and splits.names == ("cat", "dog") and splits.format == "yolo"
        target = splits["train"].target(0)
        assert target.boxes.tolist() == [[10, 12, 30, 18]] and target.labels.tolist() == [1]
        assert splits["train"].size(0) == (30, 40) and splits["train"].image_id(0) == "a"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("names: [cat, dog]", ("cat", "dog")),
        ("names:\n  0: cat\n  1: dog", ("cat", "dog")),
        ("names:\n  1: dog\n  0: cat\n  7: no", ("cat", "dog", "no")),
        ("names: ['1', yes]", ("1", "yes")),
        ("nc: 2", ("0", "1")),
    ],
)
def test_names(names: str, expected: tuple[str, ...], tmp_path: Path) -> None:
    one_image(tmp_path, head=names + "\n")
    splits = open_dataset(tmp_path)
    assert splits.names == expected and splits["val"].target(0).labels.tolist() == [1]


def test_lists_of_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_image(tmp_path / "images" / f"{name}.png")
        write(tmp_path / "labels" / f"{name}.txt", DOG)
    write(tmp_path / "val.txt", "./images/b.png\n\n./images/gone.png\n")
    write(tmp_path / "dataset.yaml", NAMES + "val: val.txt\n")
    (problem,) = problems_of(tmp_path)
    assert (problem.kind, problem.file, problem.line) == ("missing image", str(tmp_path / "val.txt"), 3)
    with pytest.warns(UserWarning, match="1 × missing image"):
        dataset = open_dataset(tmp_path)["val"]
    assert [dataset.image_id(i) for i in range(len(dataset))] == ["b"] and len(dataset.boxes) == 1


@pytest.mark.parametrize(
    ("image", "label", "classes", "split"),
    [
        ("images/train/a.png", "labels/train/a.txt", "classes.txt", "train"),
        ("images/val2017/a.png", "labels/val2017/a.txt", "classes.txt", "val"),
        ("train/images/a.png", "train/labels/a.txt", "classes.txt", "train"),
        ("images/a.png", "labels/a.txt", "labels/classes.txt", "train"),
        ("a.png", "a.txt", "classes.txt", "train"),
        ("a.png", "a.txt", "obj.names", "train"),
    ],
)
def test_folders_without_yaml(image: str, label: str, classes: str, split: str, tmp_path: Path) -> None:
    make_image(tmp_path / image)
    write(tmp_path / label, DOG)
    write(tmp_path / classes, "cat\ndog\n")
    splits = open_dataset(tmp_path)
    assert list(splits) == [split] and splits.names == ("cat", "dog")
    assert splits[split].target(0).boxes.tolist() == [[10, 12, 30, 18]]


def test_classes_without_names_are_named_by_their_index(tmp_path: Path) -> None:
    for split, index in (("train", 10), ("val", 2)):
        make_image(tmp_path / "images" / split / "a.png")
        write(tmp_path / "labels" / split / "a.txt", DOG.replace("1", str(index), 1))
    splits = open_dataset(tmp_path)
    assert splits.names == ("2", "10") and splits["train"].target(0).labels.tolist() == [1]


def test_an_image_without_labels_is_background(tmp_path: Path) -> None:
    one_image(tmp_path, "")
    make_image(tmp_path / "images" / "val" / "b.png")
    dataset = open_dataset(tmp_path)["val"]
    assert len(dataset) == 2 and len(dataset.boxes) == 0


def test_a_polygon_becomes_its_bounding_box(tmp_path: Path) -> None:
    one_image(tmp_path, "0 0.25 0.1 0.5 0.9 0.1 0.5\n" + DOG)
    target = open_dataset(tmp_path)["val"].target(0)
    assert target.boxes.tolist() == [[4, 3, 20, 27], [10, 12, 30, 18]]


def test_keypoints_are_ignored(tmp_path: Path) -> None:
    one_image(tmp_path, DOG.strip() + " 0.1 0.1 2 0.9 0.9 1\n", head=NAMES + "kpt_shape: [2, 3]\n")
    assert open_dataset(tmp_path)["val"].target(0).boxes.tolist() == [[10, 12, 30, 18]]


def test_coordinates_are_relative_to_the_upright_image(tmp_path: Path) -> None:
    one_image(tmp_path)
    tags = Image.Exif()
    tags[0x0112] = 6  # a quarter turn
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "val" / "a.png", exif=tags)
    dataset = open_dataset(tmp_path)["val"]
    assert dataset.size(0) == (40, 30) and dataset.target(0).boxes.tolist() == [[7.5, 16, 22.5, 24]]


def test_equal_names_in_two_folders_stay_separate(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        make_image(tmp_path / "images" / "val" / folder / "a.png")
        write(tmp_path / "labels" / "val" / folder / "a.txt", DOG)
    write(tmp_path / "data.yaml", NAMES + "val: images/val\n")
    dataset = open_dataset(tmp_path)["val"]
    assert [dataset.image_id(i) for i in range(2)] == ["images/val/x/a.png", "images/val/y/a.png"]
    assert len(dataset.boxes) == 2


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "unknown class", "class 2 is not one of 0 cat, 1 dog"),
        ("0 0.5 0.5 0.1", "malformed annotation", "got `0 0.5 0.5 0.1`"),
        ("0 0.5 0.5 0.1 0.1 45", "malformed annotation", "expected `class cx cy width height`"),
        ("0 0.5 0.5 0.1 0.1 0.9 0.9 0.9", "malformed annotation", "or a polygon"),
        ("dog 0.5 0.5 0.1 0.1", "malformed annotation", "got `dog"),
        ("0.5 0.5 0.5 0.1 0.1", "malformed annotation", "got `0.5"),
        ("-1 0.5 0.5 0.1 0.1", "malformed annotation", "got `-1"),
    ],
)
def test_a_broken_line_is_named(line: str, kind: str, message: str, tmp_path: Path) -> None:
    file = one_image(tmp_path, f"{DOG}\n{line}\n{DOG}")
    (problem,) = problems_of(tmp_path)
    assert (problem.kind, problem.file, problem.line) == (kind, str(file), 3)
    assert message in problem.message and problem.mend
    with pytest.warns(UserWarning, match=f"1 × {kind}"):
        assert len(open_dataset(tmp_path)["val"].boxes) == 2


def test_a_label_file_that_is_not_text(tmp_path: Path) -> None:
    one_image(tmp_path).write_bytes(b"\xff\xfe\x00\x01")
    assert problems_of(tmp_path)[0].kind == "malformed annotation"


def test_labels_without_an_image(tmp_path: Path) -> None:
    file = one_image(tmp_path).with_name("b.txt")
    write(file, DOG)
    (problem,) = problems_of(tmp_path)
    assert (problem.kind, problem.file) == ("annotation without image", str(file))


def test_a_missing_split(tmp_path: Path) -> None:
    one_image(tmp_path)
    file = write(tmp_path / "data.yaml", NAMES + "val: images/val\ntest: images/test\n")
    (problem,) = problems_of(tmp_path)
    assert (problem.kind, problem.file, problem.line) == ("missing split", str(file), 3)
    with pytest.warns(UserWarning, match="1 × missing split"):
        assert list(open_dataset(tmp_path)) == ["val"]


def test_an_empty_split_is_left_out_unless_all_are_empty(tmp_path: Path) -> None:
    one_image(tmp_path)
    write(tmp_path / "data.yaml", NAMES + "val: images/val\ntest: images/test\n")
    (tmp_path / "images" / "test").mkdir()
    (problem,) = problems_of(tmp_path)
    assert (problem.kind, problem.file) == ("missing split", str(tmp_path / "images" / "test"))
    (tmp_path / "images" / "val" / "a.png").unlink()
    with pytest.raises(DatasetError, match="no usable image in the val split"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [cat\ntrain: x", "expected YAML"),
        ("names: cat\ntrain: x", "expected `names` as a list"),
        ("train: x", "expected `names` as a list"),
        (NAMES, "expected `train`, `val` or `test`"),
        (NAMES + "train: nowhere", "train names nowhere, which does not exist"),
    ],
)
def test_an_invalid_yaml(text: str, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "data.yaml", text)
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(tmp_path)
    assert caught.value.file == file


def test_two_yamls_are_refused(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yml"):
        write(tmp_path / name, NAMES + "train: images\n")
    with pytest.raises(DatasetError, match=r"one YAML with `names`, found a\.yaml, b\.yml"):
        open_dataset(tmp_path)
    one_image(tmp_path)
    assert list(open_dataset(tmp_path)) == ["val"]
