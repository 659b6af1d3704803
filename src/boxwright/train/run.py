"""A training on disk: what becomes of it between its epochs, and how it stops when it is asked to."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from boxwright import checkpoint
from boxwright.data.augment import Augment
from boxwright.data.batch import Batches
from boxwright.data.dataset import Dataset
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import Detector
from boxwright.measure.evaluate import best_threshold, detect_dataset, targets_of
from boxwright.metrics import Evaluation, evaluate
from boxwright.predict.predictor import Predictor
from boxwright.train.config import TrainConfig
from boxwright.train.history import History, rank, summary
from boxwright.train.loop import Epoch, Training
from boxwright.version import __version__

_EVALUATION_SHARE = 0.1  # of the time that training takes; an image costs a third of what it costs to learn from it


class Run:
    """The folder of a run, and what is done there between epochs.

    parts  the dataset's, of the same classes: "train", and "val" if there is one
    about  what its checkpoints say besides: where the data is, what was fine-tuned
    """

    def __init__(
        self,
        folder: Path,
        config: Any,
        parts: Mapping[str, Dataset],
        preprocess: Preprocess,
        batch: int,
        workers: int = 0,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.config, self.parts, self.preprocess = folder, config, parts, preprocess
        self.batch, self.workers, self.about = batch, workers, dict(about or {})
        self.history = History(folder)
        self.best, self.last = folder / "best.safetensors", folder / "last.safetensors"
        self.state = folder / "resume.safetensors"

    @property
    def names(self) -> tuple[str, ...]:
        return self.parts["train"].names

    def finish(self, epoch: Epoch, measure: bool = False) -> str:
        """After an epoch: evaluate if it is time or wanted, save, log; returns a line that says how it went."""
        metadata: dict[str, Any] = {
            "boxwright": __version__,
            "epoch": epoch.number,
            "training": asdict(epoch.training.config),
            "metrics": {},
            **self.about,
        }
        quality, best = None, "val" not in self.parts
        every = validate_every(len(self.parts["val"]), len(self.parts["train"])) if not best else 1
        if not best and (measure or epoch.number % every == 0 or epoch.training.finished):
            with epoch.training.averaged() as detector:
                quality, metadata["threshold"] = self._evaluate(detector)
            metadata["thresholds"] = {name: score for name, score in quality.thresholds.items() if score == score}
            metadata["metrics"]["val"] = summary(quality)
            best = rank(quality.ap) > self.history.best(epoch.number - 1) or not self.best.exists()
        if best:
            self._save(self.best, epoch, metadata)
        self._save(self.last, epoch, metadata)
        self.history.append(epoch, quality)
        return _line(epoch, quality, best)

    def _evaluate(self, detector: Detector) -> tuple[Evaluation, float]:
        """The quality on the validation part, and the score from which on detections should be shown."""
        dataset = self.parts["val"]
        predictor = Predictor(detector, self.names, self.preprocess)
        found = detect_dataset(predictor, dataset, self.batch, self.workers)
        targets = targets_of(dataset)
        return evaluate(found, targets, self.names), best_threshold(found, targets)

    def _save(self, path: Path, epoch: Epoch, metadata: dict[str, Any]) -> None:
        training = epoch.training
        checkpoint.save_detector(
            path,
            training.detector,
            self.config,
            self.names,
            self.preprocess,
            metadata,
            weights=training.weights(),
        )


def validate_every(val: int, train: int) -> int:
    """Epochs between looks at so many images of the validation part: they are to take a tenth of the time or so."""
    return math.ceil(val / train / 3 / _EVALUATION_SHARE)


def begin(
    config: Any,
    dataset: Dataset,
    preprocess: Preprocess,
    augment: Augment | None,
    batch: int,
    options: TrainConfig,
    pretrained: bool,
    device: torch.device,
    workers: int = 0,
) -> Training:
    """A detector's training from its beginning: all that chance decides depends on `options.seed`."""
    torch.manual_seed(options.seed)
    detector = config.build(len(dataset.names), pretrained)
    detector.to(device, memory_format=torch.channels_last)
    batches = Batches(
        dataset,
        preprocess,
        augment,
        batch,
        seed=options.seed,
        workers=workers,
        device=device,
        propose=detector.propose,
    )
    return Training(detector, batches, options)


@contextmanager
def stopping(training: Training) -> Iterator[list[int]]:
    """Within, the first Ctrl-C or SIGTERM stops the training after a whole step; a second Ctrl-C stops it at once.

    Yields the signals that came.
    """
    caught: list[int] = []

    def stop(number: int, frame: object) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)
        training.stop = True
        os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _line(epoch: Epoch, quality: Evaluation | None, best: bool) -> str:
    parts = [f"epoch {epoch.number}/{epoch.training.total_epochs}", f"loss {epoch.losses['total']:.3f}"]
    if quality is not None:
        parts.append(f"AP {quality.ap:.3f} AP50 {quality.ap50:.3f}" + " (best)" * best)
    return " · ".join([*parts, f"{epoch.seconds:.0f} s, {epoch.images_per_second:.1f} images/s"])
