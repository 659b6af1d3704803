"""Loss functions of tensors: classification in `label`, regression in `box`, FCOS's centre-ness in `centerness`."""

from boxwright.losses.box import DeltaLoss, OverlapLoss
from boxwright.losses.centerness import Centered, centerness, centerness_loss
from boxwright.losses.label import binary_cross_entropy, cross_entropy, focal

__all__ = [
    "Centered",
    "DeltaLoss",
    "OverlapLoss",
    "binary_cross_entropy",
    "centerness",
    "centerness_loss",
    "cross_entropy",
    "focal",
]
