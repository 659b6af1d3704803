"""The recipe of an ONNX file in a race, with a real detector, YOLOX-nano, on real photographs."""

from __future__ import annotations

import importlib.util
import tarfile
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bench.tiny_race import RULES, patch
from boxwright.bench import race
from boxwright.bench.run.job import load_detections
from boxwright.boxes.geometry import xyxy_to_xywh
from boxwright.data.dataset import Dataset
from boxwright.data.formats import Splits, open_dataset
from boxwright.types import Detections

pytest.importorskip("onnxruntime")
RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "race_onnx.py"
IMAGES = 16


@pytest.fixture(scope="module")
def weights(shared_data: Path) -> Path:
    path = shared_data / "peers" / "yolox_nano.onnx"
    if not path.is_file():
        pytest.skip(f"there is no detector at {path}")
    return path


@pytest.fixture(scope="module")
def photographs(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Splits:
    """The first images of COCO's val2017, which the detector has not learnt, with all 80 classes."""
    folder = tmp_path_factory.mktemp("coco128")
    with tarfile.open(shared_data / "coco128.tar") as tar:
        tar.extractall(folder, filter="data")
    with warnings.catch_warnings():  # two images of train2017 have no annotation
        warnings.simplefilter("ignore")
        splits = open_dataset(folder)
    few = splits["val"].select(range(IMAGES))
    return Splits({"train": few, "val": few, "test": few}, folder, splits.format, (), 0)


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    if not RECIPE.is_file():
        pytest.skip("recipes are not in a source distribution")
    spec = importlib.util.spec_from_file_location("race_onnx", RECIPE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pycocotools_ap(dataset: Dataset, detections: list[Detections]) -> float:
    """AP of the boxes as they are, without a file of ours."""
    annotations, results = [], []
    for image, found in enumerate(detections):
        target = dataset.target(image)
        boxes, columns = xyxy_to_xywh(target.boxes.double()).tolist(), (target.labels.tolist(), target.area.tolist())
        for box, label, area in zip(boxes, *columns, strict=True):
            annotation = {"image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": 0}
            annotations.append(annotation | {"id": len(annotations) + 1})
        boxes, columns = xyxy_to_xywh(found.boxes.double()).tolist(), (found.labels.tolist(), found.scores.tolist())
        for box, label, score in zip(boxes, *columns, strict=True):
            results.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
    truth: Any = COCO()
    truth.dataset = {
        "images": [{"id": image} for image in range(len(dataset))],
        "categories": [{"id": label, "name": name} for label, name in enumerate(dataset.names)],
        "annotations": annotations,
    }
    truth.createIndex()
    evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return float(evaluator.stats[0])


def test_an_onnx_file_takes_part_and_its_ap_is_that_of_pycocotools(
    weights: Path, photographs: Splits, recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    patch(monkeypatch)
    entrant = recipe.external_model(weights, photographs.names, threads=1)
    (entry,) = race([entrant], photographs, RULES, out=tmp_path, report_images=0).entries
    assert (entry.name, entry.state) == ("yolox_nano", "external") and entry.speed["own"].p50.value > 0
    detections = load_detections(tmp_path / "external" / "yolox_nano.npz")
    assert entry.quality is not None and len(detections) == IMAGES
    assert entry.quality.seeds[0] == pycocotools_ap(photographs["test"], detections)
    assert 0.3 < entry.quality.seeds[0] < 0.8  # .258 on all of val2017; fewer images have fewer classes to confuse


def test_cells_are_numbered_row_by_row(recipe: ModuleType):
    corners, strides = recipe.cells(64, 96)
    assert len(corners) == len(strides) == 8 * 12 + 4 * 6 + 2 * 3
    assert corners[:2].tolist() == [[0, 0], [1, 0]] and corners[12].tolist() == [0, 1]
    assert corners[-1].tolist() == [2, 1] and strides[-1].tolist() == [32]


def test_classes_meet_by_name(weights: Path, photographs: Splits, recipe: ModuleType):
    """Of data with two of its classes, in another order."""
    path = photographs["test"].path(0)
    everything = recipe.external_model(weights, photographs.names, threads=1).detect(path)
    names = ("dog", "person", "unicorn")
    boxes, scores, labels = recipe.external_model(weights, names, threads=1).detect(path)
    found = [photographs.names[label] for label in everything[2]]
    assert [names[label] for label in labels] == [name for name in found if name in names]
    assert len(boxes) == len(scores) == len(labels)
