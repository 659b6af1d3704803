"""benchmarks/equal_terms.py: both sides learn the same layers from the same pixels, and every training is kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from boxwright import plugins
from boxwright.bench.run.job import save_detections
from boxwright.detectors.config import DETECTORS, KINDS
from boxwright.measure.evaluate import targets_of
from boxwright.train.config import TrainConfig
from boxwright.train.optimize import parameter_groups
from boxwright.types import Detections, Images, Target
from boxwright.units import Interval
from shapes import write_shapes

SIZES = torch.tensor([[64, 96], [50, 80]])
NAMES = ("faster_rcnn", "retinanet", "fcos", "ssd")


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """The script, with what it registers forgotten afterwards."""
    folder = Path(__file__).parents[1] / "benchmarks"
    if not folder.is_dir():
        pytest.skip("benchmarks are not in a source distribution")
    tables: list[dict[Any, Any]] = [DETECTORS, KINDS, plugins._modules, plugins._files, plugins._options]
    before = [dict(table) for table in tables]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield import_module("equal_terms")
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
    for name in ("equal_terms", "torchvision_detectors", "record"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), {"train": 2, "val": 2, "test": 4})


def build(side: Any) -> Any:
    torch.manual_seed(0)
    return side.config.build(3).eval()


def some_images() -> Images:
    pixels = 255 * torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    return Images(pixels, SIZES)


@pytest.mark.parametrize("name", NAMES)
def test_both_sides_learn_the_same_layers_from_the_same_weights_at_the_same_rates(script: Any, name: str) -> None:
    pair = script.PAIRS[name]
    ours = build(pair.ours)
    for side in pair.theirs:
        theirs = build(side)
        before = ours.features.state_dict()
        assert all(torch.equal(before[key], value) for key, value in theirs.features.state_dict().items())
        rates = [shares(detector) for detector in (ours, theirs)]
        assert rates[0] == rates[1] and set(rates[0].values()) == {0.5, 1.0}


def shares(detector: torch.nn.Module) -> dict[str, float]:
    """The share of the learning rate that each weight of backbone and neck gets."""
    of_weight = {
        weight: group["share"] for group in parameter_groups(detector, TrainConfig()) for weight in group["params"]
    }
    return {
        name: of_weight[weight]
        for name, weight in detector.named_parameters()
        if name.startswith("features.") and weight in of_weight
    }


@pytest.mark.parametrize("name", NAMES)
def test_torchvisions_model_sees_the_pixels_of_the_batch_and_its_boxes_are_passed_on(script: Any, name: str) -> None:
    detector, images = build(script.PAIRS[name].theirs[0]), some_images()
    detector.model.score_thresh = 0.0  # of the single stages, so that an untrained one detects
    features, seen = detector.features, []
    features.backbone.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    with torch.inference_mode():
        detector.slots(images)
        (found,) = detector.slots(images[:1]).trim()
        # As its users call it, at a size at which it resizes nothing.
        normalized = detector.model.transform
        detector.model.transform = GeneralizedRCNNTransform(64, 96, normalized.image_mean, normalized.image_std)
        (expected,) = detector.model([images.pixels[0] / 255])
    pixels: Tensor = seen[0]
    torch.testing.assert_close(pixels[0], (images.pixels[0] - features.mean) / features.std, rtol=1e-4, atol=1e-4)
    assert not pixels[1, :, 50:].any() and not pixels[1, :, :, 80:].any()  # torchvision pads with the mean
    assert len(found) and torch.equal(found.boxes, expected["boxes"]) and torch.equal(found.scores, expected["scores"])
    assert torch.equal(found.labels, expected["labels"] - detector.first_label)


def test_crowds_and_boxes_without_extent_are_not_learnt(script: Any) -> None:
    detector, images = build(script.PAIRS["ssd"].theirs[0]), some_images()
    learnt = Target(torch.tensor([[4.0, 4, 40, 44]]), torch.tensor([2]))
    boxes = torch.tensor([[4.0, 4, 40, 44], [9, 9, 60, 50], [5, 5, 5, 20]])
    more = Target(boxes, torch.tensor([2, 1, 0]), torch.tensor([False, True, False]))
    with torch.no_grad():
        losses = [detector.loss(images, [target, Target.empty()]) for target in (learnt, more)]
    assert losses[0].keys() == {"classification", "bbox_regression"} and losses[0] == losses[1]


@pytest.mark.parametrize(
    "low, high, expected", [(0.01, 0.03, "ahead"), (-0.01, 0.03, "tied"), (0.0, 0.02, "tied"), (-0.03, -0.01, "behind")]
)
def test_the_verdict_is_that_of_the_interval(script: Any, low: float, high: float, expected: str) -> None:
    assert script.verdict(Interval(0.0, low, high)) == expected


def test_the_better_of_torchvisions_is_compared_over_the_seeds_that_all_have(
    script: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours has every box; torchvision's without norms none, with groups all at an IoU of 9/11: 7 of 10 thresholds."""
    aps = {"retinanet": 1.0, "torchvision_retinanet": 0.0, "torchvision_retinanet_groups": 0.7}

    def make(trial: Any) -> None:
        found, ap = [], aps[trial.side.name]
        for target in targets_of(trial.terms.splits["test"]):
            width = target.boxes[:, 2:3] - target.boxes[:, :1]
            boxes = target.boxes + 0.1 * width * torch.tensor([1, 0, 1, 0]) * (ap < 1)
            found.append(Detections(boxes, torch.ones(len(target)), target.labels)[: len(target) * (ap > 0)])
        save_detections(trial.detections, found)
        trial.row.write_text(json.dumps({"test": {"ap": ap, "ap50": ap}, "seconds": 10.0 + trial.seed, "code": "abc"}))

    monkeypatch.setattr(script.Trial, "make", make)
    out, runs = tmp_path / "table.json", tmp_path / "runs"
    command = ["--data", str(data), "--quick", "--detectors", "retinanet", "--runs", str(runs), "--out", str(out)]
    script.main([*command, "--seeds", "2"])
    rows = json.loads(out.read_text())["equal terms"]["rows"]
    title = f"{data.name}, 1 epoch: RetinaNet"
    assert list(rows) == [f"{title}, seed 0", f"{title}, seed 1", f"{title}, all seeds"]
    row = rows[f"{title}, all seeds"]
    assert (row["ours"], row["theirs"], row["difference"]) == ("1.000", "0.700", "+0.300 [+0.300, +0.300]")
    assert (row["peer"], row["verdict"]) == ("torchvision_retinanet_groups", "ahead")
    assert (row["seconds"], row["ratio"], row["code"]) == ("10.5 s", "1.00", "abc")

    (runs / next(path.name for path in runs.glob("torchvision_retinanet-*-1.json"))).unlink()
    monkeypatch.setattr(script.Trial, "make", lambda trial: make(trial) if trial.seed else pytest.fail())
    capsys.readouterr()
    out.unlink()
    script.main([*command, "--seeds", "2", "--table"])
    assert capsys.readouterr().out.count("made before") == 5
    assert list(json.loads(out.read_text())["equal terms"]["rows"]) == [f"{title}, seed 0"]
    script.main([*command, "--seeds", "2"])
    assert capsys.readouterr().out.count("made before") == 5
    assert list(json.loads(out.read_text())["equal terms"]["rows"]) == list(rows)


def test_one_step_of_every_side_makes_a_table_and_is_not_made_again(
    script: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, runs = tmp_path / "table.json", tmp_path / "runs"
    command = ["--data", str(data), "--quick", "--seeds", "1", "--runs", str(runs), "--out", str(out)]
    script.main(command)
    table = out.read_text()
    assert len(json.loads(table)["equal terms"]["rows"]) == len(NAMES)
    rows = [json.loads(path.read_text()) for path in runs.glob("*.json")]
    assert len(rows) == 9 and all(row["seconds"] > 0 and row["losses"]["total"] > 0 for row in rows)
    monkeypatch.setattr(script.Trial, "make", lambda trial: pytest.fail())
    script.main(command)
    assert out.read_text() == table
