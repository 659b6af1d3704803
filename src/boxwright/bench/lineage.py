"""Detectors measured side by side: one recipe to train them all, and their times taken in turn on the same images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from boxwright.data.augment import Augment
from boxwright.data.batch import Propose
from boxwright.data.dataset import Dataset
from boxwright.data.image import ImageError, read_image
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import DETECTORS, Detector
from boxwright.device import cores
from boxwright.measure.evaluate import evaluate_dataset
from boxwright.measure.speed import bare, in_turn
from boxwright.predict.predictor import InputImage, Predictor
from boxwright.predict.propose import propose_all, sources_of
from boxwright.progress import Progress
from boxwright.train.config import TrainConfig
from boxwright.train.history import summary
from boxwright.train.run import begin
from boxwright.types import Images


@dataclass(frozen=True, eq=False)
class Recipe:
    """What all steps of the lineage share. `training` has nothing left open, see `TrainConfig.resolve`."""

    train: Dataset
    test: Dataset
    preprocess: Preprocess
    augment: Augment
    batch: int
    training: TrainConfig
    pretrained: bool
    device: torch.device
    workers: int = 0


class Cost(NamedTuple):
    """What a detector takes, in seconds, and what it is worth; NaN where that is not known.

    training            of the whole run
    proposals, network  of one test image; `proposals` is 0 where the detector looks for itself
    """

    name: str
    training: float = math.nan
    proposals: float = math.nan
    network: float = math.nan
    ap: float = math.nan
    ap50: float = math.nan

    @property
    def whole(self) -> float:
        """Of one test image."""
        return self.proposals + self.network


class Times(NamedTuple):
    """Seconds for each image, round after round, in the same order for every detector.

    proposals  of the bare proposer, on one thread; empty where the detector looks for itself
    network    from pixels, and proposals, to detections
    """

    proposals: list[float]
    network: list[float]


def configure(name: str, **options: Any) -> Any:
    """A detector's config with those of the options that it has."""
    known = {field.name for field in fields(DETECTORS[name])}
    return DETECTORS[name](**{option: value for option, value in options.items() if option in known})


def differences(configs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What each config has that is not the same in all of them."""
    options = {name: asdict(config) for name, config in configs.items()}
    first = next(iter(options.values()), {})
    common = {key for key, value in first.items() if all(key in one and one[key] == value for one in options.values())}
    return {name: {key: value for key, value in one.items() if key not in common} for name, one in options.items()}


def propose_ahead(propose: Propose, datasets: Iterable[Dataset]) -> list[dict[str, Any]]:
    """Has a proposer that remembers propose for every image, on all cores, and says of each dataset what that took:
    how many images were new to it, and the seconds."""
    bare(propose)(np.zeros((64, 64, 3), np.uint8))  # what is compiled at the first call is no image's time
    taken = []
    for dataset in datasets:
        started, new = time.perf_counter(), 0
        with Progress("propose", len(dataset)) as bar:
            for proposed in propose_all(propose, sources_of(dataset), cores()):
                new += not (proposed.known or proposed.error)
                bar.update()
        taken.append({"images": len(dataset), "new": new, "seconds": time.perf_counter() - started})
    return taken


def learn(config: Any, recipe: Recipe) -> tuple[Detector, dict[str, Any]]:
    """A detector trained and measured: how long it took, in seconds without the evaluation, and how good it is.

    Raises DivergedError, and whatever the device raises when its memory does not do.
    """
    training = begin(
        config, recipe.train, recipe.preprocess, recipe.augment, recipe.batch, recipe.training, recipe.pretrained,
        recipe.device, recipe.workers,
    )  # fmt: skip
    detector = training.detector
    epochs = list(training.epochs())
    detector.load_state_dict(training.weights())
    predictor = Predictor(detector, recipe.test.names, recipe.preprocess)
    quality = evaluate_dataset(predictor, recipe.test, recipe.batch, recipe.workers)
    seconds = sum(epoch.seconds for epoch in epochs)
    return detector, {
        "parameters": sum(parameter.numel() for parameter in detector.parameters()),
        "learning": sum(parameter.numel() for parameter in detector.parameters() if parameter.requires_grad),
        "seconds": seconds,
        "seconds_per_image": seconds / sum(epoch.seconds * epoch.images_per_second for epoch in epochs),
        "losses": [epoch.losses["total"] for epoch in epochs],
        **summary(quality),
    }


def take_times(
    detectors: Mapping[str, Detector], images: Iterable[np.ndarray], preprocess: Preprocess, rounds: int = 3
) -> dict[str, Times]:
    """Proposals and network of each detector, one image at a time, all in turn, so that what the machine does
    meanwhile hits all alike.

    images  uint8 RGB (H, W, 3)
    rounds    through all images; one more goes before, uncounted
    """
    images = list(images)
    ready = {name: [_ready(detector, image, preprocess) for image in images] for name, detector in detectors.items()}
    proposers = {name: bare(detector.propose) for name, detector in detectors.items() if detector.propose is not None}
    tasks: dict[Any, Callable[[int], object]] = {}
    for proposer in proposers.values():  # one that several share is asked once
        tasks[proposer] = lambda place, proposer=proposer: proposer(images[place])
    for name, detector in detectors.items():
        detector.eval()
        tasks[name] = lambda place, name=name, detector=detector: _look(detector, ready[name][place])
    seconds = in_turn(tasks, len(images), rounds)
    return {name: Times(seconds[proposers[name]] if name in proposers else [], seconds[name]) for name in detectors}


def sample(dataset: Dataset, count: int, seed: int) -> list[Path]:
    """Images of a dataset, drawn with the seed among those that can be read; fewer where there are no more."""
    paths = []
    for index in np.random.default_rng(seed).permutation(len(dataset)).tolist():
        if len(paths) == count:
            break
        try:
            read_image(dataset.path(index))
        except ImageError:
            continue  # evaluation has named it in a warning
        paths.append(dataset.path(index))
    return paths


def subset(dataset: Dataset, count: int | None, seed: int) -> Dataset:
    """So many images drawn with the seed, in the dataset's order; all for None. More hold fewer of the same seed."""
    if count is None:
        return dataset
    return dataset.select(np.sort(np.random.default_rng(seed).permutation(len(dataset))[:count]))


def _look(detector: Detector, images: Images) -> None:
    detector.detect(images)
    if images.pixels.is_cuda:
        torch.cuda.synchronize(images.pixels.device)


def _ready(detector: Detector, image: np.ndarray, preprocess: Preprocess) -> Images:
    """A batch of one, on the detector's device, with the proposals of whoever tells it where to look."""
    predictor, images = Predictor(detector, (), preprocess), [InputImage(image)]
    return predictor.prepare(images, predictor.proposals(images))[0]
