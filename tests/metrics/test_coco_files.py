"""Annotation and results files for the evaluation: read at once or entry by entry with the same columns and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from boxwright.metrics import coco_files
from boxwright.metrics.coco import columns
from boxwright.metrics.coco_files import read_annotations, read_results
from boxwright.types import Detections, Target


def documents() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    annotations = [
        {"image_id": 3, "category_id": 2, "bbox": [1, 2, 3.5, 4], "area": 9, "iscrowd": 1, "segmentation": [[1, 2]]},
        {"image_id": 1, "category_id": 7, "bbox": [0.1, 0.2, 0.3, 1e300]},
        {"image_id": 8, "category_id": 7, "bbox": [1, 2, 3, 4]},  # of no image: it does not count
    ]
    categories = [{"id": 7, "name": "dog"}, {"id": 2, "name": "dog"}]
    truth = {"images": [{"id": 3}, {"id": 1, "width": 9}], "categories": categories, "annotations": annotations}
    results = [
        {"image_id": 1, "category_id": 7, "bbox": [0.1, 2, 3, 4], "score": 0.1},
        {"image_id": 3, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 1, "more": None},
    ]
    return truth, results


def read(folder: Path, truth: str, results: str) -> list[Any]:
    """The columns of both files, or the error."""
    (folder / "truth.json").write_bytes(truth.encode("utf-8", "surrogatepass"))
    (folder / "results.json").write_bytes(results.encode())
    try:
        annotations = read_annotations(folder / "truth.json")
        rows = read_results(folder / "results.json", annotations)
    except ValueError as error:
        return [str(error)]
    return [*annotations[:3], annotations.objects.tolist(), rows.tolist()]


def read_both(folder: Path, truth: str, results: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], Any, Any]:
    """Which file was read entry by entry, what `read` gave, and what it gives if nothing is decoded at once."""
    slow: list[str] = []
    with monkeypatch.context() as patch:
        for name in ("_read_any_annotations", "_read_any_results"):
            any_of, label = getattr(coco_files, name), name.removeprefix("_read_any_")
            patch.setattr(coco_files, name, lambda *given, f=any_of, label=label: (slow.append(label), f(*given))[1])
        at_once = read(folder, truth, results)
    monkeypatch.setattr(coco_files, "read_usual", lambda path, type: None)
    return slow, at_once, read(folder, truth, results)


def test_usual_files_are_decoded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, results = map(json.dumps, documents())
    slow, at_once, one_by_one = read_both(tmp_path, truth, results, monkeypatch)
    assert slow == [] and at_once == one_by_one
    images, categories, names, objects, rows = at_once
    assert (images, categories, names) == ({1: 0, 3: 1}, {2: 0, 7: 1}, ["dog", "dog (2)"])
    assert objects == [[1, 0, 1, 2, 3.5, 4, 9, 1], [0, 1, 0.1, 0.2, 0.3, 1e300, 0.3 * 1e300, 0]]
    assert rows == [[0, 0.1, 2, 3, 4, 0.1, 1], [1, 1, 2, 3, 4, 1, 0]]


@pytest.mark.parametrize(
    ("part", "old", "new"),
    [
        ("annotations", '"image_id": 3', '"image_id": 3.0'),
        ("annotations", '{"id": 3}', '{"id": 3.5}'),
        ("annotations", '{"id": 3}', '{"id": null}'),
        ("annotations", '"iscrowd": 1', '"iscrowd": "1"'),
        ("annotations", '"iscrowd": 1', '"iscrowd": 2'),
        ("annotations", '"iscrowd": 1', f'"iscrowd": 1{400 * "0"}'),
        ("annotations", '"area": 9', '"area": null'),
        ("annotations", "1e+300", "1e999"),
        ("annotations", "[0.1, 0.2, 0.3, 1e+300]", "[1e308, 1e308, 1e308, 1]"),
        ("annotations", "[1, 2, 3.5, 4]", "[1, 2, 3.5]"),
        ("annotations", '"images": [', '"images": [], "images": ['),
        ("annotations", '"images": [', '"images": [],\n"image": ['),
        ("annotations", '"name": "dog"}]', '"name": "dog\ud800"}]'),
        ("annotations", '"annotations": [', '"annotations": null, "others": ['),
        ("results", '"image_id": 3', '"image_id": 8'),
        ("results", '"category_id": 2', '"category_id": 3'),
        ("results", '"score": 1', '"score": "1"'),
        ("results", '"score": 1', '"score": null'),
        ("results", '"score": 1', '"scores": 1'),
        ("results", '"score": 1', '"score": NaN'),
        ("results", "[1, 2, 3, 4]", "[1e308, 1e308, 3, 4]"),
        ("results", "[1, 2, 3, 4]", "[1, 2, 3, 4, 5]"),
    ],
    ids=lambda text: ascii(text)[1:24],
)
def test_other_files_are_read_entry_by_entry(
    part: str, old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: dict[str, str] = dict(zip(("annotations", "results"), map(json.dumps, documents()), strict=True))
    assert old in texts[part]
    texts[part] = texts[part].replace(old, new, 1)
    slow, at_once, one_by_one = read_both(tmp_path, texts["annotations"], texts["results"], monkeypatch)
    assert at_once == one_by_one
    refused_after_decoding = new.startswith("[1e308") and part == "results"
    assert (part in slow) != refused_after_decoding


def test_columns_of_different_types_are_exact() -> None:
    boxes = torch.tensor([[0.1, 0.2, 5.3, 7.7]])
    detections = [
        Detections(boxes.requires_grad_(), torch.tensor([0.3]), torch.tensor([1])),
        Detections(boxes.detach().double() + 1e-12, torch.tensor([0.3], dtype=torch.float64), torch.tensor([0])),
        Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)),
    ]
    rows, objects = columns(detections, [Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))] * 3, ["a", "b"])
    assert rows.boxes.tolist() == [boxes[0].tolist(), (boxes[0].double() + 1e-12).tolist()]
    assert rows.scores.tolist() == [torch.tensor(0.3).item(), 0.3]
    assert (rows.images.tolist(), rows.labels.tolist(), len(objects.boxes)) == ([0, 1], [1, 0], 0)
