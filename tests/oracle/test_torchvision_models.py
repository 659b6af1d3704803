"""The detectors of torchvision against what ours make of their weights: as many detections, the same boxes and scores.

With random weights (`calibrated`) on ten photographs, at a smaller size than the models' own where these would take
minutes, and once at that. $BOXWRIGHT_WEIGHTS names a folder of published weights for the same at their own size.
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
from boxwright.zoo.proof import BOX, SCORE, Difference, Photos, answer_of, answers, differences
from calibrated import CLASSES, calibrate, photographs

if TYPE_CHECKING:
    from boxwright.zoo.foreign import Answer

PROPOSALS = 100
SIDES = {name: (320, 640) if "mobilenet" in name else (160, 256) for name in source.PUBLISHED if name[:3] != "ssd"}
"""The shorter and the longer side of what the models see here. An SSD has its own size always."""

BACKGROUND = {"ssd300_vgg16": 4.0, "ssdlite320_mobilenet_v3_large": 8.0}
"""What makes a background of most of an image; 4.5 for regions."""


@cache
def photos() -> Photos:
    return photographs()


@cache
def calibrated(name: str) -> nn.Module:
    """A model of torchvision with weights that find something, at its own size."""
    torch.manual_seed(0)
    model = source.build(name, len(source.foreign(name).names)).eval()
    shown = list(photos().values())  # the coarsest level of an SSD has one cell a photograph to learn its norms from
    if name in SIDES:
        shown = [photos()[each] for each in ("astronaut", "china", "chelsea", "flower")]
    resize(model, name)
    calibrate(model, lambda: source.answer(model, 1, shown), BACKGROUND.get(name, 4.5))
    resize(model, name, back=True)
    return model


def resize(model: nn.Module, name: str, back: bool = False) -> None:
    """To a smaller size and fewer proposals, or back to its own."""
    foreign: Any = source.foreign(name)
    theirs: Any = model
    if name in SIDES:
        short, long = (foreign.preprocess.short, foreign.preprocess.long) if back else SIDES[name]
        theirs.transform.min_size, theirs.transform.max_size = (short,), long
    if hasattr(model, "rpn"):
        theirs.rpn._post_nms_top_n["testing"] = foreign.config.proposals if back else PROPOSALS


def pair(name: str, model: nn.Module, small: bool) -> tuple[Answer, Answer]:
    """Theirs and ours."""
    foreign = source.foreign(name)
    classes = len(foreign.names)
    config, preprocess = foreign.config, foreign.preprocess
    resize(model, name, back=not small)
    if small and name in SIDES:
        preprocess = replace(preprocess, short=SIDES[name][0], long=SIDES[name][1])
    if small and hasattr(config, "proposals"):
        config = replace(config, proposals=PROPOSALS)
    detector = config.build(classes)
    fill(detector, foreign.convert(model.state_dict(), classes), name)
    first = int(classes == CLASSES)  # a softmax, whose first column is background
    ours = answer_of(Predictor(detector, foreign.names, preprocess))
    return partial(source.answer, model, first), ours


def hold(name: str, batch: int, measured: list[Difference], rows: list[tuple[object, ...]]) -> None:
    box, score = (max(getattr(each, number) for each in measured) for number in ("box", "score"))
    found, classes = sum(each.theirs for each in measured), max(each.classes for each in measured)
    rows.append((name, batch, len(measured), found, classes, f"{box:.1e}", f"{score:.1e}"))
    assert found >= 24 * len(measured) and classes >= 10  # dozens, and varied
    for each in measured:
        assert each.theirs == each.ours and not each.unmatched, each
        assert each.box <= BOX and each.score <= SCORE, each


@pytest.mark.parametrize("name", source.PUBLISHED)
@pytest.mark.parametrize("batch", [1, 4])
def test_same_detections(name: str, batch: int, rows: list[tuple[object, ...]]) -> None:
    theirs, ours = pair(name, calibrated(name), small=True)
    chosen = photos() if batch == 1 else dict(list(photos().items())[:4])
    hold(name, batch, differences({str(batch): answers(theirs, chosen, batch)}, ours, chosen), rows)


@pytest.mark.parametrize("name", SIDES)
def test_at_its_own_size(name: str, rows: list[tuple[object, ...]]) -> None:
    theirs, ours = pair(name, calibrated(name), small=False)
    wide = {"roofs": photos()["roofs"]}  # so wide that the longer side is what limits it
    hold(f"{name}, own size", 1, differences({"1": answers(theirs, wide, 1)}, ours, wide), rows)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", source.PUBLISHED)
def test_published_weights(name: str, batch: int, rows: list[tuple[object, ...]]) -> None:
    about = source.PUBLISHED[name]
    path = Path(os.environ.get("BOXWRIGHT_WEIGHTS", "")) / about.file
    if not path.is_file():
        pytest.skip(f"BOXWRIGHT_WEIGHTS names no folder with {about.file}")
    state, foreign = source.read(path), source.foreign(name, about.norm_eps)
    classes = source.classes(name, state)
    detector = foreign.config.build(classes)
    fill(detector, foreign.convert(state, classes), path)
    theirs = source.reference(name, state, classes, about.norm_eps)
    ours = answer_of(Predictor(detector, foreign.names, foreign.preprocess))
    hold(f"{name}, published", batch, differences({str(batch): answers(theirs, photos(), batch)}, ours, photos()), rows)
