"""Who must learn what: from candidate boxes and objects to an object per candidate, and which candidates count.

By overlap: Faster R-CNN (Ren et al. 2015, section 3.1.2) and, with `match_best_prior`, SSD (Liu et al. 2016, section
2.2).
By position: a point near the centre of an object learns it (FCOS, Tian et al. 2019, section 3.2, ICCV; centre sampling:
its journal version, PAMI 2020).
Sampling: which of the assigned candidates count in the loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from boxwright.boxes.codec import distances
from boxwright.boxes.geometry import area, intersection, pairwise_iou, xyxy_to_cxcywh
from boxwright.types import Target

BACKGROUND = -1
IGNORED = -2


@dataclass(frozen=True)
class MaxIoUAssigner:
    """Positive from IoU `high` up, background below `low`, ignored in between.

    rescue  also gives every object the candidates that overlap it most, however little (the paper's rule (i))
    claim   gives every object its best candidate even if that covers another better (SSD; of several claims the last
            object's holds, as in torchvision)
    crowd   background whose area lies in a crowd region by more than this fraction is ignored
    """

    high: float = 0.5
    low: float = 0.5
    allow_low_quality_matches: bool = False
    match_best_prior: bool = False
    crowd: float = 0.5

    def __call__(self, candidates: Tensor, target: Target) -> Tensor:
        """Candidates (A, 4) to (A,) int64: the row of `target` to learn, `BACKGROUND` or `IGNORED`.

        Without objects everything is background.
        """
        assigned = torch.full(candidates.shape[:1], BACKGROUND, dtype=torch.int64, device=candidates.device)
        objects = (~target.crowd).nonzero().squeeze(1)
        if len(objects):
            overlaps = pairwise_iou(target.boxes[objects], candidates)  # (G, A)
            best, row = overlaps.max(0)
            positive = best >= self.high
            if self.allow_low_quality_matches:
                most = overlaps.amax(1, keepdim=True).clamp(min=1e-6)
                positive = positive | (overlaps >= most).any(0)
            assigned = torch.where(best >= self.low, IGNORED, assigned)
            if self.match_best_prior:
                claims = torch.arange(len(objects), device=row.device)
                claimed = torch.full_like(row, BACKGROUND).scatter_reduce(0, overlaps.argmax(1), claims, "amax")
                positive, row = positive | (claimed >= 0), torch.where(claimed >= 0, claimed, row)
            assigned = torch.where(positive, objects[row], assigned)
        if target.crowd.any():
            regions = target.boxes[target.crowd]
            inside = intersection(candidates[:, None], regions[None]) / area(candidates)[:, None].clamp(min=1e-6)
            assigned = torch.where((assigned == BACKGROUND) & (inside.amax(1) > self.crowd), IGNORED, assigned)
        return assigned


@dataclass(frozen=True)
class CenterAssigner:
    """A point inside an object is positive if it is near its centre and its level is for objects of that size.

    Of several objects a point learns the smallest. A candidate stands for its centre, its width for the stride of its
    level.

    radius  how far from the object's centre, in strides along either axis; inf: anywhere inside (the paper at first)
    reach   the farthest side of an object lies up to so many strides away, and farther than the level below reaches;
            the finest level has all that is smaller, the coarsest all that is larger
    """

    radius: float = 1.5
    reach: float = 8.0

    def __call__(self, candidates: Tensor, target: Target) -> Tensor:
        """Candidates (A, 4) to (A,) int64: the row of `target` to learn, `BACKGROUND` or, in a crowd, `IGNORED`.

        Without objects everything is background.
        """
        assigned = torch.full(candidates.shape[:1], BACKGROUND, dtype=torch.int64, device=candidates.device)
        if not len(target):
            return assigned
        sides = distances(candidates[:, None], target.boxes)  # (A, G, 4)
        inside = sides.amin(-1) > 0
        assigned = torch.where((inside & target.crowd).any(1), IGNORED, assigned)

        stride = candidates[:, 2] - candidates[:, 0]  # (A,)
        farthest = sides.amax(-1)
        most = torch.where(stride == stride.amax(), torch.inf, self.reach * stride)[:, None]
        least = torch.where(stride == stride.amin(), 0.0, self.reach / 2 * stride)[:, None]
        apart = (xyxy_to_cxcywh(candidates)[:, None, :2] - xyxy_to_cxcywh(target.boxes)[:, :2]).abs().amax(-1)
        near = apart < self.radius * stride[:, None]
        takes = inside & near & (farthest >= least) & (farthest <= most) & ~target.crowd  # (A, G)
        smallest, row = torch.where(takes, area(target.boxes), torch.inf).min(1)
        return torch.where(smallest < torch.inf, row, assigned)


def all_valid_anchors(assigned: Tensor, losses: Tensor | None = None) -> Tensor:
    """All that is not ignored, as a mask."""
    return assigned != IGNORED


@dataclass(frozen=True)
class BalancedSampler:
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
class HardNegativeMining:
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
