"""CSV with a box in each row, with the columns of several tools, without a header, and of Open Images."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from boxwright.data.check import check
from boxwright.data.formats import DatasetError, open_dataset

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
Boxes = dict[str, list[tuple[str, tuple[float, ...]]]]


def make(folder: Path, text: str, *images: str, file: str = "annotations.csv", encoding: str = "utf-8") -> Path:
    """Images of 40 x 30, all different, and the file."""
    for number, image in enumerate(images):
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (9 * number, 99, len(file))).save(folder / image)
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(text, encoding=encoding)
    return folder


def content(path: Path) -> Boxes:
    """Names and boxes by the image's file name, of all splits."""
    splits = open_dataset(path)
    assert splits.format == "csv"
    found: Boxes = {}
    for data in splits.values():
        for i in range(len(data)):
            target = data.target(i)
            pairs = zip(target.labels.tolist(), target.boxes.tolist(), strict=True)
            found[data.path(i).name] = [(data.names[label], tuple(box)) for label, box in pairs]
    return found


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "a.png,40,30,cat,1,2,11,12\na.png,40,30,dog,3.5,4,20,28\nb.png,40,30,cat,0,0,40,30\n",
        "image;xmin;ymin;xmax;ymax;label\na.png;1;2;11;12;cat\na.png;3.5;4;20;28;dog\nb.png;0;0;40;30;cat\n",
        'Image_Path\tX1\tY1\tX2\tY2\tClass Name\n"a.png"\t1\t2\t11\t12\tcat\na.png\t3.5\t4\t20\t28\tdog\n\n'
        "b.png\t0\t0\t40\t30\tcat\n",
        "a.png,1,2,11,12,cat\na.png,3.5,4,20,28,dog\nb.png,0,0,40,30,cat\n",
        HEADER + "C:\\imgs\\images\\a.png,40,30,cat,1,2,11,12\n/content/x/a.png,40,30,dog,3.5,4,20,28\n"
        "images/b.png,9999999999999999999999,x,cat,0,0,40,30\n",
    ],
    ids=["Pascal", "semicolons", "tabs", "RetinaNet", "foreign paths"],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_columns_by_their_header(tmp_path: Path, text: str, encoding: str) -> None:
    make(tmp_path, text, "images/a.png", "images/b.png", encoding=encoding)
    right = {"a.png": [("cat", (1, 2, 11, 12)), ("dog", (3.5, 4, 20, 28))], "b.png": [("cat", (0, 0, 40, 30))]}
    if "content" in text:  # two entries of one file
        right["a.png"] = right["a.png"][1:]
    assert content(tmp_path) == right


def test_an_image_without_an_object_has_a_blank_row(tmp_path: Path) -> None:
    text = "a.png,,,,,\nb.png,1,2,3,4,cat\n"
    assert content(make(tmp_path, text, "a.png", "b.png")) == {"a.png": [], "b.png": [("cat", (1, 2, 3, 4))]}
    assert [problem.kind for problem in check(tmp_path)] == ["image without annotation"]


@pytest.mark.parametrize("row", ["b.png,40,30,cat,1,2,x,4", "b.png,40,30,,1,2,3,4", ",40,30,cat,1,2,3,4"])
def test_a_malformed_row_is_named_with_its_line(tmp_path: Path, row: str) -> None:
    make(tmp_path, HEADER + f"a.png,40,30,cat,1,2,3,4\n\n{row}\na.png,40,30,dog,1,2,3,4\n", "a.png", "b.png")
    with pytest.warns(UserWarning, match="1 × malformed annotation"):
        assert [name for name, _ in content(tmp_path)["a.png"]] == ["cat", "dog"]
    (problem,) = [problem for problem in check(tmp_path) if problem.severity == "error"]
    assert (problem.file, problem.line) == (str(tmp_path / "annotations.csv"), 4)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("image_id,filename,class,class_name,xmin,ymin,xmax,ymax", "17,a.png,0,cat,1,2,3,4"),
        ("filename,name,class,xmin,ymin,xmax,ymax", "a.png,a,cat,1,2,3,4"),
        ("image,file_path,label_id,label,xmin,ymin,xmax,ymax", "17,a.png,0,cat,1,2,3,4"),
    ],
)
def test_of_two_columns_the_surer_one_counts(tmp_path: Path, header: str, row: str) -> None:
    assert content(make(tmp_path, f"{header}\n{row}\n", "a.png")) == {"a.png": [("cat", (1, 2, 3, 4))]}


def test_missing_images_and_unknown_classes_are_named(tmp_path: Path) -> None:
    make(tmp_path, HEADER + "a.png,40,30,cat,1,2,3,4\na.png,40,30,cow,1,2,3,4\nc.png,40,30,cat,1,2,3,4\n", "a.png")
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    with pytest.warns(UserWarning, match="1 × missing image, 1 × unknown class"):
        assert open_dataset(tmp_path).names == ("dog", "cat")


@pytest.mark.parametrize(
    ("files", "images"),
    [
        (("train_labels.csv", "test_labels.csv"), ("images/train/a.png", "images/test/b.png")),
        (("data/train.csv", "data/test.csv"), ("images/a.png", "images/b.png")),
        (("train/_annotations.csv", "test/_annotations.csv"), ("train/a.png", "test/b.png")),
        (("annotations/train.CSV", "annotations/test.csv"), ("train/a.png", "test/b.png")),
    ],
)
def test_a_file_for_each_split(tmp_path: Path, files: tuple[str, str], images: tuple[str, str]) -> None:
    for file, image in zip(files, images, strict=True):
        make(tmp_path, HEADER + f"{Path(image).name},40,30,cat,1,2,3,4\n", image, file=file)
    splits = open_dataset(tmp_path)
    assert {split: data.path(0) for split, data in splits.items()} == {
        "train": tmp_path / images[0],
        "test": tmp_path / images[1],
    }
    alone = open_dataset(tmp_path / files[0])
    assert list(alone) == ["train"] and alone["train"].path(0) == tmp_path / images[0]


