"""`boxwright propose` on datasets, on folders of images good and bad, and into a file that grows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from safetensors.numpy import save_file

from boxwright import cli
from boxwright.data.image import read_image
from boxwright.proposals import ProposalsFromFile, build_proposer, read_proposals
from shapes import write_shapes

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def dataset() -> Path:
    return write_shapes("shapes", {"train": 3, "val": 2}, format="coco")


@pytest.fixture
def folder() -> Path:
    """Two images, one of them in a subfolder, and one that is none."""
    path = Path("photos")
    (path / "more").mkdir(parents=True)
    for name, color in (("red.png", (200, 0, 0)), ("more/blue.png", (0, 0, 200))):
        image = PIL.Image.new("RGB", (60, 40), color)
        image.paste((240, 240, 240), (10, 10, 40, 30))
        image.save(path / name)
    (path / "text.jpg").write_text("this is no image\n")
    return path


def test_a_dataset_has_its_recall(dataset: Path, capsys: Capture):
    assert cli.main(["propose", str(dataset), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert (numbers["images"], numbers["known"], numbers["failed"]) == (5, 0, [])
    assert 1 < numbers["proposals"] < 2000 and numbers["objects"] >= 5
    assert list(numbers["recall"]) == ["0.5", "0.7"] and list(numbers["recall"]["0.5"]) == [
        "100",
        "500",
        "1000",
        "2000",
    ]
    assert 0.7 < numbers["recall"]["0.7"]["2000"] <= numbers["recall"]["0.5"]["2000"] <= 1


def test_the_second_time_everything_is_known(dataset: Path, capsys: Capture):
    assert cli.main(["propose", str(dataset), "--split", "val"]) == 0
    first, objects, head, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("2 images in ") and " 0 of them cached; " in first
    assert objects.startswith("share of the ") and head.split() == ["100", "500", "1000", "2000"]
    assert [row.split()[:2] for row in rows] == [["IoU", "0.5"], ["IoU", "0.7"]]
    assert all(cell.endswith("%") for row in rows for cell in row.split()[2:])
    assert cli.main(["propose", str(dataset), "--json", "--count", "10"]) == 0  # what is kept does for fewer
    again = json.loads(capsys.readouterr().out)
    assert (again["images"], again["known"]) == (5, 2) and again["proposals"] <= 10


def test_training_finds_the_proposals_that_were_kept(folder: Path):
    assert cli.main(["propose", str(folder / "red.png")]) == 0
    propose = build_proposer("selective_search", 300)
    assert propose.has(read_image(folder / "red.png"))
    assert not propose.has(read_image(folder / "more" / "blue.png"))


def test_a_folder_with_a_bad_image_is_done_but_for_that(folder: Path, capsys: Capture):
    assert cli.main(["propose", str(folder), "--out", "found/boxes.safetensors", "--draw", "drawn"]) == 1
    shown = capsys.readouterr()
    assert "text.jpg: expected an image, found text that begins 'this is no image" in shown.err
    assert "photos is no dataset, so its images are searched" in shown.err
    assert shown.out.startswith("2 images in ") and shown.out.endswith("1 could not be read or drawn\n")
    propose = ProposalsFromFile(Path("found/boxes.safetensors"))
    assert [0, 0, 60, 40] in propose(read_image(folder / "red.png")).tolist()
    assert {path.name.split("-")[1] for path in Path("drawn").glob("*.jpg")} == {"red.jpg", "blue.jpg"}


def test_a_file_grows(folder: Path):
    assert cli.main(["propose", "photos/red.png", "--out", "boxes.safetensors"]) == 0
    assert cli.main(["propose", "photos/more/*.png", "--out", "boxes.safetensors", "--count", "1"]) == 0
    assert sorted(len(boxes) == 1 for boxes in read_proposals("boxes.safetensors").values()) == [False, True]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no images. Name a dataset"),
        (["photos", "--draw", "drawn", "--top", "0"], "--top is 1 or more, got 0"),
        (["missing.jpg"], "missing.jpg: there is no such file or folder"),
        (["photos", "--count", "0"], "--count is 1 or more, got 0"),
        (["photos", "--workers", "0"], "--workers is 1 or more, got 0"),
        (["photos", "--out", "boxes.npz"], "--out names a .safetensors file, got boxes.npz"),
        (["photos", "--draw", "photos/red.png"], "--draw names a folder"),
        (["photos/red.png", "--split", "val"], "--split is for one dataset"),
        (["photos", "--split", "val"], "photos is not a dataset in a supported layout"),
        (["shapes", "--split", "test"], "shapes has no test split; it has train, val"),
        (["missing.json"], "missing.json"),
    ],
)
def test_mistakes_are_one_message(words: list[str], message: str, folder: Path, dataset: Path, capsys: Capture):
    assert cli.main(["propose", *words]) == 1
    shown = capsys.readouterr()
    assert message in shown.err and "Traceback" not in shown.err and shown.out == ""


def test_only_proposals_and_drawings_of_its_own_are_replaced(folder: Path, capsys: Capture):
    words = ["propose", "photos/red.png", "--out", "boxes.safetensors", "--draw", "drawn"]
    save_file({"weight": np.zeros(3, np.float32)}, "boxes.safetensors")  # such as a checkpoint
    before = Path("boxes.safetensors").read_bytes()
    assert cli.main(words) == 1
    assert "boxes.safetensors is no file of proposals that boxwright wrote" in capsys.readouterr().err
    assert Path("boxes.safetensors").read_bytes() == before
    Path("boxes.safetensors").unlink()
    assert cli.main(words) == cli.main(words) == 0
    (drawing,) = Path("drawn").glob("*.jpg")
    drawing.write_bytes(b"mine")
    assert cli.main(words) == 1
    assert f"--draw would replace {drawing}, which boxwright did not write" in capsys.readouterr().err
    assert drawing.read_bytes() == b"mine"


def test_a_damaged_file_of_proposals_is_not_overwritten(folder: Path, capsys: Capture):
    Path("boxes.safetensors").write_text("not what it was")
    assert cli.main(["propose", "photos/red.png", "--out", "boxes.safetensors"]) == 1
    assert "boxes.safetensors cannot be read as proposals" in capsys.readouterr().err
    assert Path("boxes.safetensors").read_text() == "not what it was"
