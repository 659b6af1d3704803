"""YOLO text: every usual YAML and folder layout, boxes and polygons, and broken lines."""

from __future__ import annotations

import shutil
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
    "path of a wrong type": ("path: [x]\ntrain: images/train\nval: images/val\n", PARALLEL),
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


@pytest.mark.parametrize(
    ("names", "expected", "line", "what"),
    [
        ("names: [cat, '', dog]\n", ("cat", "1", "dog"), 1, "class 1 has no name"),
        ("nc: 3\nnames: [dog, cat, dog]\n", ("dog", "cat", "dog (2)"), 2, "class 2 is called dog as class 0 is"),
        ("names:\n  3: cat\n  5: ''\n  7: cat\n", ("cat", "5", "cat (2)"), 1, "class 5 has no name"),
    ],
)
def test_blank_and_repeated_names_keep_their_index(
    names: str, expected: tuple[str, ...], line: int, what: str, tmp_path: Path
) -> None:
    one_image(tmp_path, "", head=names)
    problem = problems_of(tmp_path)[0]
    assert (problem.kind, problem.severity, problem.line) == ("ambiguous class", "warning", line)
    assert what in problem.message
    with pytest.warns(UserWarning, match=f"data.yaml:{line}: warning: ambiguous class: {what}"):
        assert open_dataset(tmp_path).names == expected


def test_a_linked_folder_is_part_of_its_split(tmp_path: Path) -> None:
    one_image(tmp_path / "set")
    make_image(tmp_path / "camera" / "images" / "b.png")
    write(tmp_path / "camera" / "labels" / "b.txt", DOG)
    for kind in ("images", "labels"):
        (tmp_path / "set" / kind / "val" / "day").symlink_to(tmp_path / "camera" / kind)
    (tmp_path / "camera" / "images" / "again").symlink_to(tmp_path / "set" / "images")
    dataset = open_dataset(tmp_path / "set")["val"]
    assert [dataset.path(i).name for i in range(len(dataset))] == ["a.png", "b.png"] and len(dataset.boxes) == 2


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("Images/train/a.png", "Labels/train/a.txt"),
        ("images/Train/a.png", "LABELS/train/a.TXT"),
        ("images/train/a.png", "labels/training/a.txt"),
        ("images/valid/a.png", "labels/val/a.txt"),
        ("train/Images/a.png", "train/labels/a.txt"),
        ("Valid/images/a.png", "Valid/Labels/a.Txt"),
    ],
)
def test_labels_are_found_as_they_are_spelled(image: str, label: str, tmp_path: Path) -> None:
    make_image(tmp_path / image)
    write(tmp_path / label, DOG)
    write(tmp_path / "classes.txt", "cat\ndog\n")
    assert not problems_of(tmp_path)
    splits = open_dataset(tmp_path)
    assert next(iter(splits.values())).target(0).boxes.tolist() == [[10, 12, 30, 18]]
    write(tmp_path / "data.yaml", f"{NAMES}train: {image.rsplit('/', 1)[0]}\n")
    assert len(open_dataset(tmp_path)["train"].boxes) == 1


def test_labels_of_another_split_are_not_taken(tmp_path: Path) -> None:
    for split in ("val", "valid"):
        make_image(tmp_path / "images" / split / "a.png")
    write(tmp_path / "labels" / "valid" / "a.txt", DOG)
    write(tmp_path / "data.yaml", f"{NAMES}train: images/valid\nval: images/val\n")
    (problem,) = problems_of(tmp_path)
    assert (problem.kind, problem.severity, problem.file) == (
        "split without labels",
        "warning",
        str(tmp_path / "labels" / "val"),
    )
    assert "none of the 1 images of val has a label file" in problem.message
    assert "though other splits have labels" in problem.message


def test_a_split_without_labels_is_named_with_where_they_are(tmp_path: Path) -> None:
    file = one_image(tmp_path)
    for name in ("b", "c"):
        make_image(tmp_path / "images" / "train" / f"{name}.png")
        write(tmp_path / "labels" / "first try" / f"{name}.txt", DOG)
    write(tmp_path / "data.yaml", f"{NAMES}train: images/train\nval: images/val\n")
    (problem,) = problems_of(tmp_path)
    assert problem.kind == "split without labels"
    assert problem.message == (
        f"none of the 2 images of train has a label file in {tmp_path}/labels/train or beside it; "
        f"{tmp_path}/labels/first try has 2 of their names"
    )
    with pytest.warns(UserWarning, match="none of the 2 images of train has a label file"):
        assert list(open_dataset(tmp_path)) == ["train", "val"]
    file.unlink()
    shutil.rmtree(tmp_path / "labels" / "first try")
    assert not problems_of(tmp_path), "a dataset without any label has none to look for"


