"""Assignment by overlap: a candidate learns the object it covers best (Faster R-CNN, Ren et al. 2015, 3.1.2).

With `claim`: SSD (Liu et al. 2016, section 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from boxwright.boxes.iou import area, intersection, pairwise_iou
from boxwright.types import Target

BACKGROUND = -1
IGNORED = -2


@dataclass(frozen=True)
class ByOverlap:
    """Positive from IoU `high` up, background below `low`, ignored in between.

    rescue  also gives every object the candidates that overlap it most, however little (the paper's rule (i))
    claim   gives every object its best candidate even if that covers another better (SSD; of several claims the last
            object's holds, as in torchvision)
    crowd   background whose area lies in a crowd region by more than this fraction is ignored
    """

    high: float = 0.5
    low: float = 0.5
    rescue: bool = False
    claim: bool = False
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
            if self.rescue:
                most = overlaps.amax(1, keepdim=True).clamp(min=1e-6)
                positive = positive | (overlaps >= most).any(0)
            assigned = torch.where(best >= self.low, IGNORED, assigned)
            if self.claim:
                claims = torch.arange(len(objects), device=row.device)
                claimed = torch.full_like(row, BACKGROUND).scatter_reduce(0, overlaps.argmax(1), claims, "amax")
                positive, row = positive | (claimed >= 0), torch.where(claimed >= 0, claimed, row)
            assigned = torch.where(positive, objects[row], assigned)
        if target.crowd.any():
            regions = target.boxes[target.crowd]
            inside = intersection(candidates[:, None], regions[None]) / area(candidates)[:, None].clamp(min=1e-6)
            assigned = torch.where((assigned == BACKGROUND) & (inside.amax(1) > self.crowd), IGNORED, assigned)
        return assigned
