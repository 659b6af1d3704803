"""Every kind of problem, injected one at a time into a valid dataset, is reported with its file and line."""

from __future__ import annotations

import json
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from boxwright.data.check import Problem, check
from boxwright.data.formats import open_dataset
from boxwright.types import Size
from shapes import write_shapes


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Six valid images: 0 to 3 for training, 4 and 5 for validation."""
    return write_shapes(tmp_path / "coco", {"train": 4, "val": 2})


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "voc", {"train": 4, "val": 2}, format="voc")


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "yolo", {"train": 4, "val": 2}, format="yolo")


def only(path: Path) -> Problem:
    problems = check(path)
    assert len(problems) == 1, [str(problem) for problem in problems]
    assert problems[0].message and problems[0].mend
    return problems[0]


def located(problem: Problem) -> tuple[str, str, int | None, str]:
    return problem.kind, Path(problem.file).name, problem.line, problem.severity


def change(file: Path, section: str, index: int, **values: Any) -> int:
    """Change an entry of a COCO JSON, write it with one entry per line, and return the entry's line."""
    content = json.loads(file.read_text())
    content[section][index] |= values
    entries = {key: ",\n".join(json.dumps(entry) for entry in value) for key, value in content.items()}
    file.write_text("{" + ",\n".join(f'"{key}": [\n{text}\n]' for key, text in entries.items()) + "}")
    before = [len(content[key]) + 2 for key in content if list(content).index(key) < list(content).index(section)]
    return sum(before) + index + 2


def replace_line(file: Path, number: int, change: Callable[[str], str]) -> None:
    lines = file.read_text().splitlines()
    lines[number - 1] = change(lines[number - 1])
    file.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_nothing_wrong(format: str, request: pytest.FixtureRequest) -> None:
    assert check(request.getfixturevalue(format)) == []


def test_missing_image(coco: Path) -> None:
    line = change(coco / "train.json", "images", 2)
    (coco / "images" / "00002.png").unlink()
    assert located(only(coco)) == ("missing image", "train.json", line, "error")