@pytest.mark.parametrize(
    "line",
    [
        "images\\val\\a.png",
        "D:\\ml\\set\\images\\val\\a.png",
        "/content/set/images/val/a.png",
        "data/images/val/a.png",
        "./images/val/a.png",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_lists_of_other_machines(line: str, encoding: str, tmp_path: Path) -> None:
    one_image(tmp_path)
    (tmp_path / "val.txt").write_text(f"{line}\n", encoding)
    write(tmp_path / "data.yaml", NAMES + "val: val.txt\n")
    dataset = open_dataset(tmp_path)["val"]
    assert dataset.path(0) == tmp_path / "images" / "val" / "a.png" and len(dataset.boxes) == 1


def test_files_that_are_not_utf8_cost_themselves_only(tmp_path: Path) -> None:
    one_image(tmp_path)
    make_image(tmp_path / "images" / "val" / "b.png")
    label = tmp_path / "labels" / "val" / "b.txt"
    label.write_bytes("照片".encode("gbk"))
    (tmp_path / "train.txt").write_bytes("照片.png\n".encode("gbk"))
    write(tmp_path / "data.yaml", NAMES + "val: [images/val, train.txt]\n")
    problems = problems_of(tmp_path)
    assert {problem.file for problem in problems} == {str(label), str(tmp_path / "train.txt")}
    assert all("UTF-8" in problem.message and "GBK" in problem.mend + problem.message for problem in problems)
    with pytest.warns(UserWarning, match="2 × malformed annotation"):
        assert len(open_dataset(tmp_path)["val"].boxes) == 1


@pytest.mark.parametrize(
    ("prefix", "keys"),
    [("data/", ("train", "valid")), ("", ("Train", "Validation")), ("build/darknet/", ("train", "val"))],
)
def test_darknet_and_cvat(prefix: str, keys: tuple[str, str], tmp_path: Path) -> None:
    for key in keys:
        make_image(tmp_path / f"obj_{key}_data" / f"{key}.png")
        write(tmp_path / f"obj_{key}_data" / f"{key}.txt", DOG)
        write(tmp_path / f"{key}.txt", f"{prefix}obj_{key}_data/{key}.png\n")
    write(tmp_path / "obj.names", "cat\ndog\n\n")
    lists = "".join(f"{key} = {prefix}{key}.txt\n" for key in keys)
    file = write(tmp_path / "obj.data", f"classes = 2\n{lists}names = {prefix}obj.names\nbackup = backup/\n")
    splits = open_dataset(tmp_path)
    assert list(splits) == ["train", "val"] and splits.names == ("cat", "dog")
    assert all(len(data.boxes) == 1 for data in splits.values()) and not problems_of(tmp_path)
    (tmp_path / f"{keys[1]}.txt").unlink()
    (problem,) = problems_of(tmp_path)
    assert (problem.kind, problem.file, problem.line) == ("missing split", str(file), 3)
    (tmp_path / f"{keys[0]}.txt").unlink()
    with pytest.raises(DatasetError, match="missing split"):
        open_dataset(tmp_path)
    one_image(tmp_path)
    (tmp_path / "data.yaml").unlink()
    assert list(open_dataset(tmp_path)) == ["val"], "the usual folders, where obj.data names nothing that exists"


def test_each_split_has_the_class_list_beside_its_labels(tmp_path: Path) -> None:
    for split, names in (("train", "cat\ndog\n"), ("val", "dog\ncat\n")):
        make_image(tmp_path / "images" / split / "a.png")
        write(tmp_path / "labels" / split / "a.txt", DOG)
        write(tmp_path / "labels" / split / "classes.txt", names)
    splits = open_dataset(tmp_path)
    assert splits.names == ("cat", "dog") and not problems_of(tmp_path)
    assert [data.target(0).labels.tolist() for data in splits.values()] == [[1], [0]]
    make_image(tmp_path / "images" / "test" / "a.png")
    write(tmp_path / "labels" / "test" / "a.txt", DOG)
    (problem,) = problems_of(tmp_path)
    assert problem.kind == "ambiguous class" and "that of train is used" in problem.message
    write(tmp_path / "classes.txt", "x\ny\n")
    assert open_dataset(tmp_path).names == ("x", "y"), "the list of the whole dataset comes first"


def test_images_that_share_a_label_file(tmp_path: Path) -> None:
    one_image(tmp_path)
    make_image(tmp_path / "images" / "val" / "a.bmp")
    (problem,) = problems_of(tmp_path)
    assert (problem.kind, problem.severity) == ("shared annotation", "warning")
    assert "a.bmp" in problem.message and "a.png share" in problem.message
    with pytest.warns(UserWarning, match="both get its boxes"):
        assert len(open_dataset(tmp_path)["val"].boxes) == 2


def test_hidden_files_are_no_labels_and_no_yaml(tmp_path: Path) -> None:
    file = one_image(tmp_path)
    for name in ("._a.txt", "._b.txt"):
        file.with_name(name).write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "._data.yaml").write_bytes(b"\x00\x05\x16\x07")
    assert not problems_of(tmp_path) and len(open_dataset(tmp_path)["val"].boxes) == 1


def test_columns_are_judged_by_all_files_of_a_split(tmp_path: Path) -> None:
    track = DOG.strip() + " 0.9 {}\n"
    file = one_image(tmp_path, track.format(1))
    make_image(tmp_path / "images" / "val" / "b.png")
    write(file.with_name("b.txt"), track.format(2))
    (problem,) = problems_of(tmp_path)
    assert (problem.kind, problem.severity, problem.line) == ("unused columns", "note", 1)
    assert "2 lines like `1 0.5 0.5 0.5 0.2 0.9 1` have a confidence and a track id after the box" in problem.message
    dataset = open_dataset(tmp_path)["val"]
    assert [dataset.target(i).boxes.tolist() for i in range(2)] == [[[10, 12, 30, 18]]] * 2
