"""VOC XML: every usual layout, the pixel convention, and broken files reported with their line."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from boxwright.data.formats import DatasetError, open_dataset, read_splits
from boxwright.data.formats.reading import Problem

DOG = (
    "<object>\n<name>dog</name>\n<difficult>0</difficult>\n"
    "<bndbox>\n<xmin>2</xmin><ymin>3</ymin><xmax>11</xmax><ymax>22</ymax>\n</bndbox>\n</object>\n"
)


def make_image(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (shade, 0, 0)).save(path)


def xml(path: Path, objects: str = DOG, filename: str = "a.png", size: str = "40,30") -> Path:
    width, height = size.split(",")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation>\n<filename>{filename}</filename>\n"
        f"<size>\n<width>{width}</width>\n<height>{height}</height>\n</size>\n{objects}</annotation>\n"
    )
    return path


def problems_of(folder: Path) -> list[Problem]:
    return [problem for reading in read_splits(folder)[1].values() for problem in reading.problems]


def test_the_first_pixel_is_one(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    corners = "<xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>30</ymax>"
    xml(tmp_path / "a.xml", f"{DOG}<object><name>all</name><bndbox>{corners}</bndbox></object>")
    target = open_dataset(tmp_path)["train"].target(0)
    assert target.boxes.tolist() == [[1, 2, 11, 22], [0, 0, 40, 30]]


def test_as_published(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "unlisted"):
        make_image(tmp_path / "VOC2007" / "JPEGImages" / f"{name}.jpg")
        xml(tmp_path / "VOC2007" / "Annotations" / f"{name}.xml", DOG.replace("dog", f"dog{name}"), f"{name}.jpg")
    lists = tmp_path / "VOC2007" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    lines = {"train": "a\n", "val": "b\n", "trainval": "a\nb\n", "test": "c\n\n", "dog_train": "a 1\n"}
    for split, ids in lines.items():
        (lists / f"{split}.txt").write_text(ids)
    splits = open_dataset(tmp_path)
    assert {split: data.image_id(0) for split, data in splits.items()} == {"train": "a", "val": "b", "test": "c"}
    assert all(len(data) == 1 for data in splits.values()) and not splits.drawn and splits.format == "voc"
    assert splits.names == ("doga", "dogb", "dogc")


def test_trainval_and_test_give_a_tenth_of_training_to_validation(tmp_path: Path) -> None:
    names = [f"{i:02d}" for i in range(12)]
    for i, name in enumerate(names):
        make_image(tmp_path / "JPEGImages" / f"{name}.png", shade=i)
        xml(tmp_path / "Annotations" / f"{name}.xml", filename=f"{name}.png")
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("\n".join(names[:10]))
    (lists / "test.txt").write_text("\n".join(names[10:]))
    splits = open_dataset(tmp_path)
    assert splits.drawn and len(splits["test"]) == 2
    assert len(splits["val"]) >= 1 and len(splits["train"]) + len(splits["val"]) == 10


@pytest.mark.parametrize(
    ("annotation", "image"),
    [
        ("a.xml", "a.png"),
        ("Annotations/a.xml", "JPEGImages/a.png"),
        ("annotations/a.xml", "images/a.png"),
        ("annotations/xmls/a.xml", "images/a.png"),
        ("train/a.xml", "train/a.png"),
        ("train/annotations/a.xml", "train/images/a.png"),
        ("annots/a.xml", "images/a.png"),
        ("xml_files/a.XML", "photos/a.png"),
        ("ANNOTATIONS/a.Xml", "jpegimages/a.png"),
        ("train/boxes/a.xml", "train/photos/a.png"),
        ("one/more/folder/a.xml", "one/more/folder/a.png"),
    ],
)
def test_layouts(annotation: str, image: str, tmp_path: Path) -> None:
    make_image(tmp_path / image)
    xml(tmp_path / annotation)
    (tmp_path / annotation).with_name("._a.xml").write_bytes(b"\x00\x05 what a Mac leaves in an archive")
    dataset = open_dataset(tmp_path)["train"]
    assert dataset.path(0) == tmp_path / image and dataset.target(0).boxes.tolist() == [[1, 2, 11, 22]]


def test_roboflow_export(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        make_image(tmp_path / split / "a_png.rf.0123.png")
        xml(tmp_path / split / "a_png.rf.0123.xml", filename="a_png.rf.0123.png")
    splits = open_dataset(tmp_path)
    assert list(splits) == ["train", "val", "test"]
    assert splits["val"].path(0) == tmp_path / "valid" / "a_png.rf.0123.png"


def test_a_stale_file_name_loses_against_the_name_of_the_xml(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_image(tmp_path / f"{name}.png")
    xml(tmp_path / "a.xml", filename="b.png")
    assert open_dataset(tmp_path)["train"].path(0).name == "a.png"
    (tmp_path / "a.xml").rename(tmp_path / "c.xml")
    assert open_dataset(tmp_path)["train"].path(0).name == "b.png"


def test_of_two_images_of_one_name_the_one_in_the_xml_counts(tmp_path: Path) -> None:
    for shade, name in enumerate(("a.png", "a.bmp", "b c.png")):
        make_image(tmp_path / "JPEGImages" / name, shade)
    xml(tmp_path / "Annotations" / "a.xml", filename="C:\\x\\a.png")
    xml(tmp_path / "Annotations" / "7.xml", filename="b%20c.png")
    images = [data.path(i).name for data in open_dataset(tmp_path).values() for i in range(len(data))]
    assert sorted(images) == ["a.png", "b c.png"]
    assert [p.kind for p in problems_of(tmp_path) if p.kind != "image not listed"] == ["similar file name"]


def test_difficult_is_kept_and_parts_of_objects_are_no_objects(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>"
    head = f"<part><name>head</name>{box}</part>"
    xml(tmp_path / "a.xml", DOG.replace("<difficult>0", "<difficult>1").replace("</object>", f"{head}</object>") + DOG)
    splits = open_dataset(tmp_path)
    assert splits.names == ("dog",) and splits["train"].target(0).difficult.tolist() == [True, False]


def test_a_list_of_labels_gives_the_order_and_finds_the_unknown(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    xml(tmp_path / "a.xml", DOG + DOG.replace("dog", "dgo"))
    (tmp_path / "labels.txt").write_text("dog\ncat\n")
    (problem,) = problems_of(tmp_path)
    assert (problem.kind, problem.line) == ("unknown class", 17)
    assert "dgo is not one of dog, cat" in problem.message
    with pytest.warns(UserWarning, match="1 × unknown class"):
        splits = open_dataset(tmp_path)
    assert splits.names == ("dog", "cat") and splits["train"].target(0).labels.tolist() == [0]


@pytest.mark.parametrize(
    ("objects", "size", "kind", "line", "message"),
    [
        (DOG.replace("<xmin>2", "<xmin>two"), "40,30", "malformed annotation", 10, "got dog, two, 3, 11, 22"),
        (DOG.replace("<xmin>2</xmin>", ""), "40,30", "malformed annotation", 10, "got dog, nothing, 3, 11, 22"),
        (DOG.replace("<name>dog</name>", ""), "40,30", "malformed annotation", 10, "got no name, 2, 3, 11, 22"),
        ("<object>\n<name>dog</name>\n</object>\n", "40,30", "malformed annotation", 7, "got dog, nothing, nothing"),
        (DOG, "0,0", "wrong size", 3, "size is 0×0"),
        (DOG, "x,", "wrong size", 3, "size is x×missing"),
        ("<object>\n</wrong>\n", "40,30", "malformed annotation", 8, "mismatched tag"),
    ],
)
def test_a_broken_file_is_named_with_its_line(
    objects: str, size: str, kind: str, line: int, message: str, tmp_path: Path
) -> None:
    make_image(tmp_path / "a.png")
    file = xml(tmp_path / "a.xml", objects, size=size)
    (problem,) = problems_of(tmp_path)
    assert (problem.kind, problem.file, problem.line) == (kind, str(file), line)
    assert message in problem.message and problem.mend


def test_a_broken_file_among_good_ones_costs_itself_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_image(tmp_path / f"{name}.png")
        xml(tmp_path / f"{name}.xml")
    (tmp_path / "b.xml").write_text("")
    with pytest.warns(UserWarning, match="1 × malformed annotation"):
        dataset = open_dataset(tmp_path)["train"]
    assert len(dataset) == 1 and dataset.image_id(0) == "a"


def test_a_size_of_zero_is_read_from_the_image(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    xml(tmp_path / "a.xml", size="0,0")
    assert open_dataset(tmp_path)["train"].size(0) == (30, 40)


def test_lists_that_name_missing_files(tmp_path: Path) -> None:
    make_image(tmp_path / "JPEGImages" / "a.png")
    xml(tmp_path / "Annotations" / "a.xml")
    xml(tmp_path / "Annotations" / "b.xml", filename="b.png")
    file = tmp_path / "ImageSets" / "Main" / "train.txt"
    file.parent.mkdir(parents=True)
    file.write_text("a\n\nc\na\nb\n")
    found = {problem.kind: (problem.file, problem.line) for problem in problems_of(tmp_path)}
    assert found == {
        "missing annotation": (str(file), 3),
        "duplicate image": (str(file), 4),
        "missing image": (str(tmp_path / "Annotations" / "b.xml"), 3),
    }
    with pytest.warns(UserWarning, match="1 × missing annotation, 1 × missing image"):
        assert len(open_dataset(tmp_path)["train"]) == 1


def test_a_folder_of_any_name_is_taken_only_where_it_is_certain(tmp_path: Path) -> None:
    make_image(tmp_path / "photos" / "a.png")
    xml(tmp_path / "boxes" / "a.xml")
    make_image(tmp_path / "masks" / "a.png")
    with pytest.raises(DatasetError, match="not a dataset in a supported layout"):
        open_dataset(tmp_path)
    shutil.rmtree(tmp_path / "masks")
    assert open_dataset(tmp_path)["train"].path(0) == tmp_path / "photos" / "a.png"
    xml(tmp_path / "older" / "a.xml")
    with pytest.raises(DatasetError, match="not a dataset in a supported layout"):
        open_dataset(tmp_path)


def test_yolo_that_keeps_its_xml_stays_yolo(tmp_path: Path) -> None:
    make_image(tmp_path / "images" / "a.png")
    xml(tmp_path / "voc_before" / "a.xml")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    assert open_dataset(tmp_path).format == "yolo"


@pytest.mark.parametrize(
    ("text", "difficult", "problems"),
    [("1", True, 0), ("TRUE", True, 0), ("yes", True, 0), ("no", False, 0), ("", False, 0), ("Unspecified", False, 1)],
)
def test_difficult_is_what_its_text_says(text: str, difficult: bool, problems: int, tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    file = xml(tmp_path / "a.xml", DOG.replace("<difficult>0", f"<difficult>{text}"))
    found = problems_of(tmp_path)
    assert [(p.kind, p.severity, p.file, p.line) for p in found] == (
        [("malformed annotation", "warning", str(file), 9)] * problems
    )
    assert open_dataset(tmp_path)["train"].target(0).difficult.tolist() == [difficult]


@pytest.mark.parametrize(
    ("declared", "codec", "name"),
    [
        ("gb2312", "gbk", "猫镕"),  # the second is in GBK only, as files that declare gb2312 often have it
        ("Shift_JIS", "shift_jis", "犬"),
        ("windows-1252", "cp1252", "café"),
        ("KOI8-R", "koi8_r", "кошка"),
        ("utf-16", "utf-16", "猫"),
        ("utf-16", "utf-8", "猫"),  # as .NET declares what it writes into a string
        ("UTF-8", "utf-8-sig", "猫"),
        (None, "utf-16", "猫"),
    ],
)
def test_xml_is_read_by_its_encoding(declared: str | None, codec: str, name: str, tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    file = xml(tmp_path / "a.xml", DOG.replace("dog", name))
    head = f'<?xml version="1.0" encoding="{declared}"?>\n' if declared else ""
    file.write_bytes((head + file.read_text()).encode(codec))
    splits = open_dataset(tmp_path)
    assert splits.names == (name,) and splits["train"].target(0).boxes.tolist() == [[1, 2, 11, 22]]


@pytest.mark.parametrize(
    ("declared", "line", "message"),
    [
        (None, 8, "expected text in UTF-8, got the byte 0xd5 at position 108; it looks like GBK"),
        ("utf-8", 9, "expected text in UTF-8"),
        ("us-ascii", 9, "expected text in us-ascii, as it declares, got the byte 0xd5"),
        ("foo", 1, "expected XML in an encoding of text, it declares foo"),
        ("zip", 1, "expected XML in an encoding of text, it declares zip"),
        ("unicode_escape", 1, "expected XML in an encoding of text, it declares unicode_escape"),
    ],
)
def test_an_unknown_encoding_costs_its_file_only(declared: str | None, line: int, message: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_image(tmp_path / f"{name}.png")
        xml(tmp_path / f"{name}.xml")
    file = tmp_path / "b.xml"
    head = f'<?xml version="1.0" encoding="{declared}"?>\n' if declared else ""
    file.write_bytes((head + file.read_text().replace("dog", "照片")).encode("gbk"))
    (problem,) = problems_of(tmp_path)
    assert (problem.kind, problem.file, problem.line) == ("malformed annotation", str(file), line)
    assert problem.message.startswith(message) and "UTF-8" in problem.mend
    with pytest.warns(UserWarning, match="1 × malformed annotation"):
        assert len(open_dataset(tmp_path)["train"]) == 1


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_other_machines(codec: str, tmp_path: Path) -> None:
    names = ("a", "b", "c", "d", "my dog 1", "e.0001")
    for name in names:
        make_image(tmp_path / "JPEGImages" / f"{name}.png")
        xml(tmp_path / "Annotations" / f"{name}.xml", filename=f"{name}.png")
    file = tmp_path / "ImageSets" / "Main" / "val.txt"
    file.parent.mkdir(parents=True)
    file.write_text("JPEGImages\\a.png\nD:\\x\\b\n/content/x/c.xml\nd -1\nmy dog 1\ne.0001\n", codec)
    dataset = open_dataset(tmp_path)["val"]
    assert [dataset.image_id(i) for i in range(len(dataset))] == list(names)
    file.write_bytes("照片\n".encode("gbk"))
    with pytest.raises(DatasetError, match=r"no usable image in the val split .*val\.txt:1: .*it looks like GBK"):
        open_dataset(tmp_path)


def test_blood_cells_as_published(shared_data: Path, tmp_path: Path) -> None:
    with tarfile.open(shared_data / "bccd.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    with pytest.warns(UserWarning, match="left out 2 × degenerate box"):
        splits = open_dataset(tmp_path)
    assert {split: len(data) for split, data in splits.items()} == {"train": 205, "val": 87, "test": 72}
    assert splits.names == ("Platelets", "RBC", "WBC")
    assert sum(len(data.boxes) for data in splits.values()) == 4888 - 2
    first = splits["train"]
    assert first.image_id(0) == "BloodImage_00001" and first.size(0) == (480, 640)
