"""The images on which two cells differ most are found, drawn three times, and those that cannot be read left out."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from boxwright.bench.report.disagreements import Outcome, Side, disagreements, show
from boxwright.data.dataset import Dataset
from boxwright.data.formats import open_dataset
from boxwright.draw.boxes import class_colors
from boxwright.types import Detections, Target

CAT = (10.0, 20.0, 40.0, 60.0)
AWAY = (60.0, 60.0, 79.0, 79.0)


def found(*scores: float, box: tuple[float, ...] = CAT, label: int = 0) -> Detections:
    """As many boxes as scores; of one object only the first is right."""
    boxes = torch.tensor([box] * len(scores)).reshape(-1, 4)
    return Detections(boxes, torch.tensor(scores), torch.full((len(scores),), label))


def target() -> Target:
    return Target(torch.tensor([CAT]), torch.tensor([0]))


def side(name: str, *detections: Detections, thresholds: tuple[float, ...] = (0.5, 0.5)) -> Side:
    return Side(name, detections, thresholds)


def test_an_outcome_counts_right_wrong_and_missed():
    assert Outcome.of(found(0.9, 0.8), target()) == (1, 1, 0)
    assert Outcome.of(found(0.9, box=AWAY), target()) == (0, 1, 1)
    crowd = target().replace(crowd=torch.tensor([True]))
    assert Outcome.of(found(0.9), crowd) == (0, 0, 0)  # neither right nor wrong, and nothing to be missed


def test_only_what_scores_at_least_the_threshold_of_its_class_is_shown():
    both = Detections(torch.tensor([CAT, CAT, AWAY]), torch.tensor([0.9, 0.5, 0.6]), torch.tensor([0, 0, 1]))
    assert side("a", both, thresholds=(0.5, 0.7)).shown(0).scores.tolist() == pytest.approx([0.9, 0.5])
    assert side("a", both, thresholds=(0.6, 0.6)).shown(0).labels.tolist() == [0, 1]
    assert side("a", both, thresholds=(math.nan, 0.0)).shown(0).labels.tolist() == [1]


def test_images_are_ranked_by_how_far_right_minus_wrong_are_apart():
    #            1 right       1 wrong            1 right       1 right, 2 wrong      nothing
    first = side("a", found(0.9), found(0.9, box=AWAY), found(0.9), found(0.9, 0.8, 0.7), found())
    #             nothing  1 right       1 right       1 right       nothing above the threshold
    second = side("b", found(), found(0.9), found(0.9), found(0.9), found(0.4))
    targets = [target()] * 5
    assert disagreements(first, second, targets) == [1, 3, 0]  # 2, 2 and 1 apart; alike: by index
    assert disagreements(second, first, targets, count=1) == [1]
    assert disagreements(first, first, targets) == []


def test_both_cells_need_detections_on_all_images():
    with pytest.raises(ValueError, match="each of 2 images, got 1 of a and 2 of b"):
        disagreements(side("a", found()), side("b", found(), found()), [target()] * 2)


def dataset(folder: Path, count: int, width: int = 80, height: int = 80) -> Dataset:
    """Grey images, each with a cat."""
    images = [{"id": i, "file_name": f"{i}.png", "width": width, "height": height} for i in range(count)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": (10, 20, 30, 40)} for i in range(count)]
    for i in range(count):
        PIL.Image.fromarray(np.full((height, width, 3), 100, np.uint8)).save(folder / f"{i}.png")
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    (folder / "test.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": names}))
    return open_dataset(folder / "test.json")["test"]


def decode(source: str) -> np.ndarray:
    head, _, body = source.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(body))))


def test_an_image_is_shown_three_times_with_its_boxes(tmp_path: Path):
    first, second = side("first", found(0.9, box=AWAY)), side("second", found(0.9))
    (shown,) = show(first, second, dataset(tmp_path, 1))
    assert shown.caption == "0.png"
    assert [panel.title for panel in shown.panels] == [
        "annotation: 1 object",
        "first: 0 right, 1 wrong, 1 missed",
        "second: 1 right, 0 wrong, 0 missed",
    ]
    cat = np.array(class_colors(["cat", "dog"])["cat"])
    for panel, box in zip(shown.panels, (CAT, AWAY, CAT), strict=True):
        image = decode(panel.source)
        assert image.shape[:2] == (panel.height, panel.width) == (480, 480)  # six times as large
        left, bottom = int(6 * box[0]), int(6 * box[3]) - 1
        edge = image[bottom, left : left + 90].astype(int).mean(axis=0)
        assert np.abs(edge - cat).sum() < np.abs(edge - 100).sum()  # the lower side of the box; WebP blurs colours
        assert "0.png" in panel.alt


def test_a_large_image_is_made_smaller_with_its_boxes(tmp_path: Path):
    first, second = side("first", found()), side("second", found(0.9, box=(0.0, 0.0, 960.0, 480.0)))
    (shown,) = show(first, second, dataset(tmp_path, 1, width=960, height=480))
    assert {(panel.width, panel.height) for panel in shown.panels} == {(480, 240)}
    assert np.abs(decode(shown.panels[2].source)[238, 5:475].astype(int) - 100).max(axis=1).mean() > 40


def test_an_image_that_cannot_be_read_is_left_out(tmp_path: Path):
    images = dataset(tmp_path, 4)
    (tmp_path / "1.png").write_bytes(b"")
    first, second = side("first", *[found()] * 4), side("second", *[found(0.9)] * 4)
    assert [one.caption for one in show(first, second, images, count=2)] == ["0.png", "2.png"]
    assert [one.caption for one in show(first, second, images)] == ["0.png", "2.png", "3.png"]
    assert show(first, second, images, count=0) == []
