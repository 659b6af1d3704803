"""`boxwright data`: problems with their place and mend, counts and samples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import PIL.Image
import pytest

from boxwright import cli
from shapes import write_shapes


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "shapes", {"train": 5, "val": 2}, format="voc")


def break_box(dataset: Path) -> tuple[Path, int]:
    """Makes the first box of the first image 0 wide; the file and line of its <bndbox> or nearby."""
    file = sorted((dataset / "Annotations").glob("*.xml"))[0]
    text = file.read_text()
    start = text.index("<xmin>") + len("<xmin>")
    left = text[start : text.index("</xmin>")]
    at = text.index("<xmax>") + len("<xmax>")
    file.write_text(text[:at] + left + text[text.index("</xmax>") :])
    return file, text[:start].count("\n") + 1


def test_nothing_is_wrong(dataset: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["data", "check", str(dataset)]) == 0
    assert capsys.readouterr().out == "nothing is wrong in 7 images\n"


def test_a_problem_has_its_file_line_and_mend(dataset: Path, capsys: pytest.CaptureFixture[str]):
    file, line = break_box(dataset)
    assert cli.main(["data", "check", str(dataset)]) == 1
    kind, where, message, mend, _, total = capsys.readouterr().out.splitlines()
    assert kind == "error: degenerate box (1)"
    path, _, number = where.strip().rpartition(":")
    assert Path(path) == file and abs(int(number) - line) <= 3
    assert "0 wide" in message and mend.startswith("    mend: ")
    assert total == "1 error"


def test_ten_places_of_a_kind_are_enough_unless_all_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    dataset = write_shapes(tmp_path / "many", {"train": 13}, format="voc")
    for image in (dataset / "JPEGImages").iterdir():
        image.unlink()
    assert cli.main(["data", "check", str(dataset)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "error: missing image (13)" and sum("mend:" in line for line in lines) == 10
    assert lines[-3:] == ["  and 3 more; --all or --json names each", "", "13 errors"]
    assert cli.main(["data", "check", str(dataset), "--all"]) == 1
    shown = capsys.readouterr().out
    assert shown.count("mend:") == 13 and "more" not in shown


def test_a_message_of_several_lines_stays_below_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["data", "check", str(tmp_path)]) == 1
    kind, *details, empty, total = capsys.readouterr().out.splitlines()
    assert (kind, empty, total) == ("error: unreadable annotations (1)", "", "1 error")
    assert len(details) > 4 and all(line.startswith("    ") for line in details[1:])


def test_warnings_alone_are_no_failure(dataset: Path, capsys: pytest.CaptureFixture[str]):
    train = (dataset / "ImageSets" / "Main" / "train.txt").read_text().split()
    twins = [dataset / "JPEGImages" / name for name in (f"{train[0]}.jpg", f"{train[1]}.jpg")]
    if not twins[0].exists():
        twins = [path.with_suffix(".png") for path in twins]
    twins[1].write_bytes(twins[0].read_bytes())
    assert cli.main(["data", "check", str(dataset)]) == 0
    assert "warning: duplicate image" in capsys.readouterr().out


def test_problems_as_json(dataset: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["data", "check", str(dataset), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    file, _ = break_box(dataset)
    assert cli.main(["data", "check", str(dataset), "--json"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)
    assert problem["kind"] == "degenerate box" and Path(problem["file"]) == file and problem["severity"] == "error"


def test_what_is_no_dataset_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["data", "check", str(tmp_path / "missing")]) == 1
    shown = capsys.readouterr().out
    assert "missing" in shown and "mend: check the path" in shown


def test_show_counts_and_draws_each_split(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "samples"
    assert cli.main(["data", "show", str(dataset), "--out", str(out), "--augmented", "strong"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:3] == [["train", "val"], ["images", "5", "2"]]
    boxes = {row[0]: [int(cell) for cell in row[1:]] for row in lines[3:]}
    total = boxes.pop("boxes")
    assert total == [sum(column) for column in zip(*boxes.values(), strict=True)]
    assert PIL.Image.open(out / "train.jpg").size == (3 * 328 + 8, 2 * 248 + 8)  # five cells, each 320 x 240
    assert PIL.Image.open(out / "val.jpg").size == (2 * 328 + 8, 248 + 8)


def test_show_one_split(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "samples"
    words = ["data", "show", str(dataset), "--out", str(out), "--samples", "1", "--split"]
    assert cli.main([*words, "val"]) == 0
    assert [path.name for path in out.glob("*.jpg")] == ["val.jpg"]
    assert cli.main([*words, "test"]) == 1
    assert "has no test split; it has train, val" in capsys.readouterr().err
    assert cli.main(["data", "show", str(dataset), "--samples", "0"]) == 1
    assert "--samples is 1 or more, got 0" in capsys.readouterr().err
    assert cli.main([*words, "val", "--out", __file__]) == 1
    assert "--out names a folder" in capsys.readouterr().err
    (out / "val.jpg").write_bytes(b"mine")
    assert cli.main([*words, "val"]) == 1
    assert "val.jpg, which boxwright did not write or which was changed since" in capsys.readouterr().err
    assert (out / "val.jpg").read_bytes() == b"mine"


def test_convert_prints_what_was_written_and_what_was_lost(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["data", "convert", str(dataset), "--to", "yolo", "--out", str(tmp_path / "yolo")]
    file = sorted((dataset / "Annotations").glob("*.xml"))[0]
    file.write_text(file.read_text().replace("<name>", "<difficult>1</difficult><name>", 1))
    assert cli.main(words) == 0
    shown = capsys.readouterr()
    first, head, images, boxes = shown.out.splitlines()
    assert first == f"{tmp_path / 'yolo'}: yolo, images copied"
    assert (head.split(), images.split()) == (["train", "val"], ["images", "5", "2"])
    assert shown.err.startswith("boxwright data convert: YOLO has no difficult objects: 1 object written as others")
    assert cli.main(words) == 1
    assert "has files in it; give another, or remove it" in capsys.readouterr().err
    assert cli.main([*words[:-1], str(tmp_path / "none"), "--images", "none", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["images"] == {"train": 5, "val": 2} and "put them into images/train/" in shown.err
    assert cli.main([*words[:-1], str(dataset / "yolo")]) == 1
    assert "which belongs to the dataset that is read" in capsys.readouterr().err


def test_split_warns_of_few_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source, out = write_shapes(tmp_path / "shapes", 40, format="labelme"), tmp_path / "out"
    words = ["data", "split", str(source), "--out"]
    assert cli.main([*words, str(out), "--val-fraction", "0.3", "--test-fraction", "0", "--form", "folders"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{out}: coco, images copied") and "val has " in shown.err
    assert "fewer than 50: too few to measure AP" in shown.err
    assert cli.main([*words, str(tmp_path / "again"), "--val-fraction", "1.2"]) == 1
    assert "expected the val fraction in 0..1" in capsys.readouterr().err
    assert cli.main(["data", "split", str(out), "--out", str(tmp_path / "again")]) == 1
    assert "--redraw draws all of them again" in capsys.readouterr().err
    assert cli.main([*words, str(tmp_path / "lists"), "--images", "link"]) == 1
    assert "--images is for --form folders" in capsys.readouterr().err


def test_merge_names_one_photograph_in_two_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    first = write_shapes(tmp_path / "first", {"train": 3}, format="yolo", seed=1)
    second = write_shapes(tmp_path / "second", {"train": 1, "val": 1}, format="yolo", seed=2)
    out = str(tmp_path / "out")
    assert cli.main(["data", "merge", str(first), str(second), "--out", out, "--images", "none"]) == 0
    assert "same content" not in capsys.readouterr().err
    copied, twin = sorted(first.rglob("*.png"))[0], next(path for path in second.rglob("*.png") if "val" in str(path))
    shutil.copy(copied, twin)
    assert cli.main(["data", "merge", str(first), str(second), "--out", f"{out}2", "--images", "none"]) == 0
    shown = capsys.readouterr().err
    assert f"{twin} in val has the same content as {copied} in train, so that metrics are too good" in shown
    assert f"boxwright data split {out}2 --redraw" in shown


def test_merge_names_what_is_unclear(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other = write_shapes(tmp_path / "other", 3, format="yolo")
    (other / "classes.txt").write_text("Circle\nsquare\ntriangle\n")
    assert cli.main(["data", "merge", str(dataset), str(other), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{tmp_path / 'out'}: voc, images copied") and "Circle and circle" not in shown.out
    assert "circle and Circle stay different classes" in shown.err
    assert f"{other}: without splits, so all images are in train" in shown.err
    assert "3 images got another name" in shown.err
    assert cli.main(["data", "merge", str(dataset), "--out", str(tmp_path / "no")]) == 1
    assert "two datasets or more, got 1" in capsys.readouterr().err
    assert cli.main(["data", "merge", str(dataset), str(other)]) == 1
    assert "Name a new one with --out" in capsys.readouterr().err
    assert cli.main(["data", "merge", str(dataset), str(other), "--out", str(other / "inside")]) == 1
    assert "which belongs to the dataset that is read" in capsys.readouterr().err


def test_stats_as_table_json_and_picture(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plot = tmp_path / "stats.png"
    assert cli.main(["data", "stats", str(dataset), "--plot", str(plot)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[1:])) <= 80
    rows = {line[:26].strip(): line[26:].split() for line in lines[2:12]}
    assert rows["images"] == ["5", "2"] and rows["without a box"] == ["0", "0"]
    assert PIL.Image.open(plot).size == (1440, 840)
    assert cli.main(["data", "stats", str(dataset), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["splits"]["val"]["images"] == 2 and content["all"]["side"]["median"] > 0
    assert sum(content["all"]["boxes"].values()) == sum(sum(c["boxes"].values()) for c in content["classes"].values())
    plot.write_bytes(b"mine")
    assert cli.main(["data", "stats", str(dataset), "--plot", str(plot)]) == 1
    assert plot.read_bytes() == b"mine" and "boxwright did not write" in capsys.readouterr().err
    assert cli.main(["data", "stats", str(dataset), "--plot", "a.jpg"]) == 1
    assert "--plot names a .png, .svg or .pdf" in capsys.readouterr().err
