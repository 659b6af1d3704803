"""What `loss` refuses: targets that cannot be meant, in every detector, and without waiting for an accelerator."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from boxwright.detectors import DETECTORS, Detector
from boxwright.detectors.base import check_targets
from boxwright.detectors.config import RPNConfig
from boxwright.types import Extremes, Images, Losses, Slots, Target

BOXES = torch.tensor([[10.0, 20.0, 70.0, 70.0], [80.0, 30.0, 120.0, 90.0]])
LABELS = torch.tensor([0, 1])
IMAGES = Images(torch.rand(2, 3, 96, 128) * 255, torch.tensor([[96, 128]] * 2), BOXES.expand(2, -1, -1))
SOUND = Target(BOXES, LABELS)

WRONG: dict[str, tuple[Target, str]] = {
    "labels from 1": (
        Target(BOXES, LABELS + 1),
        r"targets\[1\] has label 2; expected 0 to 1; torchvision counts classes from 1, so subtract 1$",
    ),
    "a label of another data set": (Target(BOXES, LABELS * 90), r"targets\[1\] has label 90; expected 0 to 1$"),
    "a negative label": (Target(BOXES, -LABELS), r"targets\[1\] has label -1; expected 0 to 1$"),
    "labels that are no integers": (
        Target(BOXES, LABELS.float()),
        r"\[1\].labels are torch.float32; expected torch.int64$",
    ),
    "x y width height": (
        Target(BOXES - torch.tensor([0, 0, 10.0, 20.0]) * torch.tensor([[1], [4.0]]), LABELS),
        r"targets\[1\].boxes\[1\] is \[80.0, 30.0, 80.0, 10.0\]; expected x1 y1 x2 y2 .*boxes\[:, 2:\] \+= boxes",
    ),
    "infinite": (
        Target(BOXES.clone().index_fill_(0, torch.tensor(1), torch.inf), LABELS),
        r"targets\[1\].boxes\[1\] is \[inf, inf, inf, inf\]; expected .* finite",
    ),
    "nan": (Target(BOXES * torch.nan, LABELS), r"targets\[1\].boxes\[0\] is \[nan, nan, nan, nan\]"),
}


@pytest.fixture(scope="module")
def build(small_configs: dict[str, Any]) -> Callable[[str], Detector]:
    """From a name to the small detector of two classes, built once."""
    return cache(lambda name: small_configs[name].build(2))


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_refuses_what_cannot_be_meant(name: str, build: Callable[[str], Detector]) -> None:
    detector = build(name)
    for wrong, message in WRONG.values():
        first = Target(BOXES[:1], LABELS[1:]) if "torchvision" in message else SOUND  # the label 0 is nowhere
        for verb in (detector.loss, detector):  # the second is what DistributedDataParallel calls
            with pytest.raises(ValueError, match=message):
                verb(IMAGES, [first, wrong])
    with pytest.raises(ValueError, match="all 4 boxes of the targets lie in 0..1; .* has 96 x 128 of them"):
        detector.loss(IMAGES, [Target(BOXES / 128, LABELS)] * 2)
    with pytest.raises(ValueError, match="expected a target for each of 2 images, got 1"):
        detector.loss(IMAGES, [SOUND])
    assert torch.stack(list(detector.loss(IMAGES, [SOUND, Target.empty()]).values())).isfinite().all()


def test_a_single_small_box_is_no_share_of_an_image() -> None:
    """A tiny object at the top left, resized; and an image that is no larger than its objects."""
    check_targets(IMAGES, [Target(BOXES[:1] / 128, LABELS[:1]), Target.empty()], 2)
    check_targets(Images(IMAGES.pixels[..., :8, :8], IMAGES.sizes), [Target(BOXES / 128, LABELS)] * 2, 2)


def test_a_region_proposal_network_takes_any_label() -> None:
    detector = RPNConfig("mobilenet_v3_small", channels=16, rpn_samples=16).build(1)
    assert detector.loss(IMAGES, [Target(BOXES, LABELS + 5), SOUND]).keys() == {"class", "box"}


class Counting(Detector):
    """A detector whose targets are looked at nowhere but at the door."""

    num_classes = 2

    def compute_loss(self, images: Images, targets: list[Target]) -> Losses:
        return {}

    def slots(self, images: Images) -> Slots:
        raise NotImplementedError


def test_nothing_waits_for_an_accelerator_where_targets_came_from_the_cpu() -> None:
    """Tensors of the device "meta" have no values at all: whoever reads one raises an error."""
    images, empty = IMAGES.to("meta"), Target.empty().to("meta")
    Counting().loss(images, [SOUND.to("meta"), empty])
    Counting().loss(images, [SOUND.to("meta").to("meta", non_blocking=True), empty])
    with pytest.raises(ValueError, match="targets.1. has label 2; expected 0 to 1"):
        Counting().loss(images, [empty, Target(BOXES, LABELS + 1).to("meta")])


def test_targets_made_on_an_accelerator_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made_there = Target(BOXES.to("meta"), LABELS.to("meta"))
    asked: list[Target] = []

    def extremes(target: Target) -> Extremes:
        asked.append(target)
        return Extremes(0, 2, 1.0, 90.0)

    monkeypatch.setattr(Target, "extremes", extremes)
    detector = Counting()
    with pytest.raises(ValueError, match="targets.0. has label 2"):
        detector.loss(IMAGES, [made_there] * 2)
    monkeypatch.setattr(Target, "extremes", lambda target: extremes(target)._replace(label_max=1))
    for _ in range(3):
        detector.loss(IMAGES, [made_there] * 2)
    assert len(asked) == 5  # both targets, the wrong one for the message; both again once it is mended; none after that


def test_the_check_does_not_break_a_compiled_graph() -> None:
    class Mean(Counting):
        def compute_loss(self, images: Images, targets: list[Target]) -> Losses:
            return {"mean": images.pixels.mean() + sum(target.boxes.mean() for target in targets)}

    detector = Mean()

    def loss(pixels: Tensor, boxes: Tensor) -> Tensor:
        return detector.loss(Images(pixels, IMAGES.sizes), [Target(boxes, LABELS)] * 2)["mean"]

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, dynamic=False, backend="eager")
    torch.testing.assert_close(compiled(IMAGES.pixels, BOXES), loss(IMAGES.pixels, BOXES))
