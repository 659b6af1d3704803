"""What is the same for all cells of a race, as options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from boxwright.bench.plan.budget import parse_budget
from boxwright.data.augment import PRESETS
from boxwright.predict.program import PROGRAMS


@dataclass(frozen=True)
class Rules:
    """What is the same for all cells of a race; how they learn is a `TrainConfig`."""

    seeds: int = 2
    """Trainings of each cell, that differ in what chance decides."""
    budget: Annotated[str, tyro.conf.arg(metavar="30m|8h", help_behavior_hint="")] = ""
    """The time for all of it. Where it is short, the field is halved on the way by AP on val."""
    augment: Literal["none", "light", "standard", "strong"] = "standard"
    """How much training images are varied."""
    batch: int = 8
    """Images in a step of training, and together where images a second are measured."""
    pretrained: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Backbones start from ImageNet weights (boxwright[pretrained]); with --no-pretrained from random ones."""
    timed: int = 20
    """Test images that times are taken on."""
    rounds: int = 3
    """How often each of them, all cells in turn; one more round goes before, uncounted."""
    runtimes: tuple[Literal["eager", "compiled"], ...] = ("eager",)
    """How networks run where times are taken; compiled takes a minute or two for each cell before it is fast."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Processes that load images for training; one core less than there are, at most 4, if not given."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ... or mps."""
    parallel: int = 1
    """Trainings at a time, each on a GPU of its own, by Ray (boxwright[ray]); 1 is in this process, without Ray."""
    ray: str = "local"
    """Where Ray runs: local starts it here, for as long as it is needed; or the address of a cluster."""

    def __post_init__(self) -> None:
        for name in ("seeds", "batch", "timed", "rounds", "parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is 1 or more, got {getattr(self, name)}")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers is 0 or more, got {self.workers}")
        if self.augment not in PRESETS:
            raise ValueError(f"augment is one of {', '.join(PRESETS)}; got {self.augment!r}")
        if not self.runtimes or set(self.runtimes) - set(PROGRAMS) or len(set(self.runtimes)) < len(self.runtimes):
            got = " ".join(self.runtimes) or "none"
            raise ValueError(f"runtimes are different ones of {', '.join(PROGRAMS)}; got {got}")
        if self.budget:
            parse_budget(self.budget)
