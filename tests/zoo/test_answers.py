"""Detections of a user's model as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boxwright.zoo.answers import read_answers
from boxwright.zoo.foreign import ForeignError

NAMES = ("cat", "dog")
GOOD: dict[str, Any] = {"boxes": [[1, 2, 3.5, 4], [0, 0, 9, 9]], "scores": [0.5, 0.75], "labels": [1, 2]}


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(path)
    return path


def read(photo: Path, content: object, first_label: int = 1) -> Any:
    file = photo.with_suffix(".json")
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    photos, (found,) = read_answers({photo: file}, NAMES, first_label)
    assert {name: image.shape for name, image in photos.items()} == {"a.png": (10, 20, 3)}
    return found


RESULTS = [
    {"image_id": 7, "bbox": [1, 2, 2.5, 2], "score": 0.5, "category_id": 1},
    {"image_id": 7, "bbox": [0, 0, 9, 9], "score": 0.75, "category_id": 2},
]


@pytest.mark.parametrize("content", [GOOD, GOOD | {"labels": ["cat", "dog"]}, RESULTS])
def test_best_first_with_labels_as_here(photo: Path, content: object) -> None:
    found = read(photo, content)
    assert found.boxes.tolist() == [[0, 0, 9, 9], [1, 2, 3.5, 4]]
    assert found.scores.tolist() == [0.75, 0.5] and found.labels.tolist() == [1, 0]


def test_labels_from_zero(photo: Path) -> None:
    assert read(photo, GOOD | {"labels": [1, 0]}, first_label=0).labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expecting property name"),
        ({"boxes": []}, "'scores' is missing"),
        (GOOD | {"scores": [0.5]}, "2 boxes, 1 scores and 2 labels"),
        (GOOD | {"labels": [0, 1]}, r"label 0; the labels of the 2 classes are 1\.\.2"),
        (GOOD | {"labels": ["cat", "cow"]}, "no class 'cow'; there are cat, dog"),
        (GOOD | {"boxes": [[9, 9, 3, 3], [0, 0, 9, 9]]}, r"are these \[x, y, width, height\]"),
        (GOOD | {"boxes": [[1, 2, 3], [0, 0, 9]]}, "a.json: expected"),
        (GOOD | {"scores": [0.5, float("nan")]}, "not a finite number"),
        ([RESULTS[0], RESULTS[1] | {"image_id": 8}], "results are of 2 images"),
        (3, "a.json: expected the detections"),
        ({"boxes": [], "scores": [], "labels": []}, "have no detection, and prove nothing"),
    ],
)
def test_what_is_wrong(photo: Path, content: object, message: str) -> None:
    with pytest.raises(ForeignError, match=message):
        read(photo, content)
