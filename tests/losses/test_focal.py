"""Focal loss and cross entropy per logit: numbers by hand, torchvision's focal loss, and their limits."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from boxwright.losses import binary_cross_entropy, focal


def test_cross_entropy_is_minus_log_of_the_right_answer() -> None:
    logits = torch.tensor([0.0, math.log(3), math.log(3)])  # probabilities 1/2, 3/4, 3/4
    loss = binary_cross_entropy(logits, torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(loss, torch.tensor([math.log(2), math.log(4 / 3), math.log(4)]))


def test_focal_loss_by_hand() -> None:
    logits = torch.tensor([math.log(3), math.log(3)])  # 3/4: right for the first, wrong for the second
    loss = focal(logits, torch.tensor([1.0, 0.0]), alpha=0.25, gamma=2.0)
    expected = torch.tensor([0.25 * (1 / 4) ** 2 * math.log(4 / 3), 0.75 * (3 / 4) ** 2 * math.log(4)])
    torch.testing.assert_close(loss, expected)


def test_an_easy_example_fades() -> None:
    """The paper's figure 1: at gamma 2 what is classified with p = 0.9 counts a hundred times less."""
    logit, right = torch.tensor([math.log(9.0)]), torch.ones(1)
    assert focal(logit, right, alpha=0.5, gamma=0.0) / focal(logit, right, alpha=0.5) == pytest.approx(100, rel=1e-4)


def test_without_focus_it_is_balanced_cross_entropy() -> None:
    logits, targets = torch.randn(50, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, 1.0] * 25)
    balance = torch.where(targets == 1, 0.3, 0.7)
    torch.testing.assert_close(focal(logits, targets, 0.3, 0.0), balance * binary_cross_entropy(logits, targets))


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.9, 1.5)])
def test_focal_loss_and_its_gradient_equal_torchvision(alpha: float, gamma: float) -> None:
    noise = torch.Generator().manual_seed(1)
    logits = 4 * torch.randn(3, 40, 5, generator=noise)
    targets = (torch.rand(3, 40, 5, generator=noise) < 0.1).float()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    mine, other = focal(ours, targets, alpha, gamma), sigmoid_focal_loss(theirs, targets, alpha, gamma)
    torch.testing.assert_close(mine, other)
    gradients = torch.autograd.grad(mine.sum(), ours) + torch.autograd.grad(other.sum(), theirs)
    torch.testing.assert_close(*gradients)


def test_extreme_logits_have_finite_losses_and_gradients() -> None:
    logits = torch.tensor([1e4, -1e4, 1e4, -1e4, 0.0]).requires_grad_()
    targets = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    for loss in (binary_cross_entropy(logits, targets), focal(logits, targets)):
        assert loss.isfinite().all()
        assert torch.autograd.grad(loss.sum(), logits)[0].isfinite().all()
