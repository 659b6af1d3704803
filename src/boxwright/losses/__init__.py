"""Loss functions of tensors: classification in `focal`, regression in `box`."""

from boxwright.losses.box import DeltaLoss, OverlapLoss
from boxwright.losses.focal import binary_cross_entropy, focal

__all__ = ["DeltaLoss", "OverlapLoss", "binary_cross_entropy", "focal"]
