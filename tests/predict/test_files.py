"""What is written is read again by this project's own readers, and holds the same boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from boxwright.data.formats import open_dataset
from boxwright.files import partial_of
from boxwright.predict.files import CocoFile, yolo_lines
from halves import NAMES, halves


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, (width, height) in enumerate(((40, 30), (20, 60), (50, 10))):
        PIL.Image.fromarray(np.full((height, width, 3), 50 * number, np.uint8)).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def test_a_coco_file_is_a_dataset(tmp_path: Path, photos: list[Path]):
    with CocoFile(tmp_path / "out" / "train.json", NAMES) as file:
        for result in halves().stream(photos, threshold=0.0):
            file.add(result)
    dataset = open_dataset(tmp_path / "out" / "train.json")["train"]
    found = {dataset.path(i).name: dataset.target(i) for i in range(len(dataset))}
    assert dataset.names == NAMES
    for name, target in found.items():
        width, height = {"0.png": (40, 30), "1.png": (20, 60), "2.png": (50, 10)}[name]
        assert target.boxes.tolist() == [[0, 0, width, height], [0, 0, width / 2, height]]
        assert target.labels.tolist() == [0, 1]
    content = json.loads((tmp_path / "out" / "train.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [f"../photos/{number}.png" for number in range(3)]
    assert [annotation["score"] for annotation in content["annotations"]] == pytest.approx([0.9, 0.4] * 3)


def test_a_coco_file_keeps_what_was_found_before_an_error(tmp_path: Path, photos: list[Path]):
    path = tmp_path / "found.json"
    with pytest.raises(RuntimeError), CocoFile(path, NAMES) as file:
        raise RuntimeError
    assert list(tmp_path.iterdir()) == [photos[0].parent]
    path.write_text("older")
    with pytest.raises(RuntimeError) as caught, CocoFile(path, NAMES) as file:
        file.add(halves()(photos[0]))
        (line,) = map(json.loads, partial_of(path).read_text().splitlines())  # as where the process is killed
        raise RuntimeError
    assert caught.value.__notes__ == [f"the results so far are in {path}.partial"] and path.read_text() == "older"
    content = json.loads(partial_of(path).read_text())
    assert content["images"] == [line["image"]] and content["annotations"] == line["annotations"]
    assert len(content["annotations"]) == 1
    with CocoFile(path, NAMES) as file:
        file.add(halves()(photos[0]))
    assert json.loads(path.read_text()) == content and not partial_of(path).exists()


def test_a_coco_file_needs_the_images_name(tmp_path: Path):
    with pytest.raises(ValueError, match="has no path"):
        CocoFile(tmp_path / "found.json", NAMES).add(halves()(np.zeros((9, 9, 3), np.uint8)))


def test_yolo_has_the_center_and_the_size_as_fractions(photos: list[Path]):
    whole, half = yolo_lines(halves()(photos[0], 0.0)).splitlines()
    assert whole == "0 0.500000 0.500000 1.000000 1.000000"
    assert half == "1 0.250000 0.500000 0.500000 1.000000"
    assert yolo_lines(halves()(photos[0], 1.0)) == ""
