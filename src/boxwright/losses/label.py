"""Class losses: from logits and the label of each candidate to one number per candidate.

All take logits (..., L) and labels (...); a negative label is the background. Focal loss: Lin et al. 2017, "Focal Loss
for Dense Object Detection".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p of the right answer to K yes-or-no questions, summed; background is no to all. (..., K), (...) -> (...)"""
    return F.binary_cross_entropy_with_logits(logits, _one_hot(logits, labels), reduction="none").sum(-1)


def focal(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Cross entropy with easy answers faded out, -alpha_t (1 - p_t)^gamma log p_t, summed. (..., K), (...) -> (...)

    `alpha` weighs yes against no; `gamma` 0 leaves the alpha-balanced cross entropy.
    """
    targets = _one_hot(logits, labels)
    probability = logits.sigmoid()
    wrong = probability + targets - 2 * probability * targets  # 1 - p_t
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (balance * wrong**gamma * entropy).sum(-1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p of the right column of a softmax, the last of which is background. (..., K + 1), (...) -> (...)"""
    columns = torch.where(labels < 0, logits.shape[-1] - 1, labels)
    return F.cross_entropy(logits.flatten(0, -2), columns.flatten(), reduction="none").view_as(labels)


def _one_hot(logits: Tensor, labels: Tensor) -> Tensor:
    """1 in the column of each label, 0 elsewhere, of the shape of `logits`."""
    column = labels.clamp(min=0)[..., None]
    return torch.zeros_like(logits).scatter_(-1, column, (labels >= 0).to(logits.dtype)[..., None])
