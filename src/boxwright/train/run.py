"""A run: one training and its folder. The command, every job of a race and the recipes train with it."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from boxwright import checkpoint
from boxwright.data.augment import Augment
from boxwright.data.batch import Batches
from boxwright.data.dataset import Dataset
from boxwright.data.formats import Splits
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import Detector
from boxwright.detectors.config import DetectorConfig
from boxwright.detectors.fields import BackboneFields, LearningBackbone
from boxwright.device import choose_device
from boxwright.measure.evaluate import best_threshold, detect_dataset, evaluate_dataset, targets_of
from boxwright.metrics import Evaluation, evaluate
from boxwright.predict.predictor import Predictor
from boxwright.train.config import TrainConfig
from boxwright.train.history import History, rank, summary
from boxwright.train.loop import Epoch, Step, Training
from boxwright.train.stop import stopping
from boxwright.units import counted
from boxwright.version import __version__

_EVALUATION_SHARE = 0.1  # of the time that training takes; an image costs a third of what it costs to learn from it
_SAVE_EVERY = 300.0  # seconds


@dataclass(frozen=True, eq=False)
class Run:
    """What a training's result depends on, and its folder. Making a `Run` trains and writes nothing.

    folder     gets best.safetensors and last.safetensors, resume.safetensors, log.jsonl
    splits     of the dataset, of the same classes: "train", and "val" and "test" if there are such
    batch      images in a step, over all processes
    rank, world  of this process; only the first one evaluates and writes
    log_every  steps between lines of log.jsonl; 0 for none
    patience   ends the run after so many epochs without a better AP on val, of those that were evaluated
    max_time   seconds, from the call of `train` on: ends it after the last epoch that fits, or within the first
    about      added to the checkpoints' metadata: where the data is, what was fine-tuned
    """

    folder: Path
    config: DetectorConfig
    splits: Mapping[str, Dataset]
    preprocess: Preprocess
    augment: Augment | None
    batch: int
    training: TrainConfig
    pretrained: bool = True
    device: str | torch.device = "auto"
    workers: int = 0
    rank: int = 0
    world: int = 1
    log_every: int = 0
    patience: int | None = None
    max_time: float | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> Path:
        """The checkpoint of the epoch that was best on val; of the last one where val has no object, or is missing."""
        return self.folder / "best.safetensors"

    @property
    def last(self) -> Path:
        return self.folder / "last.safetensors"

    @property
    def state(self) -> Path:
        """What `Training.resume` reads."""
        return self.folder / "resume.safetensors"

    @cached_property
    def history(self) -> History:
        return History(self.folder)

    @property
    def names(self) -> tuple[str, ...]:
        return self.splits["train"].names

    @cached_property
    def val(self) -> Dataset | None:
        """The split that chooses the best epoch; None where it is missing or has no object that counts: no AP."""
        val = self.splits.get("val")
        return val if val is not None and not val.crowd.all() else None

    def build(self) -> Detector:
        """A new detector on the CPU, initialized with the seed."""
        torch.manual_seed(self.training.seed)
        return self.config.build(len(self.names), self.pretrained)

    def begin(self, detector: Detector | None = None) -> Training:
        """The training before its first step; `detector` is one of `build` with other weights to start from."""
        detector = self.build() if detector is None else detector
        device = choose_device(self.device)
        detector.to(device)
        batches = Batches(
            self.splits["train"], self.preprocess, self.augment, self.batch // self.world, seed=self.training.seed,
            workers=self.workers, rank=self.rank, world=self.world, device=device, propose=detector.propose,
        )  # fmt: skip
        return Training(detector, batches, self.training)

    def train(
        self, training: Training, until: int | None = None, report: Callable[[str], object] = print
    ) -> int | None:
        """Train to the end of epoch `until`, the last one if not given: evaluate, save, log and report after epochs.

        The state is also saved every five minutes, and when a signal (`train.stop`) stops it after a whole step.
        Epoch `until` is evaluated, as is every epoch that was evaluated before the run was killed.

        Returns None at the end, that by `patience` or `max_time` included, else the signal that stopped the training.
        """
        until, started = until or training.total_epochs, time.monotonic()
        if training.epoch >= until or (self.patience and training.anywhere(self.out_of_patience(training.epoch))[0]):
            return None
        measured = {until, *(row["epoch"] for row in self.history.epochs() if "val" in row)}
        saved = time.monotonic()
        with stopping(training) as caught:
            for step in training.steps():
                fits = self._fits(time.monotonic() - started, step)
                if self.rank == 0:
                    if self.log_every and step.number % self.log_every == 0:
                        self.history.step(step)
                    if step.epoch is not None:
                        report(self._finish(step.epoch, step.epoch.number in measured or not fits))
                    if step.epoch is not None or training.stop or time.monotonic() - saved > _SAVE_EVERY:
                        training.save(self.state)
                        saved = time.monotonic()
                if training.epoch >= until:
                    return None
                if step.epoch is None:
                    training.stop |= not fits
                elif self.patience or self.max_time:
                    over = self.rank == 0 and (not fits or self.out_of_patience(step.epoch.number))
                    if training.anywhere(over)[0]:
                        return None
        if self.max_time and training.anywhere(time.monotonic() - started > self.max_time)[0]:
            return None
        return caught[0] if caught else signal.SIGTERM  # without a signal of its own: another process was stopped

    def out_of_patience(self, epoch: int) -> bool:
        """Whether `patience` ends the run after this epoch."""
        return self.patience is not None and self.history.since_best(epoch) >= self.patience

    def _fits(self, spent: float, step: Step) -> bool:
        """Whether `max_time` leaves time to go on after so many seconds: after an epoch, for another as long."""
        ahead = step.epoch.seconds if step.epoch else 0.0
        return self.max_time is None or spent + ahead <= self.max_time

    def test(self, detector: Detector) -> tuple[int, Evaluation]:
        """Evaluate the best checkpoint on the test split, log the result and add it to the checkpoint.

        `detector` gets the weights of that checkpoint. Returns the epoch of the checkpoint and its quality.
        """
        with self._described(detector) as described:
            predictor = Predictor(detector, self.names, self.preprocess)
            quality = evaluate_dataset(predictor, self.splits["test"], self.batch, self.workers)
            self.history.test(quality)
            described["metrics"]["test"] = summary(quality)
        return described["epoch"], quality

    def measure_bf16(self, detector: Detector) -> tuple[float, float]:
        """The AP of the best checkpoint on val, in fp32 and in bf16, which is added to the checkpoint.

        `detector` gets the weights of that checkpoint.
        """
        assert self.val is not None
        with self._described(detector) as described:
            predictor = Predictor(detector, self.names, self.preprocess).with_precision("bf16")
            quality = evaluate_dataset(predictor, self.val, self.batch, self.workers)
            described["metrics"]["val_bf16"] = summary(quality)
        return described["metrics"]["val"]["ap"], quality.ap

    @contextmanager
    def _described(self, detector: Detector) -> Iterator[dict[str, Any]]:
        """What is written in the best checkpoint, whose weights `detector` gets; it is written back at the end."""
        tensors, described = checkpoint.read(self.best)
        checkpoint.need(described, self.best, "metrics", "epoch")
        checkpoint.fill(detector, tensors, self.best)
        yield described
        checkpoint.write(self.best, tensors, described)

    def _finish(self, epoch: Epoch, measure: bool) -> str:
        """After an epoch: evaluate if it is time or asked for, save, log; returns a line about it."""
        metadata: dict[str, Any] = {"boxwright": __version__, "epoch": epoch.number, "metrics": {}}
        metadata |= {"training": asdict(epoch.training.config), **self.about}
        quality, best, val = None, self.val is None, self.val
        if val is not None and (measure or epoch.training.finished or self._is_due(epoch.number)):
            with epoch.training.averaged() as detector:
                quality, metadata["threshold"] = self._evaluate(detector, val)
            metadata["thresholds"] = {name: score for name, score in quality.thresholds.items() if score == score}
            metadata["metrics"]["val"] = summary(quality)
            best = rank(quality.ap) > self.history.best(epoch.number - 1) or not self.best.exists()
        model, weights = epoch.training.detector, epoch.training.weights()
        for path in (self.best, self.last) if best else (self.last,):
            checkpoint.save_detector(path, model, self.config, self.names, self.preprocess, metadata, weights=weights)
        self.history.append(epoch, quality)
        return _line(epoch, quality, best, unmeasured="val" in self.splits and self.val is None)

    def _is_due(self, epoch: int) -> bool:
        """Whether this epoch is evaluated although nothing else asks for it."""
        return epoch % validate_every(len(self.splits["val"]), len(self.splits["train"])) == 0

    def _evaluate(self, detector: Detector, val: Dataset) -> tuple[Evaluation, float]:
        """The quality on the validation split, and the best score threshold there."""
        predictor = Predictor(detector, self.names, self.preprocess)
        detections = detect_dataset(predictor, val, self.batch, self.workers)
        targets = targets_of(val)
        return evaluate(detections, targets, self.names), best_threshold(detections, targets)


def frozen(config: DetectorConfig) -> str:
    """What of the backbone does not learn, such as "2 stages and the batch norms"; "" where all of it learns."""
    if isinstance(config, LearningBackbone):
        parts = [counted(config.frozen_stages, "stage")] if config.frozen_stages else []
        return " and ".join([*parts, *["the batch norms"] * (config.norm == "frozen")])
    return "all" if isinstance(config, BackboneFields) else ""


def validate_every(val: int, train: int) -> int:
    """Epochs between evaluations, for so many images in each split, so that they take about a tenth of the time."""
    return math.ceil(val / train / 3 / _EVALUATION_SHARE)


def _line(epoch: Epoch, quality: Evaluation | None, best: bool, unmeasured: bool) -> str:
    parts = [f"epoch {epoch.number}/{epoch.training.total_epochs}", f"loss {epoch.losses['total']:.3f}"]
    if quality is not None:
        parts.append(f"AP {quality.ap:.3f} AP50 {quality.ap50:.3f}" + " (best)" * best)
    if unmeasured:
        parts.append("no AP, as val has no object: the last epoch counts as the best")
    return " · ".join([*parts, f"{epoch.seconds:.0f} s, {epoch.images_per_second:.1f} images/s"])


def need_objects(splits: Splits, required: Sequence[str], names: Sequence[str]) -> None:
    """Check that those of the `required` splits that there are have an object of the classes `names`, crowds apart.

    Without one there is nothing to learn from in "train", and AP is not defined in the others. Raises ValueError.
    """
    for split in required:
        if split not in splits or not (chosen := splits[split].restrict(names)).crowd.all():
            continue
        if len(chosen.boxes):
            found = f"all {len(chosen.boxes)} are crowds, which are neither learnt nor counted"
        else:
            others = ", ".join(f"{name} {count}" for name, count in splits[split].counts().items() if count)
            found = f"it has {others}" if others else "it has no annotation at all"
            if splits.drawn and not all(part.restrict(names).crowd.all() for part in splits.values()):
                found += "; it was drawn, and another --seed draws another"
        of = f" of {', '.join(names)}" if len(names) < len(splits.names) else ""
        purpose = {"train": "to learn from", "val": "to choose the best epoch by"}.get(split, "to measure AP by")
        raise ValueError(
            f"{splits.source}: the {split} split has no object{of} {purpose}; {found}. "
            f"What was read: boxwright data check {splits.source}"
        )
