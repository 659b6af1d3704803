"""Centre-ness: how far in the middle of its object a point lies (FCOS, Tian et al. 2019, section 3.3).

"FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019. A point is the centre of a reference box.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.boxes.codec import SMALLEST, distances


def centerness(references: Tensor, boxes: Tensor) -> Tensor:
    """1 at the centre of the box, 0 at its border and beyond. (..., 4), (..., 4) xyxy -> (...)

    The root of (nearer / farther side, left and right) times (the same, top and bottom): equation 3.
    """
    left, top, right, bottom = distances(references, boxes).clamp(min=0).unbind(-1)
    across = torch.minimum(left, right) / torch.maximum(left, right).clamp(min=SMALLEST)
    down = torch.minimum(top, bottom) / torch.maximum(top, bottom).clamp(min=SMALLEST)
    return (across * down).sqrt()


def centerness_loss(logits: Tensor, references: Tensor, boxes: Tensor) -> Tensor:
    """Binary cross entropy between what was said and what is. (P,), (P, 4), (P, 4) -> (P,)"""
    return F.binary_cross_entropy_with_logits(logits, centerness(references, boxes), reduction="none")


@dataclass(frozen=True)
class Centered:
    """A box loss in which points in the middle of their object weigh more: by centre-ness, 1 on average."""

    loss: Callable[[Tensor, Tensor, Tensor], Tensor]

    def __call__(self, deltas: Tensor, references: Tensor, boxes: Tensor) -> Tensor:
        """(P, 4) three times to (P,)."""
        weights = centerness(references, boxes)
        mean = weights.sum().clamp(min=SMALLEST) / max(len(weights), 1)
        return self.loss(deltas, references, boxes) * weights / mean
