"""The training loop, as an ordinary generator: `for epoch in train(detector, batches, config): ...`.

Randomness has no hidden state. What happens to a sample depends on (seed, epoch, index), what happens in a step on
(seed, epoch, batch, rank), so a run resumed from any step equals one that never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from boxwright import checkpoint
from boxwright.data.batch import Batches
from boxwright.detectors import Detector
from boxwright.progress import Progress
from boxwright.train.config import TrainConfig
from boxwright.train.distributed import share_gradients
from boxwright.train.optimize import Average, parameter_groups, schedule
from boxwright.types import Images, Losses, Target

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Epoch:
    """The epoch just finished."""

    number: int
    """Counted from 1."""
    losses: dict[str, float]
    """Means over the epoch and all ranks; "total" is their sum."""
    lr: float
    seconds: float
    images_per_second: float
    training: Training


@dataclass(frozen=True)
class Step:
    """The optimiser step just done."""

    number: int
    """Counted from 1 over the whole run."""
    losses: dict[str, float]
    """Of this rank's last batch."""
    lr: float
    images_per_second: float
    training: Training
    epoch: Epoch | None = None
    """With the last step of an epoch."""


class DivergedError(ValueError):
    """A loss is no longer a finite number."""


class Training:
    """The state of a run: detector, optimiser, average, and how far it is. `save` and `resume` are exact.

    Set `stop` (from a signal handler, or on any rank) and the loop ends after the step it is in, on all ranks.
    """

    def __init__(self, detector: Detector, batches: Batches, config: TrainConfig | None = None) -> None:
        self.detector, self.batches = detector, batches
        self.device = next(detector.parameters()).device
        self.config = (config or TrainConfig()).resolve(len(batches), self.device)
        assert self.config.epochs is not None
        self.total_epochs = self.config.epochs
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        if (batches.rank, batches.world) != (self.rank, self.world):
            raise ValueError(
                f"this is process {self.rank} of {self.world}, but its batches are for {batches.rank} of "
                f"{batches.world}; make them with Batches(..., rank={self.rank}, world={self.world})"
            )
        self.optimizer = torch.optim.AdamW(parameter_groups(detector, self.config), lr=self.config.lr)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.config.precision == "fp16")
        self.average = Average(detector, self.config.ema) if self.config.ema else None
        self.epoch = 0
        self.batch = 0  # batches done of this epoch
        self.sums: dict[str, float] = {}
        self.stop = False
        self._stopping = False  # what all ranks have agreed on
        self._bad: list[str] = []

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps."""
        return math.ceil(len(self.batches) / self.config.accumulate)

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.epoch * self.steps_per_epoch + math.ceil(self.batch / self.config.accumulate)

    @property
    def finished(self) -> bool:
        return self.epoch >= self.total_epochs

    def weights(self) -> dict[str, Tensor]:
        """What is to be evaluated and saved: the average if there is one."""
        return self.detector.state_dict() if self.average is None else self.average.weights

    @contextmanager
    def averaged(self) -> Iterator[Detector]:
        """The detector with the weights to be evaluated, in evaluation mode; afterwards it is as it was."""
        own = {key: value.clone() for key, value in self.detector.state_dict().items()}
        learning = self.detector.training
        self.detector.load_state_dict(self.weights())
        try:
            yield self.detector.eval()
        finally:
            self.detector.load_state_dict(own)
            self.detector.train(learning)

    def epochs(self, progress: bool = True) -> Iterator[Epoch]:
        """Train to the end from wherever this is, yielding after every epoch."""
        return (step.epoch for step in self.steps(progress) if step.epoch)

    def steps(self, progress: bool = True) -> Iterator[Step]:
        """As `epochs`, yielding after every step of the optimiser."""
        model: nn.Module = self.detector
        if self.world > 1:
            model = share_gradients(model)
        while not self.finished and not self._stopping:
            yield from self._epoch(model, progress and self.rank == 0)

    def _epoch(self, model: nn.Module, show: bool) -> Iterator[Step]:
        started, seen, step = time.perf_counter(), 0, None
        with Progress(f"epoch {self.epoch + 1}/{self.total_epochs}", len(self.batches), self.batch, show) as bar:
            for images, targets, *_ in self.batches.epoch(self.epoch, self.batch):
                losses = self._learn(model, images, targets)
                seen += len(images) * self.world
                rate = seen / (time.perf_counter() - started)
                bar.update(losses, rate)
                step = Step(self.step, losses, self.optimizer.param_groups[-1]["lr"], rate, self)
                if self.batch % self.config.accumulate == 0 and self.batch < len(self.batches):
                    paused = time.perf_counter()
                    yield step
                    started += time.perf_counter() - paused  # what the caller does with a step is not our time
                    if self._stopping:
                        return
        if step is None or self.batch < len(self.batches):
            raise ValueError(f"an epoch has {len(self.batches)} batches, but only {self.batch} came")
        seconds = time.perf_counter() - started
        means = {name: value / self.batch for name, value in self._over_ranks(self.sums).items()}
        means["total"] = sum(means.values())
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, {}
        yield replace(step, epoch=Epoch(self.epoch, means, step.lr, seconds, seen / seconds, self))

    def _learn(self, model: nn.Module, images: Images, targets: list[Target]) -> dict[str, float]:
        """One batch forwards and backwards and, where it is the last of its step, the step."""
        first = self.batch - self.batch % self.config.accumulate
        together = min(self.config.accumulate, len(self.batches) - first)  # fewer at the end of an epoch
        last = self.batch + 1 == first + together
        kind = _DTYPES[self.config.precision]
        self.detector.train()
        self._seed()
        with nullcontext() if last or self.world == 1 else model.no_sync():  # type: ignore[operator]
            with torch.autocast(self.device.type, kind, enabled=kind is not None):
                losses: Losses = model(images, targets)
            values = torch.stack([value.float() for value in losses.values()])
            self.scaler.scale(values.sum() / together).backward()
        numbers = dict(zip(losses, values.tolist(), strict=True))  # one wait for the device for all of them
        self._bad += [name for name, value in numbers.items() if not math.isfinite(value)]
        if last:
            self._agree()
            self._update()
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.batch += 1
        return numbers

    def _update(self) -> None:
        done = self.epoch * self.steps_per_epoch + self.batch // self.config.accumulate
        share = schedule(done, self.total_epochs * self.steps_per_epoch, self.config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * group["share"] * share
        if self.config.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.detector.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(done + 1)

    def _seed(self) -> None:
        key = np.random.SeedSequence((self.config.seed, self.epoch, self.batch, self.rank))
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0] >> 1))

    def _agree(self) -> None:
        """Before a step of all ranks: does one of them want to stop, or has it lost its way? Then all do the same."""
        stop, bad = self.stop, bool(self._bad)
        if self.world > 1:
            flags = torch.tensor([stop, bad], dtype=torch.int32, device=self._common)
            dist.all_reduce(flags, dist.ReduceOp.MAX)
            stop, bad = map(bool, flags.tolist())
        # Infinity is how fp16 finds the largest scale that works; below 1 it is no matter of scale any more.
        if bad and not (self.scaler.is_enabled() and self.scaler.get_scale() >= 1):
            raise DivergedError(
                f"the loss {', '.join(self._bad) or 'of another process'} is no longer a finite number in epoch "
                f"{self.epoch + 1}, batch {self.batch + 1}; lower lr, or train with precision fp32. "
                "What was saved before is whole"
            )
        self._stopping, self._bad = stop, []
        self.stop |= stop

    def _over_ranks(self, sums: dict[str, float]) -> dict[str, float]:
        if self.world == 1:
            return sums
        together = torch.tensor(list(sums.values()), dtype=torch.float64, device=self._common)
        dist.all_reduce(together)
        return {name: value / self.world for name, value in zip(sums, together.tolist(), strict=True)}

    @property
    def _common(self) -> torch.device:
        """Where tensors must be for all ranks to talk about them."""
        return self.device if dist.get_backend() == "nccl" else torch.device("cpu")

    def save(self, path: str | Path) -> None:
        """Write all that `resume` needs, whole or not at all. With several ranks one of them does it for all."""
        tensors = {f"model.{key}": value for key, value in self.detector.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{key}": value for key, value in self.average.weights.items()}
        for index, parameter in enumerate(self._parameters()):
            tensors |= {f"optimizer.{index}.{key}": value for key, value in self.optimizer.state[parameter].items()}
        described = {
            "run": self._run(),
            "epoch": self.epoch,
            "batch": self.batch,
            "sums": self.sums,
            "scaler": self.scaler.state_dict(),
        }
        checkpoint.write(path, tensors, described)

    def resume(self, path: str | Path) -> None:
        """Go on from a file of `save`. Raises `CheckpointError`, before anything changes, for another run."""
        tensors, described = checkpoint.read(path)
        if "run" not in described:
            raise checkpoint.CheckpointError(f"{path} is no state of a training; expected a run's resume.safetensors")
        was, now = described["run"], self._run()
        other = [key for key in {**was, **now} if was.get(key) != now.get(key)]
        if other:
            differences = "; ".join(f"{key} was {was.get(key)}, now {now.get(key)}" for key in other)
            raise checkpoint.CheckpointError(
                f"{path} is the state of another run ({differences}); go on with the same options and data, "
                "or start a new run"
            )
        checkpoint.fill(self.detector, _below("model.", tensors), path)
        if self.average is not None:
            self.average.load(_below("average.", tensors))
        self.optimizer.state.clear()
        for index, parameter in enumerate(self._parameters()):
            state = _below(f"optimizer.{index}.", tensors).items()
            self.optimizer.state[parameter] = {key: _laid_out_as(parameter, value) for key, value in state}
        self.scaler.load_state_dict(described["scaler"])
        self.epoch, self.batch, self.sums = described["epoch"], described["batch"], described["sums"]

    def _run(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        images = {"images": len(self.batches.dataset), "batches": len(self.batches), "processes": self.world}
        batches = {"batch size": self.batches.batch_size, "data seed": self.batches.seed}
        return {**asdict(self.config), **images, **batches}

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def train(
    detector: Detector,
    batches: Batches,
    config: TrainConfig | None = None,
    resume: str | Path | None = None,
    progress: bool = True,
) -> Iterator[Epoch]:
    """Train, yielding after every epoch; what happens between epochs is the caller's code.

    resume  a file that `epoch.training.save` wrote
    """
    training = Training(detector, batches, config)
    if resume is not None:
        training.resume(resume)
    yield from training.epochs(progress)


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """A moment of the optimiser like its parameter in memory, so that kernels treat it as before; a count as it is."""
    return torch.empty_like(parameter).copy_(value) if value.ndim and value.shape == parameter.shape else value


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
