"""What the training loop optimises with: parameter groups, the schedule of the rate, the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Rates(Protocol):
    """What is needed of a `TrainConfig`."""

    @property
    def backbone_lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


def parameter_groups(detector: nn.Module, config: Rates) -> list[dict[str, Any]]:
    """Groups of parameters that learn: backbone or not, decayed or not. Only weights of two dimensions and more decay.

    "share" of a group is its rate as a fraction of the run's.
    """
    kinds = [(own, decays) for own in (False, True) for decays in (False, True)]
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {kind: [] for kind in kinds}
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            groups["backbone" not in name.split("."), parameter.ndim > 1].append(parameter)
    if not any(groups.values()):
        raise ValueError("no parameter of the detector learns: all have requires_grad = False")
    return [
        {
            "params": parameters,
            "share": 1.0 if own else config.backbone_lr,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (own, decays), parameters in groups.items()
        if parameters
    ]


def schedule(step: int, steps: int, warmup: float) -> float:
    """The share of the peak rate at `step` of `steps`: a linear rise over the fraction `warmup`, then a cosine to 0."""
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1.0, steps - rising)))


class Average:
    """The exponential moving average of a module's weights and statistics, which follows fast while young.

    `torch.optim.swa_utils.AveragedModel` would copy the first step whole, and average whole numbers too.

    weights  as the module's `state_dict`, tensors of their own
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = module.state_dict()  # shares memory with the module
        self.weights = {key: value.clone() for key, value in self._live.items()}
        self._averaged = [key for key, value in self._live.items() if value.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step number `step`, counted from 1."""
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
