"""Assignment by position: a point near the centre of an object learns it (FCOS, Tian et al. 2019, section 3.2).

"FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019; centre sampling: its journal version, PAMI 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from boxwright.assign.by_overlap import BACKGROUND, IGNORED
from boxwright.boxes.codec import distances
from boxwright.boxes.convert import xyxy_to_cxcywh
from boxwright.boxes.iou import area
from boxwright.types import Target


@dataclass(frozen=True)
class ByCenter:
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
