"""How often the host waits for an accelerator: counted on the device "meta", with tensors that have no values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwright import ops
from boxwright.assign import rows_of
from boxwright.data.batch import to_images
from boxwright.detectors import DETECTORS, Detector, anchor_stage, region_stage
from boxwright.detectors.config import FasterRCNNConfig
from boxwright.train.config import TrainConfig
from boxwright.train.loop import Training
from boxwright.types import Images, Target
from host_waits import HostWaits

IN_A_STEP = {"localizer": 1, "sliding_window": 1, "rcnn": 1, "spp_net": 1, "fast_rcnn": 1, "faster_rcnn": 2, "r_fcn": 2,
             "ssd": 2, "retinanet": 2, "fcos": 2}  # fmt: skip
"""Waits for the device: one for the losses to be shown, one for suppression in training or the number of positives.

A suppression of whose best boxes too few survive takes another.
"""


CASCADE = {"cascade": (0.5, 0.6)}


def build(name: str, **options: Any) -> Detector:
    options = {"backbone": "resnet18", "hidden": 64, "channels": 16, "depth": 1, **options}
    known = {field.name for field in fields(DETECTORS[name])}
    with torch.device("meta"):
        detector = DETECTORS[name](**{key: value for key, value in options.items() if key in known}).build(3)
    return detector.to("meta")


def batch(images: int = 4) -> tuple[Images, list[Target]]:
    sizes = torch.tensor([[128, 160]] * images)
    crowd = torch.tensor([False, True, False])
    target = Target(torch.tensor([[1.0, 2, 30, 40], [5, 5, 90, 90], [9, 9, 70, 20]]), torch.tensor([0, 2, 1]), crowd)
    pixels = torch.zeros(images, 3, 128, 160)
    targets = [target, Target.empty(), *[target] * images][:images]
    return Images(pixels, sizes, torch.rand(images, 30, 4)).to("meta"), [target.to("meta") for target in targets]


class OneBatch:
    """The one batch of an epoch, as `Training` reads it."""

    dataset, batch_size, seed, rank, world = range(4), 4, 0, 0, 1

    def __init__(self) -> None:
        self.batch = batch()

    def __len__(self) -> int:
        return 1

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Images, list[Target]]]:
        return iter([self.batch])


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in DETECTORS]
    + [(name, {"assignment": choice}) for name in ("retinanet", "fcos") for choice in ("atss", "task_aligned")]
    + [("retinanet", {"class_loss": "quality_focal"}), ("fcos", {"class_loss": "varifocal"})]
    + [("faster_rcnn", CASCADE)],
)
def test_a_training_step_waits_at_most_three_times(name: str, options: dict[str, Any]) -> None:
    training = Training(build(name, **options), OneBatch(), TrainConfig(epochs=1, precision="fp32"))  # type: ignore[arg-type]
    training.device = torch.device("cpu")  # of autocast, which knows no "meta"
    steps = training.steps(progress=False)
    with HostWaits() as waits:
        next(steps)
    assert waits.count == IN_A_STEP[name] <= 3, waits.places


def test_batches_reach_the_device_without_a_wait() -> None:
    crowd = torch.tensor([False, True])
    columns = Target(torch.tensor([[1.0, 2, 30, 40], [5, 5, 90, 90]]), torch.tensor([0, 2]), crowd)
    with HostWaits() as waits:
        target = columns.to("meta", non_blocking=True)
        images = to_images([np.zeros((20, 30, 3), np.uint8)] * 2, proposals=[torch.zeros(2, 4)] * 2, device="meta")
    assert not waits.places and target.has_extremes and images.pixels.dtype == torch.float32
    assert images.pixels.shape == (2, 3, 32, 32)


@pytest.mark.parametrize(("name", "options"), [(name, {}) for name in DETECTORS] + [("faster_rcnn", CASCADE)])
def test_what_a_cuda_graph_holds_never_waits(name: str, options: dict[str, Any]) -> None:
    detector, (images, _) = build(name, **options).eval(), batch()
    assert detector.selection is not None
    detector.selection.score_threshold = (0.1, 0.2, 0.3)
    with HostWaits() as waits, ops.without_waiting() as unsettled, torch.inference_mode():
        detector.slots(images)
    assert not waits.places
    assert len(unsettled) == 1 + (name in ("faster_rcnn", "r_fcn"))  # a suppression each


def test_the_counter_sees_what_waits() -> None:
    mask, numbers = torch.empty(3, dtype=torch.bool, device="meta"), torch.empty(3, device="meta")
    with HostWaits() as waits:
        mask.nonzero()
        bool(mask.any())
        numbers.tolist()
        numbers.sum().item()
        torch.zeros(3).to("meta")
    assert waits.count == 5, waits.places


class Elsewhere(Tensor):
    """A tensor with values that says it is not on the CPU."""

    is_cpu = False  # pyright: ignore[reportAssignmentType]


def test_rows_of_an_accelerator_are_as_many_whatever_is_set() -> None:
    mask = torch.tensor([[False, True, False, True], [False] * 4, [True, False, False, False]])
    assert [column.tolist() for column in rows_of(mask, 2)] == [[0, 0, 2], [1, 3, 0], [1, 1, 1]]
    images, rows, is_set = (column.as_subclass(Tensor) for column in rows_of(mask.as_subclass(Elsewhere), 2))
    assert images.tolist() == [0, 0, 1, 1, 2, 2]
    found = zip(images[is_set == 1].tolist(), rows[is_set == 1].tolist(), strict=True)
    assert set(found) == {(0, 1), (0, 3), (2, 0)}


def test_losses_of_an_accelerator_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    config = FasterRCNNConfig(backbone="resnet18", hidden=64, channels=16, class_agnostic=False)
    torch.manual_seed(0)
    detector = config.build(3)
    sizes, boxes = torch.tensor([[128, 128]] * 2), torch.tensor([[10.0, 20, 60, 90], [50, 50, 120, 110]])
    images = Images(255 * torch.rand(2, 3, 128, 128), sizes)
    targets = [Target(boxes, torch.tensor([2, 0])), Target.empty()]

    def learn() -> tuple[dict[str, Tensor], list[Tensor]]:
        torch.manual_seed(1)
        detector.zero_grad()
        losses = detector.loss(images, targets)
        torch.stack(list(losses.values())).as_subclass(Tensor).sum().backward()
        return (
            {name: loss.detach().as_subclass(Tensor) for name, loss in losses.items()},
            [parameter.grad.clone() for parameter in detector.parameters() if parameter.grad is not None],
        )

    expected = learn()
    for stage in (anchor_stage, region_stage):
        monkeypatch.setattr(stage, "rows_of", lambda mask, most: rows_of(mask.as_subclass(Elsewhere), most))
    torch.testing.assert_close(learn(), expected)
