"""Class losses: numbers by hand, torchvision's focal loss, and their limits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from boxwright.losses import binary_cross_entropy, cross_entropy, focal

LN3 = math.log(3)  # a logit of 3/4


def random(columns: int) -> tuple[torch.Tensor, torch.Tensor]:
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
    """3/4 said of the right class; of no class at all; and of the wrong one of two, the right one at 1/2."""
    right, wrong = 0.25 * (1 / 4) ** 2 * math.log(4 / 3), 0.75 * (3 / 4) ** 2 * math.log(4)
    loss = focal(torch.tensor([[LN3], [LN3]]), torch.tensor([0, -1]), alpha=0.25, gamma=2.0)
    torch.testing.assert_close(loss, torch.tensor([right, wrong]))
    half = 0.25 * (1 / 2) ** 2 * math.log(2)
    assert focal(torch.tensor([LN3, 0.0]), torch.tensor(1)).item() == pytest.approx(wrong + half)


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
