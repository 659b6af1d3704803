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
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from boxwright import checkpoint
from boxwright.data.batch import Batches
from boxwright.detectors import Detector
from boxwright.layers import trained
from boxwright.progress import Progress, Whole
from boxwright.train.config import EARLIER, TrainConfig
from boxwright.train.distributed import share_gradients
from boxwright.train.optimize import Average, momentum, parameter_groups, schedule
from boxwright.typed import within
from boxwright.types import Images, Losses, Target

_NAMES = "class names"  # a key of `Training._run`
_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Epoch:
    """A finished epoch, counted from 1. `losses` are means over the epoch and all ranks; "total" is their sum."""

    number: int
    losses: dict[str, float]
    lr: float
    seconds: float
    images_per_second: float
    training: Training


@dataclass(frozen=True)
class Step:
    """An optimizer step, counted from 1 over the whole run.

    losses  of this rank's last batch
    epoch   with the last step of an epoch
    """

    number: int
    losses: dict[str, float]
    lr: float
    images_per_second: float
    training: Training
    epoch: Epoch | None = None


class DivergedError(ValueError):
    """A loss is no longer a finite number."""


def lay_out(detector: nn.Module, device: torch.device) -> None:
    """Make the weights channels-last, in which convolutions take less time.

    On CUDA not those of a detector with grouped convolutions: cuDNN then compiles kernels for seconds at every new
    shape of a batch, and gains nothing by them.
    """
    if device.type != "cuda" or all(layer.groups == 1 for layer in detector.modules() if isinstance(layer, nn.Conv2d)):
        detector.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (torch's overloads)


class Training:
    """The state of a run: detector, optimizer, average and progress. `save` and `resume` are exact.

    Where `stop` is set (by a signal handler, on any rank), the loop ends after the current step, on all ranks.
    """

    def __init__(self, detector: Detector, batches: Batches, config: TrainConfig | None = None) -> None:
        self.detector, self.batches = detector, batches
        self.device = next(detector.parameters()).device
        lay_out(detector, self.device)
        self.config = (config or TrainConfig()).resolve(len(batches), self.device)
        assert self.config.epochs is not None
        self.total_epochs = self.config.epochs
        batches.light_from = self.total_epochs - round(self.config.light_end * self.total_epochs)
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if (batches.rank, batches.world) != (self.rank, self.world):
            raise ValueError(
                f"this is process {self.rank} of {self.world}, but its batches are for {batches.rank} of "
                f"{batches.world}; make them with Batches(..., rank={self.rank}, world={self.world})"
            )
        fused = self.device.type == "cuda" or None  # a few kernels for all weights, whose step counts lie there too
        self.optimizer = torch.optim.AdamW(parameter_groups(detector, self.config), lr=self.config.lr, fused=fused)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.config.precision == "fp16")
        self.average = Average(detector, self.config.ema) if self.config.ema else None
        self.epoch = 0
        self.batch = 0  # batches done of this epoch
        self.sums: dict[str, float] = {}
        self.stop = False
        self._stopping = False  # `stop` of any rank, since the last step
        self._bad: list[str] = []

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps."""
        return math.ceil(len(self.batches) / self.config.accumulate)

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.epoch * self.steps_per_epoch + math.ceil(self.batch / self.config.accumulate)

    @property
    def finished(self) -> bool:
        return self.epoch >= self.total_epochs

    def weights(self) -> dict[str, Tensor]:
        """The state dict to evaluate and save: the average if there is one."""
        return self.detector.state_dict() if self.average is None else self.average.weights

    @contextmanager
    def averaged(self) -> Iterator[Detector]:
        """The detector with `weights()`, in evaluation mode; both are restored afterwards."""
        before = {key: value.clone() for key, value in self.detector.state_dict().items()}
        mode = self.detector.training
        self.detector.load_state_dict(self.weights())
        try:
            yield self.detector.eval()
        finally:
            self.detector.load_state_dict(before)
            self.detector.train(mode)

    def epochs(self, progress: bool = True) -> Iterator[Epoch]:
        """Train to the end, yielding after every epoch."""
        return (step.epoch for step in self.steps(progress) if step.epoch)

    def steps(self, progress: bool = True) -> Iterator[Step]:
        """As `epochs`, yielding after every optimizer step."""
        model = share_gradients(self.detector) if self.world > 1 else self.detector
        began, first = time.monotonic(), self._batches_done
        while not self.finished and not self._stopping:
            later = (self.total_epochs - self.epoch - 1) * len(self.batches)
            whole = Whole(later, self._batches_done - first, time.monotonic() - began)
            yield from self._epoch(model, progress and self.rank == 0, whole)

    @property
    def _batches_done(self) -> int:
        return self.epoch * len(self.batches) + self.batch

    def _epoch(self, model: nn.Module, show: bool, whole: Whole) -> Iterator[Step]:
        started, seen, step = time.perf_counter(), 0, None
        title = f"epoch {self.epoch + 1}/{self.total_epochs}"
        with Progress(title, len(self.batches), self.batch, show, whole) as bar:
            for images, targets, *_ in self.batches.epoch(self.epoch, self.batch):
                losses = self._learn(model, images, targets)
                seen += len(images) * self.world
                rate = seen / (time.perf_counter() - started)
                bar.update(losses, rate)
                step = Step(self.step, losses, self.optimizer.param_groups[-1]["lr"], rate, self)
                if self.batch % self.config.accumulate == 0 and self.batch < len(self.batches):
                    paused = time.perf_counter()
                    yield step
                    started += time.perf_counter() - paused  # the caller's work is not counted
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
        """Forward and backward of one batch; after the last batch of a step also the optimizer step."""
        first = self.batch - self.batch % self.config.accumulate
        together = min(self.config.accumulate, len(self.batches) - first)  # fewer at the end of an epoch
        last = self.batch + 1 == first + together
        dtype = _DTYPES[self.config.precision]
        self.detector.train()
        self._seed()
        with nullcontext() if last or self.world == 1 else model.no_sync():  # type: ignore[operator]
            with trained.active(), torch.autocast(self.device.type, dtype, enabled=dtype is not None):
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
        share = schedule(done, self.total_epochs * self.steps_per_epoch, self.config.warmup, self.config.flat)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * group["share"] * share
            group["betas"] = (momentum(share, self.config), group["betas"][1])
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
        """Before a step: all ranks stop where one of them is to stop, and all raise where the loss of one diverged."""
        stop, bad = self.anywhere(self.stop, bool(self._bad))
        # In fp16 an infinite loss lowers the scale; at a scale below 1 the loss itself has diverged.
        if bad and not (self.scaler.is_enabled() and self.scaler.get_scale() >= 1):
            raise DivergedError(
                f"the loss {', '.join(self._bad) or 'of another process'} is no longer a finite number in epoch "
                f"{self.epoch + 1}, batch {self.batch + 1}; lower lr, or train with precision fp32. "
                "What was saved before is whole"
            )
        self._stopping, self._bad = stop, []
        self.stop |= stop

    def anywhere(self, *flags: bool) -> list[bool]:
        """Whether each flag is set on any rank; all ranks call it."""
        if self.world == 1:
            return list(flags)
        shared = torch.tensor(flags, dtype=torch.int32, device=self._common)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return [bool(flag) for flag in shared.tolist()]

    def _over_ranks(self, sums: dict[str, float]) -> dict[str, float]:
        if self.world == 1:
            return sums
        together = torch.tensor(list(sums.values()), dtype=torch.float64, device=self._common)
        dist.all_reduce(together)
        return {name: value / self.world for name, value in zip(sums, together.tolist(), strict=True)}

    @property
    def _common(self) -> torch.device:
        """The device of tensors that ranks exchange."""
        return self.device if dist.get_backend() == "nccl" else torch.device("cpu")

    def save(self, path: str | Path) -> None:
        """Write all that `resume` needs, whole or not at all. Of several ranks only one calls this."""
        tensors = {f"model.{key}": value for key, value in self.detector.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{key}": value for key, value in self.average.weights.items()}
        for index, parameter in enumerate(self._parameters()):
            tensors |= {f"optimizer.{index}.{key}": value for key, value in self.optimizer.state[parameter].items()}
        progress = {"epoch": self.epoch, "batch": self.batch, "sums": self.sums, "scaler": self.scaler.state_dict()}
        checkpoint.write(path, tensors, {"run": self._run(), **progress})

    def resume(self, path: str | Path, changed_data: bool = False) -> None:
        """Go on from a file of `save`. Raises `CheckpointError`, before anything changes, for another run.

        changed_data  the images and the names of the classes may be others. Where the number of batches is another, a
                      half-done epoch begins anew
        """
        tensors, described = checkpoint.read(path)
        if "run" not in described:
            raise checkpoint.CheckpointError(f"{path} is no state of a training; expected a run's resume.safetensors")
        checkpoint.need(described, path, "epoch", "batch", "sums", "scaler")
        was, now = described["run"], self._run()
        was = {**EARLIER, _NAMES: now[_NAMES], **was}  # files of earlier versions have no names
        as_long = was.get("batches") == now["batches"]
        if changed_data:
            was |= {key: now[key] for key in ("images", "batches", _NAMES)}
        changed = [key for key in {**was, **now} if was.get(key) != now.get(key)]
        if changed:
            differences = "; ".join(_difference(key, was.get(key), now.get(key)) for key in changed)
            raise checkpoint.CheckpointError(
                f"{path} is the state of another run ({differences}); use the same options and data, or start a new run"
            )
        average = _below("average.", tensors)
        states = [_below(f"optimizer.{index}.", tensors) for index in range(len(self._parameters()))]
        with checkpoint.named(path):
            within(0, self.total_epochs, epoch=described["epoch"])
            within(0, len(self.batches) if as_long else math.inf, batch=described["batch"])
            if self.average is not None:
                checkpoint.matching(self.detector, average)
            for index, (parameter, state) in enumerate(zip(self._parameters(), states, strict=True)):
                shapes = {key: value.shape for key, value in state.items()}
                if shapes not in ({}, {"step": (), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}):
                    raise ValueError(f"optimizer.{index} is no state of AdamW for {parameter.shape}, got {shapes}")
            if described["scaler"].keys() != self.scaler.state_dict().keys():
                raise ValueError(f"scaler has {', '.join(described['scaler']) or 'nothing'}")
        checkpoint.fill(self.detector, _below("model.", tensors), path)
        if self.average is not None:
            self.average.load(average)
        self.optimizer.state.clear()
        for parameter, state in zip(self._parameters(), states, strict=True):
            self.optimizer.state[parameter] = {key: _laid_out_as(parameter, value) for key, value in state.items()}
        self.scaler.load_state_dict(described["scaler"])
        self.epoch = described["epoch"]
        self.batch, self.sums = (described["batch"], described["sums"]) if as_long else (0, {})

    def _run(self) -> dict[str, Any]:
        """Settings that must be the same when a run is resumed."""
        images = {"images": len(self.batches.dataset), "batches": len(self.batches), "processes": self.world}
        batches = {"batch size": self.batches.batch_size, "data seed": self.batches.seed}
        names = getattr(self.batches.dataset, "names", None)  # in order: rows of the heads belong to them
        return {**asdict(self.config), **images, **batches, _NAMES: None if names is None else list(names)}

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def train(
    detector: Detector,
    batches: Batches,
    config: TrainConfig | None = None,
    resume: str | Path | None = None,
    progress: bool = True,
) -> Iterator[Epoch]:
    """Train, yielding after every epoch; `resume` is a file that `epoch.training.save` wrote."""
    training = Training(detector, batches, config)
    if resume is not None:
        training.resume(resume)
    yield from training.epochs(progress)


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """An optimizer moment in its parameter's memory format, so that kernels round as before; a count beside it."""
    if value.ndim and value.shape == parameter.shape:
        return torch.empty_like(parameter).copy_(value)
    return value.to(parameter.device) if parameter.is_cuda else value


def _difference(key: str, was: Any, now: Any) -> str:
    """A setting and its two values; of lists, the first entry that differs."""
    if isinstance(was, list) and isinstance(now, list):
        pairs = enumerate(zip_longest(was, now, fillvalue="missing"))
        index, (was, now) = next((index, pair) for index, pair in pairs if pair[0] != pair[1])
        key = f"{key}[{index}]"
    return f"{key} was {was!s:.200}, now {now!s:.200}"


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
