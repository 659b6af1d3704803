"""The grid of cells."""

from __future__ import annotations

from typing import get_args

import pytest

from boxwright.bench.plan.cells import grid
from boxwright.bench.plan.rules import Augmentation, Runtime
from boxwright.data.augment import PRESETS
from boxwright.detectors import DETECTORS
from boxwright.predict.program import PROGRAMS


def test_every_combination_once():
    cells = grid(("ssd", "faster_rcnn"), ("efficientnet_lite0", "resnet50"), (224, 320))
    assert len(cells) == 8
    names = [cell.name for cell in cells]
    assert names[0] == "ssd-efficientnet_lite0-224" and names[-1] == "faster_rcnn-resnet50-320"
    assert {cell.detector for cell in cells} == {"ssd", "faster_rcnn"}
    assert {cell.backbone for cell in cells} == {"efficientnet_lite0", "resnet50"}


def test_images_are_as_boxwright_train_has_them():
    (cell,) = grid(("fcos",), sizes=(320,))
    assert (cell.preprocess.short, cell.preprocess.long, cell.size) == (320, 416, 320)


def test_numbers_of_proposals_are_for_those_that_have_them():
    cells = grid(("ssd", "faster_rcnn", "fast_rcnn"), proposals=(100, 300))
    assert [(cell.name, cell.proposals) for cell in cells] == [
        ("ssd-efficientnet_lite0-320", None),
        ("faster_rcnn-efficientnet_lite0-320-p100", 100),
        ("faster_rcnn-efficientnet_lite0-320-p300", 300),
        ("fast_rcnn-efficientnet_lite0-320-p100", 100),
        ("fast_rcnn-efficientnet_lite0-320-p300", 300),
    ]
    (one,) = grid(("faster_rcnn",), proposals=(50,))
    assert (one.name, one.proposals) == ("faster_rcnn-efficientnet_lite0-320", 50)


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_detector_can_be_a_cell(detector: str):
    (cell,) = grid((detector,), ("mobilenet_v3_small",), (64,))
    assert cell.detector == detector and cell.size == 64


def test_a_name_is_a_folder_too():
    (cell,) = grid(("ssd",), ("timm:resnet18.a1_in1k",))
    assert cell.name == "ssd-timm_resnet18.a1_in1k-320"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("rnn",),), "detectors are some of localizer.*; got rnn"),
        (((),), "got none"),
        ((("ssd", "ssd"),), "once; ssd-efficientnet_lite0-320 came more often"),
        ((("ssd",), ("resnet50",), (16,)), "sizes are 32 or more, got 16"),
        ((("ssd",), ("resnet50",), (64,), (0,)), "proposals are 1 or more, got 0"),
    ],
)
def test_what_is_no_grid(arguments: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        grid(*arguments)


def test_rules_offer_all_augmentations_and_programs():
    assert set(get_args(Augmentation)) == set(PRESETS) and set(get_args(Runtime)) == set(PROGRAMS)