@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_unreadable_image(damage: str, coco: Path, yolo: Path) -> None:
    for file in (coco / "images" / "00001.png", yolo / "images" / "train" / "00001.png"):
        whole = file.read_bytes()
        file.write_bytes({"empty": b"", "text": b"not an image", "truncated": whole[: len(whole) // 2]}[damage])
    assert located(only(coco)) == located(only(yolo)) == ("unreadable image", "00001.png", None, "error")


@pytest.mark.parametrize("box", [[5, 5, 0, 9], [5, 5, 9, 0], [5, 5, -3, 9]])
def test_degenerate_box(box: list[float], coco: Path) -> None:
    line = change(coco / "train.json", "annotations", 1, bbox=box)
    assert located(only(coco)) == ("degenerate box", "train.json", line, "error")


def test_degenerate_box_in_xml(voc: Path) -> None:
    file = voc / "Annotations" / "00000.xml"
    corners = "<xmin>7</xmin><ymin>9</ymin><xmax>7</xmax><ymax>9</ymax>"
    replace_line(file, 10, lambda _: f"  <bndbox>{corners}</bndbox>")
    assert located(only(voc)) == ("degenerate box", "00000.xml", 10, "error")
    assert "(7, 9, 7, 9)" in only(voc).message


def test_box_that_is_not_a_number(coco: Path, yolo: Path) -> None:
    line = change(coco / "train.json", "annotations", 1, bbox=[float("nan"), 1, 2, 3])
    assert located(only(coco)) == ("not a number", "train.json", line, "error")
    replace_line(yolo / "labels" / "train" / "00000.txt", 1, lambda _: "0 0.5 0.5 inf 0.1")
    assert located(only(yolo)) == ("not a number", "00000.txt", 1, "error")


@pytest.mark.parametrize(
    ("box", "severity", "message"),
    [([100, 50, 40, 20], "warning", "reaches outside"), ([200, 50, 9, 9], "error", "lies outside")],
)
def test_box_outside_image(box: list[float], severity: str, message: str, coco: Path) -> None:
    line = change(coco / "val.json", "annotations", 0, bbox=box)
    assert located(only(coco)) == ("box outside image", "val.json", line, severity)
    assert f"{message} its image of 128×96" in only(coco).message


def test_a_box_outside_by_rounding_is_no_problem(coco: Path) -> None:
    change(coco / "val.json", "annotations", 0, bbox=[100, 50, 28.6, 20])
    assert check(coco) == []


def test_unknown_class(coco: Path, yolo: Path, voc: Path) -> None:
    line = change(coco / "train.json", "annotations", 0, category_id=77)
    assert located(check(coco)[0]) == ("unknown class", "train.json", line, "error")
    replace_line(yolo / "labels" / "train" / "00000.txt", 1, lambda text: "9" + text[1:])
    assert located(check(yolo)[0]) == ("unknown class", "00000.txt", 1, "error")
    (voc / "labels.txt").write_text("circle\nsquare\ntriangle\n")
    replace_line(voc / "Annotations" / "00000.xml", 9, lambda _: "  <name>cirlce</name>")
    assert located(check(voc)[0]) == ("unknown class", "00000.xml", 10, "error")


def test_classes_that_differ_in_spelling_only(voc: Path) -> None:
    replace_line(voc / "Annotations" / "00000.xml", 9, lambda _: "  <name>traffic light</name>")
    replace_line(voc / "Annotations" / "00001.xml", 9, lambda _: "  <name>Traffic_Light</name>")
    assert located(only(voc)) == ("ambiguous class", "voc", None, "warning")


def test_duplicate_id(coco: Path) -> None:
    line = change(coco / "train.json", "annotations", 1, id=1)
    assert located(only(coco)) == ("duplicate id", "train.json", line, "warning")
    line = change(coco / "train.json", "annotations", 1, id=2)
    line = change(coco / "train.json", "images", 3, id=0)
    assert ("duplicate id", "train.json", line, "error") in map(located, check(coco))


def test_duplicate_image(coco: Path) -> None:
    """The same pixels in another file, of another format."""
    line = change(coco / "train.json", "images", 3, file_name="images/copy.bmp")
    Image.open(coco / "images" / "00000.png").save(coco / "images" / "copy.bmp")
    (coco / "images" / "00003.png").unlink()
    assert located(only(coco)) == ("duplicate image", "train.json", line, "warning")
    assert "copy.bmp has the same pixels as" in only(coco).message and "00000.png" in only(coco).message


def test_the_same_image_in_two_splits(coco: Path) -> None:
    line = change(coco / "val.json", "images", 1)
    (coco / "images" / "00005.png").write_bytes((coco / "images" / "00001.png").read_bytes())
    assert located(only(coco)) == ("image in two splits", "val.json", line, "error")
    assert "in val has the same pixels as" in only(coco).message


def test_duplicate_box(yolo: Path) -> None:
    file = yolo / "labels" / "train" / "00000.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[0]]))
    assert located(only(yolo)) == ("duplicate box", "00000.txt", len(lines) + 1, "warning")
    assert "on line 1" in only(yolo).message


def test_wrong_size(coco: Path, voc: Path) -> None:
    line = change(coco / "train.json", "images", 0, width=640, height=360)
    assert located(only(coco)) == ("wrong size", "train.json", line, "error")
    assert "annotated as 640×360" in only(coco).message and "is 128×96" in only(coco).message
    line = change(coco / "train.json", "images", 0, width=640, height=480)
    assert located(only(coco)) == ("boxes scaled", "train.json", line, "warning")
    replace_line(voc / "Annotations" / "00000.xml", 4, lambda _: "  <width>130</width>")
    assert located(only(voc)) == ("wrong size", "00000.xml", 3, "warning")


def test_a_size_from_before_exif_orientation_was_applied(tmp_path: Path) -> None:
    coco = write_shapes(tmp_path, {"train": 2, "val": 1}, size=Size(64, 128))
    change(coco / "train.json", "images", 0, width=64, height=128)
    assert "EXIF" in only(coco).mend


def test_crowds_only(coco: Path) -> None:
    content = json.loads((coco / "val.json").read_text())
    line = change(coco / "val.json", "annotations", 0, iscrowd=1)
    for index in range(len(content["annotations"])):
        change(coco / "val.json", "annotations", index, iscrowd=1)
    assert located(only(coco)) == ("only crowds", "val.json", line, "warning")
    assert f"all {len(content['annotations'])} boxes of val are crowds" in only(coco).message


def test_image_without_annotation(coco: Path, yolo: Path) -> None:
    content = json.loads((coco / "val.json").read_text())
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != 5]
    (coco / "val.json").write_text(json.dumps(content))
    assert located(only(coco)) == ("image without annotation", "val.json", 1, "note")
    (yolo / "labels" / "val" / "00005.txt").unlink()
    assert located(only(yolo)) == ("image without annotation", "00005.png", None, "note")


def test_annotation_without_image(coco: Path, yolo: Path) -> None:
    line = change(coco / "train.json", "annotations", 0, image_id=99)
    assert located(check(coco)[0]) == ("annotation without image", "train.json", line, "error")
    (yolo / "labels" / "val" / "x.txt").write_text("")
    assert located(only(yolo)) == ("annotation without image", "x.txt", 1, "error")


def test_images_that_no_annotation_names(voc: Path) -> None:
    for number in range(25):
        Image.new("L", (9, 9), number).save(voc / "JPEGImages" / f"x{number:02d}.png")
    problems = check(voc)
    assert {problem.kind for problem in problems} == {"image not listed"} and len(problems) == 21
    assert located(problems[1]) == ("image not listed", "x00.png", None, "note")
    assert "5 further images" in problems[0].message


def test_broken_files_among_good_ones(voc: Path, coco: Path, yolo: Path) -> None:
    replace_line(voc / "Annotations" / "00001.xml", 4, lambda _: "<width>3</height>")
    assert located(check(voc)[0]) == ("malformed annotation", "00001.xml", 4, "error")
    (coco / "val.json").write_text('{"images": [\n{"id": 1,,}]}')
    assert located(check(coco)[0]) == ("unreadable annotations", "val.json", 2, "error")
    replace_line(yolo / "labels" / "train" / "00000.txt", 1, lambda _: "circle at the left")
    assert located(check(yolo)[0]) == ("malformed annotation", "00000.txt", 1, "error")


def test_a_yaml_that_cannot_be_read_is_one_problem_with_its_line(yolo: Path) -> None:
    (yolo / "data.yaml").write_text("names: [circle]\ntrain: [images/train\n")
    problem = only(yolo)
    assert problem.kind == "unreadable annotations" and Path(problem.file).name == "data.yaml" and problem.line


def test_a_path_that_is_no_dataset_is_one_problem(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    for path, mend in ((tmp_path, "arrange"), (tmp_path / "gone", "check the path"), (tmp_path / "notes.txt", "name")):
        problem = only(path)
        assert (problem.kind, problem.file) == ("unreadable annotations", str(path))
        assert problem.mend.startswith(mend)


def test_errors_come_first_and_print_their_location_in_one_line(coco: Path) -> None:
    change(coco / "train.json", "images", 0, width=130)
    line = change(coco / "val.json", "annotations", 0, bbox=[1, 1, 0, 0])
    problems = check(coco)
    assert [problem.severity for problem in problems] == ["error", "warning"]
    assert str(problems[0]).startswith(f"{coco / 'val.json'}:{line}: error: degenerate box: box (1, 1, 1, 1)")


def test_progress_counts_images(coco: Path) -> None:
    calls: list[tuple[int, int]] = []
    check(coco, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i + 1, 6) for i in range(6)]


def test_blood_cells_as_published_have_two_degenerate_boxes(shared_data: Path, tmp_path: Path) -> None:
    with tarfile.open(shared_data / "bccd.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    assert [located(problem) for problem in check(tmp_path)] == [
        ("degenerate box", "BloodImage_00338.xml", 163, "error"),
        ("degenerate box", "BloodImage_00343.xml", 55, "error"),
    ]


def test_each_odd_image_is_one_problem_and_the_rest_goes_on(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is waited for, read without end or decoded, neither in `data check` nor when the dataset is opened."""
    monkeypatch.setenv("BOXWRIGHT_MAX_MEGAPIXELS", "0.02")  # 128x96 pixels are 0.012288 megapixels
    content = json.loads((coco / "train.json").read_text())
    images = [(coco / image["file_name"]) for image in content["images"]]
    for image in images[1:]:
        image.unlink()
    os.mkfifo(images[1])
    images[2].symlink_to("/dev/zero")
    Image.new("RGB", (200, 101)).save(images[3], "PNG")
    found = {problem.file: problem for problem in check(coco) if problem.kind == "unreadable image"}
    assert {Path(file) for file in found} == set(images[1:])
    for image, message in zip(
        images[1:], ("found a pipe", "found a device", "0.02 megapixels, found 200x101"), strict=True
    ):
        problem = found[str(image)]
        assert message in problem.message and problem.severity == "error" and problem.mend
    with pytest.warns(UserWarning, match="left out 3 × unreadable image"):
        assert len(open_dataset(coco)["train"]) == 1


def test_many_annotations_of_one_image_take_little_memory(tmp_path: Path) -> None:
    """A million took 1.3 GB, each 1300 bytes."""
    count = 5000
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    boxes = [[3 + k % 90, 3 + k // 90, 1 + k % 7, 1 + k % 5] for k in range(count)]
    annotations = [{"id": k, "image_id": 0, "category_id": 0, "bbox": box} for k, box in enumerate(boxes)]
    content = {"images": [{"id": 0, "file_name": "a.png"}], "categories": [{"id": 0, "name": "cat"}]}
    (tmp_path / "train.json").write_text(json.dumps(content | {"annotations": annotations}))
    del annotations, boxes
    check(tmp_path)  # what is imported at the first call
    tracemalloc.start()
    assert check(tmp_path) == []
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 800 * count


def test_repeated_boxes_name_the_first(coco: Path) -> None:
    content = json.loads((coco / "train.json").read_text())
    row = content["annotations"][0]
    start = len(content["annotations"])
    content["annotations"] += [row | {"id": 1000 + k} for k in range(3)]
    (coco / "train.json").write_text(json.dumps(content))
    first = change(coco / "train.json", "annotations", 0)
    found = [(problem.kind, problem.line) for problem in check(coco)]
    assert found == [("duplicate box", first + start + k) for k in range(3)]
    assert all(problem.message.endswith(f"as before, on line {first}") for problem in check(coco))
