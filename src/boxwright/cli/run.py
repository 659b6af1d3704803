"""What becomes of a training between its epochs: it is measured, saved, logged and drawn."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright import __version__
from boxwright.data.dataset import Dataset
from boxwright.detectors import Detector
from boxwright.engine import checkpoint
from boxwright.engine.evaluate import best_threshold, detect_dataset, evaluate_detector, targets_of
from boxwright.engine.history import History, rank, summary
from boxwright.engine.train import Epoch
from boxwright.metrics import Evaluation, evaluate

if TYPE_CHECKING:
    from boxwright.cli.train import Train

_EVALUATION_SHARE = 0.1  # of the time that training takes; a picture costs a third of what it costs to learn from it


class Run:
    """The folder of a run, and what is done there between epochs."""

    def __init__(
        self, folder: Path, options: Train, parts: dict[str, Dataset], names: tuple[str, ...], workers: int
    ) -> None:
        self.folder, self.options, self.parts, self.names = folder, options, parts, names
        self.preprocess = options.preprocess
        self.origin = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("from")
        self.history = History(folder)
        self.workers = workers
        self.best, self.last = folder / "best.safetensors", folder / "last.safetensors"

    def finish(self, epoch: Epoch) -> None:
        """After an epoch: evaluate if it is time, save, log, say how it went."""
        metadata: dict[str, Any] = {
            "boxwright": __version__,
            "epoch": epoch.number,
            "training": asdict(epoch.training.config),
            "data": str(self.options.data),
            "metrics": {},
            **({"from": self.origin} if self.origin else {}),
        }
        quality, best = None, "val" not in self.parts
        if not best and (epoch.number % self._evaluate_every() == 0 or epoch.training.finished):
            with epoch.training.averaged() as detector:
                quality, metadata["threshold"] = self._evaluate(detector)
            metadata["metrics"]["val"] = summary(quality)
            best = rank(quality.ap) > self.history.best(epoch.number - 1) or not self.best.exists()
        if best:
            self._save(self.best, epoch, metadata)
        self._save(self.last, epoch, metadata)
        self.history.append(epoch, quality)
        if quality is not None or epoch.training.finished:
            self._draw_curves()
        print(_line(epoch, quality, best), flush=True)

    def conclude(self, detector: Detector) -> None:
        """After the last epoch: measure the best detector on the test part, if there is one."""
        tensors, described = checkpoint.read(self.best)
        if "test" in self.parts:
            checkpoint.fill(detector, tensors, self.best)
            dataset, batch = self.parts["test"], self.options.batch
            quality = evaluate_detector(detector, dataset, self.names, self.preprocess, batch, self.workers)
            self.history.test(quality)
            described["metrics"]["test"] = summary(quality)
            checkpoint.write(self.best, tensors, described)
            print(f"\nthe best detector, of epoch {described['epoch']}, on the test part:\n{quality.table()}")
        print(f"\nboxwright detect photo.jpg --model {self.best}")

    def _evaluate(self, detector: Detector) -> tuple[Evaluation, float]:
        """The quality on the validation part, and the score from which on detections should be shown."""
        dataset = self.parts["val"]
        found = detect_dataset(detector, dataset, self.preprocess, self.options.batch, self.workers)
        targets = targets_of(dataset)
        return evaluate(found, targets, self.names), best_threshold(found, targets)

    def _evaluate_every(self) -> int:
        return math.ceil(len(self.parts["val"]) / len(self.parts["train"]) / 3 / _EVALUATION_SHARE)

    def _save(self, path: Path, epoch: Epoch, metadata: dict[str, Any]) -> None:
        training = epoch.training
        checkpoint.save_detector(
            path,
            training.detector,
            self.options.detector,
            self.names,
            self.preprocess,
            metadata,
            weights=training.weights(),
        )

    def _draw_curves(self) -> None:
        try:
            from boxwright.report.plots import draw_curves
        except ImportError:
            return  # without matplotlib there is no picture; the numbers are in log.jsonl
        draw_curves(self.history.epochs(), self.folder / "curves.png")


def new_folder(wanted: Path) -> Path:
    """An empty folder of that name, or with the first number behind it that makes it a new one."""
    folder, number = wanted, 1
    while folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _line(epoch: Epoch, quality: Evaluation | None, best: bool) -> str:
    parts = [f"epoch {epoch.number}/{epoch.training.total_epochs}", f"loss {epoch.losses['total']:.3f}"]
    if quality is not None:
        parts.append(f"AP {quality.ap:.3f} AP50 {quality.ap50:.3f}" + " (best)" * best)
    return " · ".join([*parts, f"{epoch.seconds:.0f} s, {epoch.images_per_second:.1f} images/s"])
