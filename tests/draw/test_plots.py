"""Curves are drawn from whole, short and empty histories, and show what they should."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import PIL.Image
import pytest
import torch

from boxwright.metrics import evaluate
from boxwright.types import Detections, Target

plots = pytest.importorskip("boxwright.draw.plots", reason="matplotlib is not installed", exc_type=ImportError)


def epoch(number: int, **more: object) -> dict[str, object]:
    return {"epoch": number, "losses": {"class": 1 / number, "total": 2 / number}, "lr": 0.1 / number, **more}


@pytest.mark.parametrize(
    "epochs",
    [
        [],
        [epoch(1)],
        [epoch(1), epoch(2, val={"ap": 0.3, "ap50": 0.5, "ap75": None}), epoch(3)],
    ],
)
def test_a_run_of_any_length_can_be_drawn(tmp_path: Path, epochs: list[dict[str, object]]):
    plots.draw_curves(epochs, tmp_path / "curves.png")
    assert PIL.Image.open(tmp_path / "curves.png").size == (1440, 432)


def test_the_curves_are_labelled(tmp_path: Path):
    plots.draw_curves([epoch(1), epoch(2, val={"ap": 0.3, "ap50": 0.5, "ap75": 0.1})], tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text()
    for label in ("losses", "class", "total", "AP50", "AP75", "learning rate", "epoch"):
        assert f"<!-- {label} -->" in text


@pytest.mark.parametrize("name", ["a$b$ $\\frac$", "a\x00\x1b[31m\x0b", "<b>&-->", "a\nb"])
def test_any_class_name_is_drawn(tmp_path: Path, name: str):
    """XML 1.0 has no control characters, and matplotlib reads formulas between dollars."""
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    found = Detections(box, torch.tensor([0.8]), torch.tensor([0]))
    quality = evaluate([found], [Target(box, torch.tensor([0]))], (name,))
    plots.draw_precision_recall(quality, tmp_path / "curves.svg")
    ElementTree.parse(tmp_path / "curves.svg")


def test_precision_against_recall_names_each_class_that_has_objects(tmp_path: Path):
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    target = Target(box, torch.tensor([0]))
    found = Detections(box, torch.tensor([0.8]), torch.tensor([0]))
    quality = evaluate([found], [target], ("cat", "dog"))
    plots.draw_precision_recall(quality, tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text()
    assert "<!-- cat: AP50 1.000 -->" in text
    assert "dog" not in text
