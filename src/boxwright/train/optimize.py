"""Parameter groups, the schedules of learning rate and momentum, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from boxwright.train.config import TrainConfig


def parameter_groups(detector: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Groups of parameters that learn: backbone or not, decayed or not. Only weights of two dimensions and more decay.

    "share" of a group is its learning rate as a fraction of the run's.
    """
    groups: list[dict[str, Any]] = [
        {"params": [], "share": share, "weight_decay": decay}
        for share in (config.backbone_lr, 1.0)
        for decay in (0.0, config.weight_decay)
    ]
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            index = 2 * ("backbone" not in name.split(".")) + (parameter.ndim > 1)
            groups[index]["params"].append(parameter)
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("no parameter of the detector learns: all have requires_grad = False")
    return groups


def schedule(step: int, steps: int, warmup: float, flat: float = 0.0) -> float:
    """The share of the peak learning rate at `step` of `steps`: linear warm-up, the peak, then a cosine to 0.

    warmup, flat  the fractions of all steps that the first two take; together at most 1
    """
    rise, fall = warmup * steps, (warmup + flat) * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * max(0.0, step - fall) / max(1.0, steps - fall)))


def momentum(share: float, config: TrainConfig) -> float:
    """AdamW's beta1 at this share of the peak learning rate: it falls as the rate rises (Smith and Topin, 2018)."""
    return config.momentum + (config.peak_momentum - config.momentum) * share


class Average:
    """The exponential moving average of a module's weights and statistics; the decay is lower in the first steps.

    `weights` is a state dict that shares no memory with the module.
    `torch.optim.swa_utils.AveragedModel` would copy the first step whole, and average integers too.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = module.state_dict()  # shares memory with the module
        self.weights = {key: value.clone() for key, value in self._live.items()}
        self._averaged = [key for key, value in self._live.items() if value.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimizer step number `step`, counted from 1."""
        decay = min(self.decay, step / (step + 9))
        average, live = ([tensors[key] for key in self._averaged] for tensors in (self.weights, self._live))
        # On a GPU one kernel rather than hundreds.
        torch._foreach_lerp_(average, live, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for key in self._live.keys() - set(self._averaged):
            self.weights[key].copy_(self._live[key])

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from weights of the same module."""
        for key, value in self.weights.items():
            value.copy_(weights[key])
