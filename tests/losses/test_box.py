"""Box regression losses: smooth L1 of deltas and overlap of decoded boxes."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from boxwright.boxes.codec import DeltaCodec
from boxwright.losses import DeltaLoss, GIoULoss

REFERENCE = torch.tensor([[10.0, 10.0, 30.0, 50.0]])  # 20 wide, 40 high
MOVED = torch.tensor([[20.0, 10.0, 40.0, 50.0]])  # by half its width
NOTHING = torch.zeros(1, 4)


def test_a_perfect_prediction_costs_nothing() -> None:
    deltas = DeltaCodec().encode(MOVED, REFERENCE)
    assert DeltaLoss()(deltas, REFERENCE, MOVED).item() == 0
    assert GIoULoss()(deltas, REFERENCE, MOVED).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (1.0, 0.5**2 / 2),  # within beta: half the square over beta
        (0.5, 0.5 - 0.5 / 2),  # at beta both branches meet
        (0.1, 0.5 - 0.1 / 2),  # beyond: the distance less half of beta
        (0.0, 0.5),
    ],
)
def test_smooth_l1_by_hand(beta: float, expected: float) -> None:
    """Nothing predicted, t_x = 0.5 wanted, the other three right."""
    loss = DeltaLoss(beta=beta)(NOTHING, REFERENCE, MOVED)
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(expected)


def test_the_four_numbers_are_summed_and_the_codec_weighs_them() -> None:
    """Half a width to the right and twice as high: with plain L1, 10 * 0.5 + 5 * ln 2."""
    wanted = torch.tensor([[20.0, -10.0, 40.0, 70.0]])
    loss = DeltaLoss(DeltaCodec((10.0, 10.0, 5.0, 5.0)), beta=0)(NOTHING, REFERENCE, wanted)
    assert loss.item() == pytest.approx(10 * 0.5 + 5 * math.log(2), rel=1e-6)


def test_giou_loss_by_hand() -> None:
    """Half of the box is shared: 400 of 1200; the hull is the union, so GIoU is IoU = 1/3."""
    assert GIoULoss()(NOTHING, REFERENCE, MOVED).item() == pytest.approx(2 / 3)


def test_giou_loss_sees_how_far_apart_boxes_are() -> None:
    losses = [GIoULoss()(NOTHING, REFERENCE, REFERENCE + offset).item() for offset in (100, 200)]
    assert 1 < losses[0] < losses[1]


def test_giou_loss_equals_torchvision() -> None:
    noise = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 30, 2, generator=noise) * 50
    references, boxes = torch.cat([corner, corner + 5 + torch.rand(2, 30, 2, generator=noise) * 50], -1)
    deltas = 0.3 * torch.randn(30, 4, generator=noise)
    decoded = DeltaCodec().decode(deltas, references)
    torch.testing.assert_close(GIoULoss()(deltas, references, boxes), generalized_box_iou_loss(decoded, boxes))


@pytest.mark.parametrize("loss", [DeltaLoss(), DeltaLoss(beta=0), GIoULoss()])
def test_without_positives_the_gradient_is_zero_not_missing(loss: DeltaLoss | GIoULoss) -> None:
    deltas = torch.randn(5, 4, requires_grad=True)
    empty = torch.zeros(0, 4)
    value = loss(deltas[:0], empty, empty)
    assert value.shape == (0,)
    (gradient,) = torch.autograd.grad(value.sum(), deltas)
    assert torch.equal(gradient, torch.zeros(5, 4))


@pytest.mark.parametrize("loss", [DeltaLoss(), GIoULoss()])
def test_a_box_without_extent_has_a_finite_loss_and_gradient(loss: DeltaLoss | GIoULoss) -> None:
    deltas = torch.zeros(1, 4, requires_grad=True)
    value = loss(deltas, REFERENCE, torch.tensor([[20.0, 20.0, 20.0, 20.0]]))
    assert value.isfinite().all()
    assert torch.autograd.grad(value.sum(), deltas)[0].isfinite().all()
