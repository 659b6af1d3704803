"""Box regression losses: from predicted deltas, the boxes they refer to and the true boxes to one number per box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from boxwright.boxes.codec import Codec, DeltaCodec
from boxwright.boxes.iou import giou


@dataclass(frozen=True)
class DeltaLoss:
    """Smooth L1 between predicted and true deltas, summed over the four numbers (Girshick 2015, "Fast R-CNN", eq. 2).

    Below `beta` the error counts squared, above it linearly; `beta` 0 is plain L1.
    """

    codec: Codec = field(default_factory=DeltaCodec)
    beta: float = 1 / 9

    def __call__(self, deltas: Tensor, references: Tensor, boxes: Tensor) -> Tensor:
        """(P, 4) three times to (P,)."""
        wanted = self.codec.encode(boxes, references)
        if self.beta == 0:
            return (deltas - wanted).abs().sum(-1)
        return F.smooth_l1_loss(deltas, wanted, beta=self.beta, reduction="none").sum(-1)


@dataclass(frozen=True)
class OverlapLoss:
    """1 - GIoU of the decoded boxes (Rezatofighi et al. 2019), or 1 minus any other overlap of `boxes.iou`."""

    codec: Codec = field(default_factory=DeltaCodec)
    overlap: Callable[[Tensor, Tensor], Tensor] = giou

    def __call__(self, deltas: Tensor, references: Tensor, boxes: Tensor) -> Tensor:
        """(P, 4) three times to (P,)."""
        return 1 - self.overlap(self.codec.decode(deltas, references), boxes)
