"""Binary classification losses per logit (focal loss: Lin et al. 2017, "Focal Loss for Dense Object Detection")."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p of the right answer, of the shape of `logits`; targets are 0 or 1."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def focal(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Cross entropy with easy examples faded out: -alpha_t (1 - p_t)^gamma log p_t, of the shape of `logits`.

    `alpha` weighs positives against negatives; `gamma` 0 leaves the alpha-balanced cross entropy.
    """
    probability = logits.sigmoid()
    wrong = probability + targets - 2 * probability * targets  # 1 - p_t
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    return balance * wrong**gamma * binary_cross_entropy(logits, targets)
