"""What a run will take: time and memory, from a few of its steps."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from boxwright.data.dataset import Dataset
from boxwright.measure.evaluate import detect_dataset
from boxwright.measure.footprint import peak_memory
from boxwright.predict.predictor import Predictor
from boxwright.predict.propose import sources_of, warm
from boxwright.train.loop import Training
from boxwright.train.run import Run, validate_every

_STEPS, _SECONDS = 12, 15.0  # steps at most, and the time after which no other begins
_IMAGES = 8  # that are detected in


class Estimate(NamedTuple):
    """Of a whole run.

    step           seconds of an optimizer step, its images loaded beside it
    image          seconds to detect in an image of val or test
    seconds        of the run: all epochs, and the evaluations
    memory         peak bytes of this process; None where the system does not report it
    device_memory  peak bytes of tensors on a CUDA GPU; None elsewhere
    """

    step: float
    image: float
    seconds: float
    memory: int | None
    device_memory: int | None


def estimate(run: Run, training: Training) -> Estimate:
    """Train for a few steps on a few images spread over the data, and detect in some of val; nothing is written.

    `training` is the run's before its first step; its detector learns in these steps, and is not to be used further.
    Proposals are computed before the training, so their time is not counted. Raises what training raises.
    """
    train, val = run.splits["train"], run.splits.get("val")
    few = {"train": _spread(train, _STEPS * run.batch * run.training.accumulate), "val": _spread(val or train, _IMAGES)}
    detector = training.detector
    brief = replace(run, splits=few, training=replace(run.training, epochs=_STEPS)).begin(detector)
    if detector.propose is not None:
        warm(detector.propose, [source for dataset in few.values() for source in sources_of(dataset)])
    taken, started = [], time.monotonic()
    last = started
    for _ in brief.steps(progress=False):
        taken.append(time.monotonic() - last)
        last += taken[-1]
        if len(taken) == _STEPS or last - started > _SECONDS:
            break
    predictor, image = Predictor(detector, run.names, run.preprocess), 0.0
    for _ in range(2):  # the first one warms up
        last = time.monotonic()
        detect_dataset(predictor, few["val"], run.batch, progress=False)
        image = (time.monotonic() - last) / len(few["val"])
    step = float(np.mean(taken[1:] or taken))
    return Estimate(
        step, image, _seconds(run, training, step, image), peak_memory(),
        torch.cuda.max_memory_allocated(training.device) if training.device.type == "cuda" else None,
    )  # fmt: skip


def _seconds(run: Run, training: Training, step: float, image: float) -> float:
    images = {split: len(dataset) for split, dataset in run.splits.items()}
    evaluated = images.get("test", 0)
    if run.val is not None:
        evaluated += images["val"] * math.ceil(training.total_epochs / validate_every(images["val"], images["train"]))
    return training.total_epochs * training.steps_per_epoch * step + evaluated * image


def _spread(dataset: Dataset, count: int) -> Dataset:
    """So many images at even distances, all where there are fewer."""
    return dataset.select(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int))
