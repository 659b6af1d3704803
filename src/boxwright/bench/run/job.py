"""A cell with a seed: trained to a given epoch, and measured on the test split, in a folder of its own.

Jobs are independent of each other, so that each can run in any process; a job continues from its folder.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from boxwright.bench.plan.cells import Cell
from boxwright.bench.result import Learning
from boxwright.checkpoint import load_detector
from boxwright.data.augment import PRESETS
from boxwright.data.dataset import Dataset
from boxwright.device import choose_device
from boxwright.files import write_atomically
from boxwright.measure.evaluate import detect_dataset
from boxwright.measure.speed import bare
from boxwright.predict.predictor import Predictor
from boxwright.predict.propose import propose_all, sources_of, warm
from boxwright.progress import Progress
from boxwright.proposals import CachedProposer, Propose
from boxwright.terminal import say
from boxwright.train.config import TrainConfig
from boxwright.train.run import Run
from boxwright.train.stop import StoppedError
from boxwright.types import Detections
from boxwright.untrusted.numpy_files import Npz

COLUMNS = ("boxes", "scores", "labels")
_STEPS, _IMAGES = 4, 16  # that the pace is measured on; the first step and the first batch are not counted


@dataclass(frozen=True, eq=False)
class Job:
    """Can be pickled, so that another process can do it.

    folder    of this cell and this seed
    splits    of the data: "train", "val" and "test"
    training  with its number of epochs and this job's seed
    device    as `choose_device` takes it, on the machine where the job is done
    """

    cell: Cell
    folder: Path
    splits: Mapping[str, Dataset]
    training: TrainConfig
    augment: str
    batch: int
    pretrained: bool
    device: str
    workers: int

    @property
    def best(self) -> Path:
        """The checkpoint of the epoch that was best on val."""
        return self.run.best

    @property
    def detections(self) -> Path:
        """The detections on the test split."""
        return self.folder / "test.npz"

    def __str__(self) -> str:
        return f"{self.cell.name}, seed {self.training.seed}"

    @property
    def run(self) -> Run:
        cell = self.cell
        return Run(
            self.folder, cell.config, self.splits, cell.preprocess, PRESETS[self.augment], self.batch, self.training,
            self.pretrained, self.device, self.workers,
        )  # fmt: skip

    def epochs(self) -> int:
        """The number of finished epochs."""
        return max((row["epoch"] for row in self.run.history.epochs()), default=0)

    def finished(self) -> bool:
        """Whether it is measured, and what only training needs is deleted."""
        return self.detections.is_file() and not self.run.state.is_file()

    def progress(self) -> list[int]:
        """Changes whenever more of the training is on disk."""
        state = self.run.state
        return [self.epochs(), state.stat().st_mtime_ns if state.is_file() else 0]

    def ap(self) -> float:
        """The best on val so far; minus infinity where it was not measured."""
        return self.run.history.best(self.epochs())

    def seconds(self) -> float:
        """Of training, without the evaluations on val."""
        return sum(row["seconds"] for row in self.run.history.epochs())

    def learning(self) -> Learning:
        rows = self.run.history.epochs()
        val = {row["epoch"]: row["val"]["ap"] for row in rows if "val" in row}
        losses = tuple(row["losses"]["total"] for row in rows)
        return Learning(losses, {epoch: math.nan if ap is None else ap for epoch, ap in val.items()})


class Effort(NamedTuple):
    """Seconds of a training step, of detection and of proposing on an image; and bytes of the network."""

    step: float
    image: float
    propose: float
    bytes: int


def train(job: Job, until: int) -> None:
    """Train to the end of epoch `until`, from wherever the job is, and evaluate it on val there.

    Raises DivergedError, whatever the device raises when its memory does not suffice, and StoppedError.
    """
    if job.epochs() >= until:
        return
    run = job.run
    training = run.begin()
    if run.state.is_file():
        training.resume(run.state)
    if stopped_by := run.train(training, until, report=lambda line: say(f"{job}: {line}")):
        raise StoppedError(f"stopped in epoch {training.epoch + 1} of {job}", stopped_by)


def measure(job: Job) -> None:
    """Detect on the test split with the checkpoint that was best on val; delete what only training needs."""
    if not job.detections.is_file():
        loaded = load_detector(job.best, choose_device(job.device))
        predictor = Predictor(loaded.detector, loaded.names, job.cell.preprocess)
        detections = detect_dataset(predictor, job.splits["test"], job.batch, job.workers)
        if not all(of_image.boxes.isfinite().all() and of_image.scores.isfinite().all() for of_image in detections):
            raise ValueError("boxes or scores in the test split are not finite")
        save_detections(job.detections, detections)
    for path in (job.run.state, job.run.last):
        path.unlink(missing_ok=True)


def pace(job: Job) -> Effort:
    """The effort of a job, from a few steps on a few images; nothing is written."""
    few = {split: dataset.select(range(min(len(dataset), _IMAGES))) for split, dataset in job.splits.items()}
    few["train"] = job.splits["train"].select(range(min(len(job.splits["train"]), _STEPS * job.batch)))
    training = replace(job, splits=few, training=replace(job.training, epochs=_STEPS), workers=0).run.begin()
    detector, proposing = training.detector, 0.0
    if detector.propose is not None:
        warm(detector.propose, [source for dataset in few.values() for source in sources_of(dataset)])
        images, propose = [source.read() for source in sources_of(few["val"])], bare(detector.propose)
        started = time.perf_counter()
        for image in images:
            propose(image)  # not from the cache: a user's new image is in none
        proposing = (time.perf_counter() - started) / len(images)
    steps, last = [], time.perf_counter()
    for _ in islice(training.steps(progress=False), _STEPS):
        steps.append(time.perf_counter() - last)
        last = time.perf_counter()
    predictor, images = Predictor(detector, few["val"].names, job.cell.preprocess), []
    for _ in range(2):
        started = time.perf_counter()
        detect_dataset(predictor, few["val"], job.batch, progress=False)
        images.append((time.perf_counter() - started) / len(few["val"]))
    size = sum(value.numel() * value.element_size() for value in detector.state_dict().values())
    return Effort(statistics.median(steps[1:] or steps), images[-1], proposing, size)


def propose_ahead(propose: Propose, splits: Mapping[str, Dataset]) -> dict[str, dict[str, float]]:
    """Have a proposer that caches propose for every image, over all cores.

    Returns of each split how many "images" it has, how many of them were "new" to the cache, and the "seconds".
    """
    if isinstance(propose, CachedProposer):
        propose.propose(np.zeros((64, 64, 3), np.uint8))  # what is compiled at the first call is no image's time
    taken = {}
    for split, dataset in splits.items():
        started, new = time.perf_counter(), 0
        with Progress(f"proposals, {split}", len(dataset)) as bar:
            for proposed in propose_all(propose, sources_of(dataset)):
                new += not (proposed.known or proposed.error)
                bar.update()
        taken[split] = {"images": len(dataset), "new": new, "seconds": time.perf_counter() - started}
    return taken


def save_detections(path: Path, detections: Sequence[Detections]) -> None:
    """Write the detections of each image to a file, as a whole or not at all."""
    columns: dict[str, Any] = {
        name: torch.cat([getattr(image, name) for image in detections]).numpy() for name in COLUMNS
    }
    columns["counts"] = np.array([len(image) for image in detections])
    write_atomically(path, lambda file: np.savez_compressed(file, **columns))


def load_detections(path: Path) -> list[Detections]:
    """What `save_detections` wrote. Raises ValueError for a file that is damaged."""
    with closing(Npz(path)) as file:
        columns = [torch.from_numpy(file[name]) for name in COLUMNS]
        counts = file["counts"].tolist()
    if min(counts, default=0) < 0 or any(len(column) != sum(counts) for column in columns):
        raise ValueError(f"{path} has other counts than detections; remove its folder, and the job is done again")
    return [Detections(*rows) for rows in zip(*(column.split(counts) for column in columns), strict=True)]
