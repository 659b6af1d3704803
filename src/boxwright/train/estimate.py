"""What a run will take: time and memory, from a few of its steps."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from boxwright.data.dataset import Dataset
from boxwright.data.image import ImageError
from boxwright.measure.evaluate import detect_dataset
from boxwright.measure.footprint import peak_memory
from boxwright.predict.predictor import Predictor
from boxwright.predict.propose import propose_all, sources_of, warm
from boxwright.proposals import CachedProposer, Propose
from boxwright.train.loop import Training
from boxwright.train.run import Run, validate_every

_STEPS, _SECONDS = 12, 15.0  # steps at most, and the time after which no other begins
_IMAGES = 8  # that are detected in


class Estimate(NamedTuple):
    """Of a whole run.

    step           seconds of an optimizer step, its images loaded beside it
    image          seconds to detect in an image of val or test
    propose        seconds before the training for the proposals that the cache does not have yet
    seconds        of the run: proposals, all epochs, and the evaluations
    memory         peak bytes of this process; None where the system does not report it
    device_memory  peak bytes of tensors on a CUDA GPU; None elsewhere
    """

    step: float
    image: float
    propose: float
    seconds: float
    memory: int | None
    device_memory: int | None


def estimate(run: Run, training: Training) -> Estimate:
    """Train for a few steps on a few images spread over the data, and detect in some of val; nothing is written.

    `training` is the run's before its first step; its detector learns in these steps, and is not to be used further.
    Raises what training raises.
    """
    train, val = run.splits["train"], run.splits.get("val")
    few = {"train": _spread(train, _STEPS * run.batch * run.training.accumulate), "val": _spread(val or train, _IMAGES)}
    detector = training.detector
    brief = replace(run, splits=few, training=replace(run.training, epochs=_STEPS)).begin(detector)
    propose = 0.0
    if detector.propose is not None:
        propose = _proposing(detector.propose, run.splits)  # first, while the cache is as the run will find it
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
        step, image, propose, propose + _seconds(run, training, step, image), peak_memory(),
        torch.cuda.max_memory_allocated(training.device) if training.device.type == "cuda" else None,
    )  # fmt: skip


def kept_per_image(run: Run) -> float:
    """Bytes that a training step keeps of an image for its backward pass, from a step on two images of the data.

    Raises what training raises.
    """
    few = min(2, len(run.splits["train"]))
    short = replace(run.training, epochs=1, accumulate=1)
    training, kept = replace(run, batch=few, training=short, pretrained=False, workers=0).begin(), {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        next(training.steps(progress=False))
    of_weights = {parameter.untyped_storage().data_ptr() for parameter in training.detector.parameters()}
    return sum(size for address, size in kept.items() if address not in of_weights) / few


def _proposing(propose: Propose, splits: Mapping[str, Dataset]) -> float:
    """Seconds to fill a cache of proposals with all images that it lacks, from a few of them drawn at random."""
    if not isinstance(propose, CachedProposer):
        return 0.0
    train = splits["train"]
    drawn = np.random.default_rng(0).choice(len(train), min(_IMAGES, len(train)), replace=False)
    new = []
    for source in sources_of(train.select(drawn)):
        with suppress(ImageError):  # training names it
            new += [] if propose.has(source.read()) else [source]
    if not new:
        return 0.0
    propose.propose(np.zeros((64, 64, 3), np.uint8))  # what is compiled at the first call is no image's time
    started = time.monotonic()
    for _ in propose_all(propose.propose, new):
        pass
    return (time.monotonic() - started) / len(drawn) * sum(map(len, splits.values()))


def _seconds(run: Run, training: Training, step: float, image: float) -> float:
    images = {split: len(dataset) for split, dataset in run.splits.items()}
    evaluated = images.get("test", 0)
    if run.val is not None:
        evaluated += images["val"] * math.ceil(training.total_epochs / validate_every(images["val"], images["train"]))
    return training.total_epochs * training.steps_per_epoch * step + evaluated * image


def _spread(dataset: Dataset, count: int) -> Dataset:
    """So many images at even distances, all where there are fewer."""
    return dataset.select(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int))
