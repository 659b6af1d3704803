"""The detectors of torchvision against those here with converted weights: the same detections, boxes and scores.

With random weights (`calibrated`) on ten photographs, mostly at a smaller size than the models' own, which would take
minutes, and once at that. $BOXWRIGHT_WEIGHTS names a folder of published weights to compare at their own size.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from boxwright.checkpoint import fill
from boxwright.predict.predictor import Predictor
from boxwright.zoo import torchvision as source
from boxwright.zoo.foreign import Arguments
from boxwright.zoo.proof import BOX, SCORE, Difference, Photos, detect_all, detect_with, differences
from calibrated import CLASSES, calibrate, photographs

if TYPE_CHECKING:
    from boxwright.zoo.foreign import Detect

PROPOSALS = 100
SIDES = {name: (320, 640) if "mobilenet" in name else (160, 256) for name in source.PUBLISHED if name[:3] != "ssd"}
"""The shorter and the longer side of the models' images in these tests. The size of an SSD is fixed."""

BACKGROUND = {"ssd300_vgg16": 4.0, "ssdlite320_mobilenet_v3_large": 8.0}
"""The background logit that leaves a realistic number of detections; 4.5 for regions."""


@cache
def photos() -> Photos:
    return photographs()


@cache
def calibrated(name: str) -> nn.Module:
    """A model of torchvision with weights that detect something, at its own size."""
    torch.manual_seed(0)
    model = source.build(name, len(source.foreign(name).names)).eval()
    images = list(
        photos().values()
    )  # all, since the coarsest level of an SSD has one cell per photograph for its norms
    if name in SIDES:
        images = [photos()[photo] for photo in ("astronaut", "china", "chelsea", "flower")]
    resize(model, name)
    calibrate(model, lambda: source.detect(model, 1, images), BACKGROUND.get(name, 4.5))
    resize(model, name, back=True)
    return model


def resize(model: Any, name: str, back: bool = False) -> None:
    """To a smaller size and fewer proposals, or back to its own."""
    foreign: Any = source.foreign(name)
    if name in SIDES:
        short, long = (foreign.preprocess.short, foreign.preprocess.long) if back else SIDES[name]
        model.transform.min_size, model.transform.max_size = (short,), long
    if hasattr(model, "rpn"):
        model.rpn._post_nms_top_n["testing"] = foreign.config.proposals if back else PROPOSALS


def pair(name: str, model: nn.Module, small: bool) -> tuple[Detect, Detect]:
    """The original and the converted detector."""
    foreign = source.foreign(name)
    num_classes = len(foreign.names)
    config, preprocess = foreign.config, foreign.preprocess
    resize(model, name, back=not small)
    if small and name in SIDES:
        preprocess = replace(preprocess, short=SIDES[name][0], long=SIDES[name][1])
    if small and hasattr(config, "proposals"):
        config = replace(config, proposals=PROPOSALS)
    detector = config.build(num_classes)
    fill(detector, foreign.convert(model.state_dict(), num_classes), name)
    first = int(num_classes == CLASSES)  # a softmax, whose first column is background
    return partial(source.detect, model, first), detect_with(Predictor(detector, foreign.names, preprocess))


def assert_same(
    name: str, batch: int, original: Detect, converted: Detect, images: Photos, rows: list[tuple[object, ...]]
) -> None:
    measured: list[Difference] = differences({str(batch): detect_all(original, images, batch)}, converted, images)
    box, score = max(d.box for d in measured), max(d.score for d in measured)
    count, num_classes = sum(d.original for d in measured), max(d.num_classes for d in measured)
    rows.append((name, batch, len(measured), count, num_classes, f"{box:.1e}", f"{score:.1e}"))
    assert count >= 24 * len(measured) and num_classes >= 10  # dozens, and varied
    for difference in measured:
        assert difference.original == difference.converted and not difference.unmatched, difference
        assert difference.box <= BOX and difference.score <= SCORE, difference


@pytest.mark.parametrize("name", source.PUBLISHED)
@pytest.mark.parametrize("batch", [1, 4])
def test_same_detections(name: str, batch: int, rows: list[tuple[object, ...]]) -> None:
    chosen = photos() if batch == 1 else dict(list(photos().items())[:4])
    assert_same(name, batch, *pair(name, calibrated(name), small=True), chosen, rows)


@pytest.mark.parametrize("name", SIDES)
def test_at_its_own_size(name: str, rows: list[tuple[object, ...]]) -> None:
    wide = {"roofs": photos()["roofs"]}  # so wide that the longer side limits its size
    assert_same(f"{name}, own size", 1, *pair(name, calibrated(name), small=False), wide, rows)


def test_built_with_other_arguments(rows: list[tuple[object, ...]]) -> None:
    """Other sizes of images, anchors and normalisation than torchvision's own."""
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    given = Arguments(
        min_size=160,
        max_size=240,
        anchor_sizes=(24.0, 36.0, 48.0, 72.0, 96.0, 144.0),
        aspect_ratios=(0.4, 2.0),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.3),
    )
    few = {photo: photos()[photo] for photo in ("astronaut", "china", "chelsea", "flower")}
    foreign = source.foreign(name, given)
    num_classes = len(foreign.names)
    torch.manual_seed(0)
    model = source.build(name, num_classes, arguments=given).eval()
    calibrate(model, lambda: source.detect(model, 1, list(few.values())), 4.5)
    detector = foreign.config.build(num_classes)
    fill(detector, foreign.convert(model.state_dict(), num_classes), name)
    converted = detect_with(Predictor(detector, foreign.names, foreign.preprocess))
    original = partial(source.detect, model, foreign.first_label)
    assert_same(f"{name}, other arguments", 2, original, converted, few, rows)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", source.PUBLISHED)
def test_published_weights(name: str, batch: int, rows: list[tuple[object, ...]]) -> None:
    about = source.PUBLISHED[name]
    path = Path(os.environ.get("BOXWRIGHT_WEIGHTS", "")) / about.file
    if not path.is_file():
        pytest.skip(f"BOXWRIGHT_WEIGHTS names no folder with {about.file}")
    arguments = Arguments(norm_eps=about.norm_eps)
    state, foreign = source.read(path), source.foreign(name, arguments)
    num_classes = source.count_classes(name, state)
    detector = foreign.config.build(num_classes)
    fill(detector, foreign.convert(state, num_classes), path)
    original = source.reference(name, state, num_classes, arguments)
    converted = detect_with(Predictor(detector, foreign.names, foreign.preprocess))
    assert_same(f"{name}, published", batch, original, converted, photos(), rows)
