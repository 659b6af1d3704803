"""Centre-ness by its formula, and the losses made of it."""

from __future__ import annotations

import math

import pytest
import torch

from boxwright.losses import Centered, DeltaLoss, centerness, centerness_loss

BOX = torch.tensor([[0.0, 0.0, 40.0, 20.0]])


def point(x: float, y: float) -> torch.Tensor:
    """A cell of eight pixels around a point."""
    return torch.tensor([[x - 4, y - 4, x + 4, y + 4]])


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (20, 10, 1.0),
        (10, 10, math.sqrt(10 / 30)),
        (10, 5, math.sqrt(10 / 30 * 5 / 15)),
        (30, 15, math.sqrt(10 / 30 * 5 / 15)),
        (40, 10, 0.0),
        (50, 10, 0.0),
    ],
)
def test_centerness_by_hand(x: float, y: float, expected: float) -> None:
    assert centerness(point(x, y), BOX).item() == pytest.approx(expected)


def test_a_box_without_extent_has_none() -> None:
    assert centerness(point(5, 5), torch.tensor([[5.0, 5.0, 5.0, 5.0]])).item() == 0


def test_the_loss_is_the_cross_entropy_of_what_was_said() -> None:
    """A third said of a third: the entropy of a third."""
    references, said = point(10, 5), torch.tensor([math.log(0.5)])  # a logit of 1/3
    entropy = -(1 / 3) * math.log(1 / 3) - (2 / 3) * math.log(2 / 3)
    assert centerness_loss(said, references, BOX).item() == pytest.approx(entropy)


def test_points_in_the_middle_weigh_more() -> None:
    """Weights 1 and 1/3, which have a mean of 2/3: 3/2 and 1/2."""
    references, boxes = torch.cat([point(20, 10), point(10, 5)]), BOX.expand(2, 4)
    deltas = torch.zeros(2, 4)
    plain = DeltaLoss()(deltas, references, boxes)
    torch.testing.assert_close(Centered(DeltaLoss())(deltas, references, boxes), plain * torch.tensor([1.5, 0.5]))


def test_without_positives_the_gradient_is_zero_not_missing() -> None:
    deltas, logits, empty = torch.randn(5, 4, requires_grad=True), torch.randn(5, requires_grad=True), torch.zeros(0, 4)
    value = Centered(DeltaLoss())(deltas[:0], empty, empty).sum() + centerness_loss(logits[:0], empty, empty).sum()
    for gradient in torch.autograd.grad(value, [deltas, logits]):
        assert (gradient == 0).all()


def test_off_the_boxes_nothing_is_divided_by_zero() -> None:
    deltas = torch.zeros(1, 4, requires_grad=True)
    value = Centered(DeltaLoss())(deltas, point(90, 90), BOX)
    assert value.isfinite().all() and torch.autograd.grad(value.sum(), deltas)[0].isfinite().all()
