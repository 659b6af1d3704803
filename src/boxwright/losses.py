"""Loss functions of tensors: classification, box regression, FCOS's centre-ness; one number per candidate.

Class losses take logits (..., L) and labels (...); a negative label is background. Box losses take predicted deltas,
the boxes they refer to and the true boxes.
Focal loss: Lin et al. 2017, "Focal Loss for Dense Object Detection". With soft targets: quality focal loss, Li et al.
2020, "Generalized Focal Loss"; varifocal loss, Zhang et al. 2021, "VarifocalNet".
Smooth L1 on deltas: Girshick 2015, "Fast R-CNN".
GIoU: Rezatofighi et al. 2019. Centre-ness: FCOS, Tian et al. 2019, section 3.3: how far in the middle of its object a
point, the centre of a reference box, lies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.boxes.anchors import SMALLEST, Codec, DeltaCodec, distances
from boxwright.boxes.geometry import giou


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over K sigmoids of -log p of the right answer; background is no to all. (..., K), (...) -> (...)"""
    return F.binary_cross_entropy_with_logits(logits, _one_hot(logits, labels), reduction="none").sum(-1)


def focal(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Cross entropy that weighs easy examples down, -alpha_t (1 - p_t)^gamma log p_t, summed. (..., K), (...) -> (...)

    `alpha` weighs the object's class against the others; `gamma` 0 leaves the alpha-balanced cross entropy.
    """
    targets = _one_hot(logits, labels)
    probability = logits.sigmoid()
    error = probability + targets - 2 * probability * targets  # 1 - p_t
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (balance * error**gamma * entropy).sum(-1)


def quality_focal(logits: Tensor, labels: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    """Cross entropy with a soft target, |q - p|^beta * BCE(p, q), summed. (..., K), (...), (...) -> (...)

    The target q of the object's class is the `quality` of its box, of other classes and of background 0.
    """
    targets = _one_hot(logits, labels) * quality[..., None]
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return ((logits.sigmoid() - targets).abs() ** beta * entropy).sum(-1)


def varifocal(logits: Tensor, labels: Tensor, quality: Tensor, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """As `quality_focal`, but only background is weighed down, by alpha p^gamma; objects weigh q, the good ones most.

    (..., K), (...), (...) -> (...)
    """
    positive = _one_hot(logits, labels)
    targets = positive * quality[..., None]
    weights = targets + (1 - positive) * alpha * logits.sigmoid() ** gamma
    return (weights * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")).sum(-1)


CLASS_LOSSES = {"focal": focal, "quality_focal": quality_focal, "varifocal": varifocal}
"""Those of RetinaNet and FCOS by name; all but the first take the IoU of the boxes too."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p of the right column of a softmax, the last of which is background. (..., K + 1), (...) -> (...)"""
    columns = torch.where(labels < 0, logits.shape[-1] - 1, labels)
    return F.cross_entropy(logits.flatten(0, -2), columns.flatten(), reduction="none").view_as(labels)


def _one_hot(logits: Tensor, labels: Tensor) -> Tensor:
    """1 in the column of each label, 0 elsewhere, of the shape of `logits`."""
    column = labels.clamp(min=0)[..., None]
    return torch.zeros_like(logits).scatter_(-1, column, (labels >= 0).to(logits.dtype)[..., None])


@dataclass(frozen=True)
class DeltaLoss:
    """Smooth L1 between predicted and true deltas, summed over the four numbers (Girshick 2015, "Fast R-CNN", eq. 2).

    Below `beta` the error counts squared, above it linearly; `beta` 0 is plain L1.
    """

    codec: Codec = field(default_factory=DeltaCodec)
    beta: float = 1 / 9

    def __call__(self, deltas: Tensor, references: Tensor, boxes: Tensor) -> Tensor:
        """Predicted deltas, the boxes they refer to and the true boxes, (P, 4) each, to a loss for each, (P,)."""
        targets = self.codec.encode(boxes, references)
        if self.beta == 0:
            return (deltas - targets).abs().sum(-1)
        return F.smooth_l1_loss(deltas, targets, beta=self.beta, reduction="none").sum(-1)


@dataclass(frozen=True)
class GIoULoss:
    """1 - GIoU of the decoded boxes and the true ones (Rezatofighi et al. 2019)."""

    codec: Codec = field(default_factory=DeltaCodec)

    def __call__(self, deltas: Tensor, references: Tensor, boxes: Tensor) -> Tensor:
        """Predicted deltas, the boxes they refer to and the true boxes, (P, 4) each, to a loss for each, (P,)."""
        return 1 - giou(self.codec.decode(deltas, references), boxes)


BOX_LOSSES = {"smooth_l1": DeltaLoss, "giou": GIoULoss}
"""Those that an option chooses, by name."""


def centerness(references: Tensor, boxes: Tensor) -> Tensor:
    """1 at the centre of the box, 0 at its border and beyond. (..., 4), (..., 4) xyxy -> (...)

    The root of (nearer / farther side, left and right) times (the same, top and bottom): equation 3.
    """
    left, top, right, bottom = distances(references, boxes).clamp(min=0).unbind(-1)
    across = torch.minimum(left, right) / torch.maximum(left, right).clamp(min=SMALLEST)
    down = torch.minimum(top, bottom) / torch.maximum(top, bottom).clamp(min=SMALLEST)
    return (across * down).sqrt()


def centerness_loss(logits: Tensor, references: Tensor, boxes: Tensor) -> Tensor:
    """Binary cross entropy between the predicted and the true centre-ness. (P,), (P, 4), (P, 4) -> (P,)"""
    return F.binary_cross_entropy_with_logits(logits, centerness(references, boxes), reduction="none")


@dataclass(frozen=True)
class Centered:
    """A box loss weighted by centre-ness, 1 on average: points in the middle of their object weigh more."""

    loss: Callable[[Tensor, Tensor, Tensor], Tensor]

    def __call__(self, deltas: Tensor, references: Tensor, boxes: Tensor) -> Tensor:
        """Predicted deltas, the boxes they refer to and the true boxes, (P, 4) each, to a loss for each, (P,)."""
        weights = centerness(references, boxes)
        mean = weights.sum().clamp(min=SMALLEST) / max(len(weights), 1)
        return self.loss(deltas, references, boxes) * weights / mean