def test_a_column_of_splits(tmp_path: Path) -> None:
    text = (
        "path,x1,y1,x2,y2,label,split\na.png,1,2,3,4,cat,TRAIN\nb.png,1,2,3,4,cat,validation\nc.png,1,2,3,4,dog,test\n"
    )
    splits = open_dataset(make(tmp_path, text, "a.png", "b.png", "c.png"))
    assert {split: data.path(0).name for split, data in splits.items()} == {
        "train": "a.png",
        "val": "b.png",
        "test": "c.png",
    }
    assert not splits.drawn and splits.names == ("cat", "dog")
    (tmp_path / "annotations.csv").write_text(text.replace("TRAIN", "fold 1"))
    with pytest.warns(
        UserWarning, match=r"annotations.csv:2: warning: split not used: 1 of 3 .*others have \(val, test"
    ):
        assert open_dataset(tmp_path).drawn


def test_folders_named_like_splits_and_a_file_that_is_not_used(tmp_path: Path) -> None:
    text = HEADER + "train/a.png,40,30,cat,1,2,3,4\nval/b.png,40,30,cat,1,2,3,4\n"
    splits = open_dataset(make(tmp_path, text, "images/train/a.png", "images/val/b.png"))
    assert {split: data.path(0).name for split, data in splits.items()} == {"train": "a.png", "val": "b.png"}
    make(tmp_path, HEADER + "c.png,40,30,cat,1,2,3,4\n", "images/c.png", file="test.csv")
    assert {split: len(data) for split, data in open_dataset(tmp_path).items()} == {"train": 1, "val": 1, "test": 1}
    make(tmp_path, HEADER + "c.png,40,30,cat,1,2,3,4\n", file="train.csv")
    with pytest.warns(UserWarning, match=r"annotations\.csv: warning: file not used"):
        open_dataset(tmp_path)


def test_open_images(tmp_path: Path) -> None:
    """Shares of the image, labels out of class-descriptions, images without suffix, and groups, which are crowds."""
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction\n"
    rows = "a,xclick,/m/01yrx,1,0.25,0.75,0.1,0.5,0,0,0,0\na,xclick,/m/0bt9lr,1,0,1,0,1,-1,-1,1,-1\n"
    make(tmp_path, header + rows, "train/a.jpg", "images/b.jpg", file="train-annotations-bbox.csv")
    (tmp_path / "class-descriptions-boxable.csv").write_text("/m/01yrx,Cat\n/m/0bt9lr,Dog\n")
    splits = open_dataset(tmp_path)
    (data,) = splits.values()
    assert splits.format == "csv" and data.names == ("Cat", "Dog") and data.path(0).name == "a.jpg"
    assert data.boxes.round(3).tolist() == [[10, 3, 30, 15], [0, 0, 40, 30]]
    assert data.crowd.tolist() == [False, True]


def test_other_csv_is_no_dataset(tmp_path: Path) -> None:
    make(tmp_path, "name,age\nann,3\n", "a.png", file="people.csv")
    make(tmp_path, "a,1,2,3,4,5\n", file="numbers.csv")
    with pytest.raises(DatasetError, match=r"not a dataset in a supported layout(.|\n)*CSV: "):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="expected the columns filename, xmin, ymin, xmax, ymax, class"):
        open_dataset(tmp_path / "people.csv")


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    for file in ("a.csv", "b.csv"):
        make(tmp_path, HEADER + "a.png,40,30,cat,1,2,3,4\n", "a.png", file=file)
    with pytest.raises(DatasetError, match=r"expected one CSV of boxes for all, found a\.csv, b\.csv"):
        open_dataset(tmp_path)
    assert content(tmp_path / "a.csv") == {"a.png": [("cat", (1, 2, 3, 4))]}


@pytest.mark.parametrize(
    "line", ['a.png,40,30,"cat,1,2,3,4', f"a.png,40,30,{'c' * 200_000},1,2,3,4", "a.p\0g,,,cat,1,2,3,4"]
)
def test_a_broken_line_costs_itself_alone(line: str, tmp_path: Path) -> None:
    make(tmp_path, f"{HEADER}{line}\na.png,40,30,cat,1,2,3,4\n", "a.png")
    (problem,) = check(tmp_path)
    assert (problem.kind, problem.file, problem.line) == ("malformed annotation", str(tmp_path / "annotations.csv"), 2)
    assert len(problem.message) < 300
    with pytest.warns(UserWarning, match="left out 1 × malformed annotation"):
        assert len(open_dataset(tmp_path, draw=False)["all"].boxes) == 1


def test_text_that_is_not_utf_8_is_refused_with_its_name(tmp_path: Path) -> None:
    make(tmp_path, HEADER + "a.png,40,30,狗,1,2,3,4\n", "a.png", encoding="gbk")
    with pytest.raises(DatasetError, match=r"annotations\.csv: expected text in UTF-8"):
        open_dataset(tmp_path)


def test_a_file_of_another_format_than_given(tmp_path: Path) -> None:
    make(tmp_path, HEADER + "a.png,40,30,cat,1,2,3,4\n", "a.png")
    with pytest.raises(DatasetError, match="expected coco, got the file .*annotations.csv, which is csv"):
        open_dataset(tmp_path / "annotations.csv", format="coco")
