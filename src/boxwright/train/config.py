"""The options of training. Importing them imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

from boxwright.files import parse_json
from boxwright.typed import check, check_fields, within

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]


_Settings = TypedDict("_Settings", {
    "data": str, "detector": str, "config": dict[str, Any], "training": dict[str, Any], "options": dict[str, Any],
    "preprocess": NotRequired[dict[str, Any]], "plugins": NotRequired[dict[str, str]],
    "from": NotRequired[dict[str, Any] | None], "chosen": NotRequired[dict[str, str]],
})  # fmt: skip


def read_settings(path: Path) -> dict[str, Any]:
    """The config.json of a run. Raises ValueError, which names the file, for anything else."""
    if not path.is_file():
        raise ValueError(f"{path.parent} is no folder of a run: it has no {path.name}")
    content = parse_json(path.read_bytes(), path)
    check(str(path), content, _Settings)
    return content


EARLIER: dict[str, Any] = {"flat": 0.0, "light_end": 0.0, "momentum": 0.9, "peak_momentum": 0.9}
"""Options that files of earlier versions do not have, and what trainings did before there were these options."""


@dataclass(frozen=True)
class TrainConfig:
    """How to optimize. Batches and their augmentation are configured with the data."""

    epochs: int | None = None
    """Passes over the data; None for as many as make about 500 steps, but no fewer than 6 and no more than 100."""
    lr: float = 5e-4
    """Peak learning rate of AdamW."""
    backbone_lr: float = 0.5
    """The backbone's learning rate, as a fraction of `lr`."""
    weight_decay: float = 0.01
    """AdamW's decay, of weights but not of biases and norms."""
    warmup: float = 0.05
    """Fraction of the run over which the learning rate rises from 0; then it falls along a cosine."""
    flat: float = 0.0
    """Fraction of the run over which it stays at its peak in between."""
    light_end: float = 0.0
    """Fraction of the epochs, the last ones, in which images are only flipped and scaled: no other augmentation."""
    momentum: float = 0.95
    """AdamW's beta1 where the learning rate is 0; it falls as the rate rises, as in one-cycle schedules."""
    peak_momentum: float = 0.85
    """The same at the peak of the rate."""
    clip: float = 5.0
    """Largest norm of the gradient; 0 for no limit."""
    accumulate: int = 1
    """Batches whose gradients are averaged for one optimizer step."""
    ema: float = 0.998
    """Decay of the average of the weights, which is what gets evaluated and saved; 0 switches it off."""
    precision: Precision = "auto"
    """Arithmetic of the forward pass; auto is bf16 where the machine has it, fp32 elsewhere; fp16 scales the loss."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        check_fields(type(self), vars(self))
        within(1, 1_000_000, epochs=self.epochs, accumulate=self.accumulate)
        within(0, 1, warmup=self.warmup, flat=self.flat, light_end=self.light_end, ema=self.ema)
        within(0, 1, **{"warmup + flat": self.warmup + self.flat})
        within(0, 0.9999, momentum=self.momentum, peak_momentum=self.peak_momentum)
        within(0, 2**63 - 1, seed=self.seed)
        within(0, math.inf, backbone_lr=self.backbone_lr, weight_decay=self.weight_decay, clip=self.clip)
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr is greater than 0; got {self.lr}")

    def resolve(self, batches: int, device: torch.device) -> TrainConfig:
        """A copy with epochs and precision decided, for an epoch of `batches` batches on this device."""
        from boxwright.device import choose_precision

        steps = math.ceil(batches / self.accumulate)
        return replace(
            self,
            epochs=self.epochs or min(max(math.ceil(500 / steps), 6), 100),
            precision=choose_precision(device) if self.precision == "auto" else self.precision,
        )
