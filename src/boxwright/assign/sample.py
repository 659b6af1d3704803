"""Sampling: which of the assigned candidates count in the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from boxwright.assign.by_overlap import BACKGROUND, IGNORED


def everything(assigned: Tensor, losses: Tensor | None = None) -> Tensor:
    """All that is not ignored, as a mask."""
    return assigned != IGNORED


@dataclass(frozen=True)
class Balanced:
    """`count` candidates of each image at random, at most the fraction `positive` of them positive.

    Background fills what positives leave free (Faster R-CNN, section 3.1.3: 256 at 1/2; Fast R-CNN, section 2.3: 1/4).
    Where there is too little of it, fewer are drawn.
    """

    count: int
    positive: float

    def __call__(self, assigned: Tensor, losses: Tensor | None = None) -> Tensor:
        """Assignments (..., A) to a mask (..., A)."""
        noise = torch.rand(assigned.shape, device=assigned.device)
        positives = _draw(assigned >= 0, noise, int(self.count * self.positive))
        free = self.count - positives.sum(-1, keepdim=True)
        return positives | _draw(assigned == BACKGROUND, noise, self.count, free)


@dataclass(frozen=True)
class HardNegatives:
    """All positives of an image, and `ratio` times as much background: what costs most (SSD, section 2.2).

    least  background of an image where that would be fewer; at 0 an image without objects teaches nothing (the paper)
    """

    ratio: float = 3.0
    least: int = 3

    def __call__(self, assigned: Tensor, losses: Tensor) -> Tensor:
        """Assignments (..., A) and their class losses (..., A) to a mask (..., A)."""
        positive = assigned >= 0
        count = (self.ratio * positive.sum(-1, keepdim=True)).clamp(min=self.least)
        return positive | _draw(assigned == BACKGROUND, losses, assigned.shape[-1], count)


def _draw(eligible: Tensor, rank: Tensor, most: int, count: Tensor | None = None) -> Tensor:
    """The mask of the `most` eligible entries of highest rank (none is negative), or of the first `count` (..., 1)."""
    top = torch.where(eligible, rank, -1.0).topk(min(most, eligible.shape[-1]), dim=-1)
    drawn = top.values >= 0
    if count is not None:
        drawn = drawn & (torch.arange(drawn.shape[-1], device=drawn.device) < count)
    return torch.zeros_like(eligible).scatter_(-1, top.indices, drawn)
