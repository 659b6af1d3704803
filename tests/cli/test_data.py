"""`boxwright data`: problems with their place and mend, counts and samples."""

from __future__ import annotations

import json
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
    assert capsys.readouterr().out == "nothing is wrong\n"


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
