"""Sampling of assigned candidates: quotas, chance, and what happens when there is too little of something."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from boxwright.assign import BACKGROUND, IGNORED, BalancedSampler, HardNegativeMining, all_valid_anchors


def assigned(positive: int, background: int, ignored: int = 0) -> Tensor:
    return torch.tensor([0] * positive + [BACKGROUND] * background + [IGNORED] * ignored)


def test_everything_leaves_out_what_is_ignored() -> None:
    assert all_valid_anchors(torch.tensor([2, BACKGROUND, IGNORED, 0])).tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("positive", "background", "trained", "untrained"),
    [
        (100, 100, 4, 12),  # enough of both: a quarter of 16
        (2, 100, 2, 14),  # background fills up
        (0, 100, 0, 16),
        (100, 5, 4, 5),  # positives do not fill up
        (100, 0, 4, 0),
        (1, 2, 1, 2),
        (0, 0, 0, 0),
    ],
)
def test_quotas(positive: int, background: int, trained: int, untrained: int) -> None:
    rows = assigned(positive, background, ignored=30)
    chosen = BalancedSampler(16, positive=0.25)(rows)
    assert chosen.shape == rows.shape and chosen.dtype == torch.bool
    assert (chosen & (rows >= 0)).sum() == trained
    assert (chosen & (rows == BACKGROUND)).sum() == untrained
    assert not (chosen & (rows == IGNORED)).any()


def test_every_image_has_its_own_quota() -> None:
    rows = torch.stack([assigned(50, 50), assigned(1, 99), assigned(0, 3, ignored=97)])
    chosen = BalancedSampler(16, positive=0.5)(rows)
    assert (chosen & (rows >= 0)).sum(1).tolist() == [8, 1, 0]
    assert chosen.sum(1).tolist() == [16, 16, 3]


def test_more_places_than_candidates() -> None:
    assert BalancedSampler(512, positive=0.5)(assigned(3, 4)).all()
    assert BalancedSampler(512, positive=0.5)(assigned(0, 0)).shape == (0,)


def test_the_seed_decides() -> None:
    rows, draw = assigned(50, 500), BalancedSampler(64, positive=0.5)
    torch.manual_seed(3)
    first = draw(rows)
    other = draw(rows)
    torch.manual_seed(3)
    assert torch.equal(draw(rows), first)
    assert not torch.equal(other, first)


def test_all_have_the_same_chance() -> None:
    """Of 10 positives and 30 backgrounds 4 and 12 are drawn: each 0.4 of the time, within five standard errors."""
    torch.manual_seed(0)
    draws = 2000
    frequency = BalancedSampler(16, positive=0.25)(assigned(10, 30).expand(draws, -1)).float().mean(0)
    assert (frequency - 0.4).abs().max() < 5 * (0.4 * 0.6 / draws) ** 0.5


def test_hard_negatives_are_those_that_cost_most() -> None:
    """Two positives of the first image want six of its seven negatives; the second has none, and gets `least`."""
    rows = torch.stack([assigned(2, 7, 1), assigned(0, 9, 1)])
    losses = torch.tensor([[9.0, 9, 1, 2, 3, 4, 5, 6, 7, 9], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])
    chosen = HardNegativeMining(ratio=3.0, least=2)(rows, losses)
    assert chosen[0].tolist() == [True, True, False, True, True, True, True, True, True, False]
    assert chosen[1].tolist() == [False] * 7 + [True, True, False]
    assert not HardNegativeMining(least=0)(rows, losses)[1].any()


def test_too_few_negatives_are_all_taken() -> None:
    rows = assigned(3, 2, 4)
    assert HardNegativeMining()(rows, torch.zeros(9)).tolist() == [True] * 5 + [False] * 4
