"""Losses by hand, against torchvision's, and at their limits: classes, boxes, centre-ness."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from boxwright.boxes.anchors import DeltaCodec
from boxwright.losses import (
    Centered,
    DeltaLoss,
    GIoULoss,
    binary_cross_entropy,
    centerness,
    centerness_loss,
    cross_entropy,
    focal,
    quality_focal,
    varifocal,
)

LN3 = math.log(3)  # a logit of 3/4


def random(columns: int) -> tuple[Tensor, Tensor]:
    """Logits (3, 40, columns) and labels (3, 40), half of them background."""
    noise = torch.Generator().manual_seed(1)
    logits = 4 * torch.randn(3, 40, columns, generator=noise)
    labels = torch.randint(-5, 5, (3, 40), generator=noise).clamp(min=-1)
    return logits, labels


def test_cross_entropy_sums_minus_log_of_the_right_answers() -> None:
    logits = torch.tensor([[LN3, 0.0], [LN3, 0.0]])  # yes with 3/4 and 1/2
    loss = binary_cross_entropy(logits, torch.tensor([0, -1]))
    torch.testing.assert_close(loss, torch.tensor([math.log(4 / 3), math.log(4)]) + math.log(2))


def test_focal_loss_by_hand() -> None:
    """3/4 predicted of the right class; of background; and of the wrong one of two classes, the right one at 1/2."""
    right, wrong = 0.25 * (1 / 4) ** 2 * math.log(4 / 3), 0.75 * (3 / 4) ** 2 * math.log(4)
    loss = focal(torch.tensor([[LN3], [LN3]]), torch.tensor([0, -1]), alpha=0.25, gamma=2.0)
    torch.testing.assert_close(loss, torch.tensor([right, wrong]))
    half = 0.25 * (1 / 2) ** 2 * math.log(2)
    assert focal(torch.tensor([LN3, 0.0]), torch.tensor(1)).item() == pytest.approx(wrong + half)


def test_soft_targets_by_hand() -> None:
    """An object whose class has p = 3/4 and whose box an IoU of 1/2; background at p = 3/4."""
    logits, labels, quality = torch.tensor([[LN3], [LN3]]), torch.tensor([0, -1]), torch.tensor([0.5, 0.9])
    entropy = torch.tensor([(math.log(4 / 3) + math.log(4)) / 2, math.log(4)])
    focused = quality_focal(logits, labels, quality)
    torch.testing.assert_close(focused, torch.tensor([(3 / 4 - 1 / 2) ** 2, (3 / 4) ** 2]) * entropy)
    torch.testing.assert_close(
        varifocal(logits, labels, quality), torch.tensor([1 / 2, 0.75 * (3 / 4) ** 2]) * entropy
    )


@pytest.mark.parametrize("loss", [quality_focal, varifocal])
def test_a_soft_target_is_learnt_as_it_is(loss) -> None:
    """The gradient of an object's class vanishes where p is its quality; that of another class never does."""
    logits = torch.tensor([[LN3, LN3]], requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(logits, torch.tensor([0]), torch.tensor([0.75])).sum(), logits)
    assert gradient[0, 0].item() == pytest.approx(0, abs=1e-6) and gradient[0, 1] > 0.1


def test_softmax_has_the_background_last() -> None:
    logits = torch.tensor([[LN3, 0.0, 0.0]] * 3)  # 3/5, 1/5, 1/5
    loss = cross_entropy(logits, torch.tensor([0, 1, -1]))
    torch.testing.assert_close(loss, torch.tensor([math.log(5 / 3), math.log(5), math.log(5)]))


def test_an_easy_example_fades() -> None:
    """The paper's figure 1: at gamma 2 what is classified with p = 0.9 counts a hundred times less."""
    logit, right = torch.tensor([[math.log(9.0)]]), torch.tensor([0])
    assert (focal(logit, right, 0.5, 0.0) / focal(logit, right, 0.5)).item() == pytest.approx(100, rel=1e-4)


def test_without_focus_it_is_balanced_cross_entropy() -> None:
    logits, labels = random(1)
    labels = labels.clamp(max=0)
    balance = torch.where(labels == 0, 0.3, 0.7)
    torch.testing.assert_close(focal(logits, labels, 0.3, 0.0), balance * binary_cross_entropy(logits, labels))


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.9, 1.5)])
def test_focal_loss_and_its_gradient_equal_torchvision(alpha: float, gamma: float) -> None:
    logits, labels = random(5)
    targets = F.one_hot(labels + 1, 6)[..., 1:].float()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    mine, other = focal(ours, labels, alpha, gamma), sigmoid_focal_loss(theirs, targets, alpha, gamma).sum(-1)
    torch.testing.assert_close(mine, other)
    gradients = torch.autograd.grad(mine.sum(), ours) + torch.autograd.grad(other.sum(), theirs)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("loss", [binary_cross_entropy, focal, cross_entropy])
def test_extreme_logits_have_finite_losses_and_gradients(loss) -> None:
    logits = torch.tensor([[1e4, -1e4, 1e4], [-1e4, 0.0, 1e4], [0.0, 0.0, 0.0]]).requires_grad_()
    value = loss(logits, torch.tensor([0, 0, -1]))
    assert value.shape == (3,) and value.isfinite().all()
    assert torch.autograd.grad(value.sum(), logits)[0].isfinite().all()


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
    """Zeros predicted, t_x = 0.5 true, the other three right."""
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


BOX = torch.tensor([[0.0, 0.0, 40.0, 20.0]])


def point(x: float, y: float) -> Tensor:
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


def test_a_box_without_extent_has_no_centerness() -> None:
    assert centerness(point(5, 5), torch.tensor([[5.0, 5.0, 5.0, 5.0]])).item() == 0


def test_centerness_loss_is_a_cross_entropy() -> None:
    """A third predicted of a third: the entropy of a third."""
    references, logits = point(10, 5), torch.tensor([math.log(0.5)])  # a logit of 1/3
    entropy = -(1 / 3) * math.log(1 / 3) - (2 / 3) * math.log(2 / 3)
    assert centerness_loss(logits, references, BOX).item() == pytest.approx(entropy)


def test_points_in_the_middle_weigh_more() -> None:
    """Weights 1 and 1/3, which have a mean of 2/3: 3/2 and 1/2."""
    references, boxes = torch.cat([point(20, 10), point(10, 5)]), BOX.expand(2, 4)
    deltas = torch.zeros(2, 4)
    plain = DeltaLoss()(deltas, references, boxes)
    torch.testing.assert_close(Centered(DeltaLoss())(deltas, references, boxes), plain * torch.tensor([1.5, 0.5]))


def test_without_positives_the_gradient_of_centerness_is_zero_not_missing() -> None:
    deltas, logits, empty = torch.randn(5, 4, requires_grad=True), torch.randn(5, requires_grad=True), torch.zeros(0, 4)
    value = Centered(DeltaLoss())(deltas[:0], empty, empty).sum() + centerness_loss(logits[:0], empty, empty).sum()
    for gradient in torch.autograd.grad(value, [deltas, logits]):
        assert (gradient == 0).all()


def test_off_the_boxes_nothing_is_divided_by_zero() -> None:
    deltas = torch.zeros(1, 4, requires_grad=True)
    value = Centered(DeltaLoss())(deltas, point(90, 90), BOX)
    assert value.isfinite().all() and torch.autograd.grad(value.sum(), deltas)[0].isfinite().all()
