"""Images that the annotations name and that are not there: dropped, or found under a name that looks alike."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from boxwright.data.check import check
from boxwright.data.formats import open_dataset
from boxwright.data.formats.reading import BoxRow, Folders, ImageRow, Reading, drop_missing
from shapes import write_shapes


def reading_of(*paths: Path) -> Reading:
    """Each image with a box whose x1 is the image's position."""
    images = [ImageRow(str(path), i, None, "a.json", 10 + i) for i, path in enumerate(paths)]
    return Reading(["cat"], images, [BoxRow(i, "cat", (i, 0, 9, 9), "a.json") for i in range(len(paths))])


@pytest.mark.parametrize(
    ("there", "named"),
    [
        (unicodedata.normalize("NFD", "é.jpg"), unicodedata.normalize("NFC", "é.jpg")),
        (unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.jpg")),
        ("photo.jpg", "Photo.JPG"),
        ("a b.jpg", "a%20b.jpg"),
        ("a%20b.jpg", "a b.jpg"),
        ("Ä b.jpg", unicodedata.normalize("NFD", "ä%20B.jpg")),
        ("images/Cam 1/a.jpg", "Images/cam%201/A.jpg"),
    ],
)
def test_a_name_that_looks_alike_is_found_and_noted(tmp_path: Path, there: str, named: str) -> None:
    file = tmp_path / there
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    reading = reading_of(tmp_path / "missing.jpg", tmp_path / named)
    drop_missing(reading)
    assert [image.path for image in reading.images] == [str(file)]
    assert [(row.image, row.box[0]) for row in reading.boxes] == [(0, 1)]
    missing, alike = reading.problems
    assert missing.kind == "missing image" and missing.message.endswith("missing.jpg, there is none")
    assert (alike.kind, alike.severity, alike.line) == ("similar file name", "note", 11)
    assert str(file) in alike.message and str(tmp_path / named) in alike.message


def test_of_two_names_that_look_alike_none_is_taken(tmp_path: Path) -> None:
    for name in ("a.jpg", "A.JPG"):
        (tmp_path / name).touch()
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system does not tell upper from lower case")
    reading = reading_of(tmp_path / "a.JPG")
    drop_missing(reading)
    assert reading.images == [] and reading.boxes == []
    (problem,) = reading.problems
    assert problem.message.endswith(f"there is none, only {tmp_path / 'A.JPG'} and {tmp_path / 'a.jpg'}")


def test_a_file_that_another_entry_names_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    for names in (["A.jpg", "a.jpg"], ["A.jpg", "a.JPG"]):
        reading = reading_of(*(tmp_path / name for name in names))
        drop_missing(reading)
        assert [image.path for image in reading.images] == [str(tmp_path / "a.jpg")]
        assert [problem.kind for problem in reading.problems].count("missing image") == 1


@pytest.mark.parametrize(("label", "image"), [("e\u0301", "\u00e9"), ("IMG_1", "img_1"), ("a b", "a%20b")])
def test_labels_of_a_name_that_looks_alike_are_found_and_noted(tmp_path: Path, label: str, image: str) -> None:
    write_shapes(tmp_path, {"train": 2}, format="yolo")
    images, labels = tmp_path / "images" / "train", tmp_path / "labels" / "train"
    (images / "00001.png").rename(images / f"{image}.png")
    (labels / "00001.txt").rename(labels / f"{label}.txt")
    (problem,) = check(tmp_path)
    assert (problem.kind, problem.file) == ("similar file name", str(labels / f"{label}.txt"))
    assert all(len(data.target(i)) for data in open_dataset(tmp_path).values() for i in range(len(data)))


def test_lists_and_tables_find_names_that_look_alike(tmp_path: Path) -> None:
    yolo = write_shapes(tmp_path / "yolo", {"train": 2}, format="yolo")
    (yolo / "train.txt").write_text("data/images/train/00000.PNG\ndata/images/train/00001.png\n")
    (yolo / "data.yaml").write_text("train: train.txt\nnames: [circle, square, triangle]\n")
    table = write_shapes(tmp_path / "table", {"train": 2}, format="csv")
    (table / "train.csv").write_text((table / "train.csv").read_text().replace("00000.png", "00000.PNG"))
    for folder in (yolo, table):
        assert [problem.kind for problem in check(folder)] == ["similar file name"]


def test_labels_of_another_image_are_not_taken(tmp_path: Path) -> None:
    write_shapes(tmp_path, {"train": 2}, format="yolo")
    images, labels = tmp_path / "images" / "train", tmp_path / "labels" / "train"
    for folder, suffix in ((images, ".png"), (labels, ".txt")):
        (folder / f"00000{suffix}").rename(folder / f"a{suffix}")
    (images / "00001.png").rename(images / "A.png")
    (labels / "00001.txt").unlink()
    if len(list(images.iterdir())) == 1:
        pytest.skip("this file system does not tell upper from lower case")
    assert [problem.kind for problem in check(tmp_path)] == ["image without annotation"]


def test_paths_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)
    folders = Folders()
    assert "a.jpg" in folders and "b.jpg" not in folders
    assert folders.alike("A.jpg") == ["a.jpg"] and folders.alike("/no/such/a.jpg") == []
