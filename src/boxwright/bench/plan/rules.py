"""What is the same for all cells of a race, as options. Imports no torch, as the command's help reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import tyro

from boxwright.bench.plan.budget import parse_budget

Augmentation = Literal["none", "light", "standard", "strong"]
Runtime = Literal["eager", "compiled", "captured"]

_MOST_SEEDS = 1000


@dataclass(frozen=True)
class Rules:
    """What is the same for all cells of a race; how they are trained is a `TrainConfig`."""

    seeds: int = 2
    """Trainings of each cell, which differ in all that is random."""
    budget: Annotated[str, tyro.conf.arg(metavar="30m|8h", help_behavior_hint="")] = ""
    """Time for the whole race. Where it is short, cells train for fewer epochs, or are stopped early by AP on val."""
    augment: Augmentation = "standard"
    """How strongly training images are augmented."""
    batch: int = 8
    """Images in a training step, and at most in a batch where images a second are measured."""
    pretrained: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Backbones start from ImageNet weights (boxwright[pretrained]); with --no-pretrained from random ones."""
    timed: int = 20
    """Test images on which times are measured."""
    rounds: int = 3
    """Rounds over these images, all cells in turn; a warm-up round before them does not count."""
    runtimes: tuple[Runtime, ...] = ("eager",)
    """How networks run where times are measured; compiling takes a minute or two for each cell; captured, a
    compiled network is launched as one CUDA graph, on CUDA only."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Processes that load images for training; if not given, one fewer than there are cores, at most 4."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ... or mps."""
    parallel: int = 1
    """Trainings at a time, each on its own GPU, by Ray (boxwright[ray]); 1 is in this process, without Ray."""
    ray: str = "local"
    """local starts Ray here for the duration of the race; otherwise the address of a cluster."""

    def __post_init__(self) -> None:
        for name in ("seeds", "batch", "timed", "rounds", "parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is 1 or more, got {getattr(self, name)}")
        if self.seeds > _MOST_SEEDS:
            raise ValueError(f"seeds is at most {_MOST_SEEDS}, got {self.seeds}")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers is 0 or more, got {self.workers}")
        if self.augment not in get_args(Augmentation):
            raise ValueError(f"augment is one of {', '.join(get_args(Augmentation))}; got {self.augment!r}")
        known = get_args(Runtime)
        if not self.runtimes or set(self.runtimes) - set(known) or len(set(self.runtimes)) < len(self.runtimes):
            got = " ".join(self.runtimes) or "none"
            raise ValueError(f"runtimes are different ones of {', '.join(known)}; got {got}")
        if self.budget:
            parse_budget(self.budget)
