"""Anybody's model in the race, as it is: measured like all others, but not trained here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from boxwright.data.dataset import Dataset
from boxwright.progress import Progress
from boxwright.types import Detections


@dataclass(frozen=True)
class ExternalModel:
    """A model that is somebody else's.

    name    unique in a race
    detect  from the path of an image to what is in it, as `Detections`, as a mapping with "boxes", "scores" and
            "labels", or as these three in a tuple: boxes (D, 4) xyxy in pixels of the file (upright, where it says how
            to turn it), scores (D,), labels (D,) as places in the names of the data's classes. Opening the file is its
            business, for the user waits for that too; so is waiting for the GPU
    """

    name: str
    detect: Callable[[Path], Any]

    def look(self, path: Path) -> dict[str, float]:
        """Seconds from the file to boxes, as the one stage that is known."""
        started = time.perf_counter()
        self.detect(path)
        return {"detect": time.perf_counter() - started}

    def measure(self, dataset: Dataset) -> list[Detections]:
        """What it finds in every image. Raises ValueError for what are no detections."""
        found = []
        with Progress(self.name, len(dataset)) as bar:
            for index in range(len(dataset)):
                path = dataset.path(index)
                found.append(self._checked(self.detect(path), path, len(dataset.names)))
                bar.update()
        return found

    def _checked(self, answer: Any, path: Path, classes: int) -> Detections:
        parts = ("boxes", "scores", "labels")
        if isinstance(answer, Detections):
            answer = [getattr(answer, part) for part in parts]
        elif isinstance(answer, Mapping) and answer.keys() >= set(parts):
            answer = [answer[part] for part in parts]
        if not isinstance(answer, list | tuple) or len(answer) != 3:
            raise ValueError(
                f"{self.name} on {path}: expected Detections, or boxes, scores and labels; got {type(answer).__name__}"
            )
        boxes, scores, labels = (torch.as_tensor(column).detach().cpu() for column in answer)
        boxes = boxes if boxes.numel() else boxes.reshape(0, 4)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes) == scores.numel() == labels.numel():
            shapes = ", ".join(str(tuple(column.shape)) for column in (boxes, scores, labels))
            raise ValueError(f"{self.name} on {path}: expected boxes (D, 4), scores (D,) and labels (D,); got {shapes}")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(
                f"{self.name} on {path}: expected labels 0 to {classes - 1}, places in the names of the data's "
                f"classes; got {int(labels.min())} to {int(labels.max())}"
            )
        if not (boxes.isfinite().all() and scores.isfinite().all()):
            raise ValueError(f"{self.name} on {path}: expected finite boxes and scores, got some that are not")
        return Detections(boxes.float(), scores.float().reshape(-1), labels.long().reshape(-1))
