"""A model from elsewhere in the race: measured like all others, but not trained here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from boxwright.bench.run.job import COLUMNS
from boxwright.data.dataset import Dataset
from boxwright.progress import Progress
from boxwright.types import Detections


@dataclass(frozen=True)
class ExternalModel:
    """A model that was trained elsewhere.

    name    unique in a race
    detect  from the path of an image to its detections, as `Detections`, as a mapping with "boxes", "scores" and
            "labels", or as these three in a tuple: boxes (D, 4) xyxy in pixels of the file (upright, after its EXIF
            orientation), scores (D,), labels (D,) as indices into the names of the data's classes. It opens the file
            and waits for the GPU, as both are part of the time measured
    """

    name: str
    detect: Callable[[Path], Any]

    def stages(self, path: Path) -> dict[str, float]:
        """Seconds from the file to boxes, as one stage."""
        started = time.perf_counter()
        self.detect(path)
        return {"detect": time.perf_counter() - started}

    def measure(self, dataset: Dataset) -> list[Detections]:
        """The detections in every image. Raises ValueError where `detect` returns something else."""
        detections = []
        with Progress(self.name, len(dataset)) as bar:
            for index in range(len(dataset)):
                path = dataset.path(index)
                detections.append(self._checked(self.detect(path), path, len(dataset.names)))
                bar.update()
        return detections

    def _checked(self, answer: Any, path: Path, num_classes: int) -> Detections:
        where = f"{self.name} on {path}"
        if isinstance(answer, Detections):
            answer = [getattr(answer, column) for column in COLUMNS]
        elif isinstance(answer, Mapping) and answer.keys() >= set(COLUMNS):
            answer = [answer[column] for column in COLUMNS]
        if not isinstance(answer, list | tuple) or len(answer) != 3:
            got = type(answer).__name__
            raise ValueError(f"{where}: expected Detections, or boxes, scores and labels; got {got}")
        boxes, scores, labels = (torch.as_tensor(column).detach().cpu() for column in answer)
        boxes = boxes if boxes.numel() else boxes.reshape(0, 4)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes) == scores.numel() == labels.numel():
            shapes = ", ".join(str(tuple(column.shape)) for column in (boxes, scores, labels))
            raise ValueError(f"{where}: expected boxes (D, 4), scores (D,) and labels (D,); got {shapes}")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            labelled = f"expected labels 0 to {num_classes - 1}, indices into the names of the data's classes"
            raise ValueError(f"{where}: {labelled}; got {int(labels.min())} to {int(labels.max())}")
        if not (boxes.isfinite().all() and scores.isfinite().all()):
            raise ValueError(f"{where}: expected finite boxes and scores, got some that are not")
        return Detections(boxes.float(), scores.float().reshape(-1), labels.long().reshape(-1))
