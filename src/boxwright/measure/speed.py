"""Times from a file to boxes of several models, taken in turn on the same images."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from boxwright.detectors import Detector
from boxwright.detectors.base import Select
from boxwright.predict.predictor import InputImage, Predictor
from boxwright.predict.program import Eager, Program
from boxwright.progress import Progress
from boxwright.proposals import CachedProposer, Propose
from boxwright.units import Interval

STAGES = ("decode", "resize", "propose", "network", "nms", "boxes")
"""From a file to boxes in the image's own pixels. Proposals are computed before the image is resized."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_ROW = 5  # images in a turn of one model; where images a second are measured, groups of them
_GROUP = 4  # batches in such a group


class Quartiles(NamedTuple):
    """The median of a number of measurements, and their first and third quartile."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        """Raises StatisticsError for an empty sequence."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


class Latencies(NamedTuple):
    """Seconds by stage of each model that did not fail: of all images in order, round after round."""

    seconds: dict[str, list[dict[str, float]]]
    failures: dict[str, str]  # the reasons of the other models


class Throughput(NamedTuple):
    """Images per second of each model that did not fail."""

    rates: dict[str, float]
    failures: dict[str, str]  # the reasons of the other models


def stages(predictor: Predictor, path: Path) -> dict[str, float]:
    """Seconds of each of `STAGES` for one image; their sum is the latency.

    propose  without a cache, as for a new image; 0 for a program that takes no proposals
    nms      all selection of boxes, that of a region proposal network too; 0 for a compiled program, whose time is all
             `network`
    boxes    slots trimmed, on the CPU, in pixels of the image, with names
    """
    clock, predictor = _Clock(predictor.device), predictor.uncached()
    with _selects_timed(predictor.program, clock):
        proposals = None
        with clock("decode"):
            inputs = [InputImage.open(path)]
        if predictor.propose is not None:
            with clock("propose"):
                proposals = predictor.proposals(inputs)
        with clock("resize"):
            images, views = predictor.prepare(inputs, proposals)
        with clock("network"):
            slots = predictor.program(images)
        with clock("boxes"):
            predictor.results(inputs, predictor.detections(slots, views), predictor.threshold)
    clock.seconds["network"] -= clock.seconds["nms"]
    return clock.seconds


def take_latencies(
    models: Mapping[str, Callable[[Path], Mapping[str, float]]], paths: Sequence[Path], rounds: int = 3
) -> Latencies:
    """Times of several models on the same images, in turn: five images each in the mapping's order, then the next five.

    models  from an image's file to the seconds of each stage, such as `stages` of a predictor
    rounds  through all images, after a warm-up round that is not counted

    So that the order of the models does not matter, each turn begins with a detection that is not counted, which loads
    the model's weights into the processor's caches, and the files are read before the turns. A model that raises has
    no more turns.
    """
    measured, failures = _race("latency", models, paths, rounds, before=Path.read_bytes)
    seconds = {name: [dict(of_image) for of_image in of_images] for name, of_images in measured.items()}
    return Latencies(seconds, failures)


def throughput(predictors: Mapping[str, Predictor], paths: Sequence[Path], batch: int, rounds: int = 3) -> Throughput:
    """Images per second as `Predictor.stream` runs them in batches of up to `batch`, in turn as in `take_latencies`.

    An item is four batches, so that the stream can find images of one canvas. Where all images have the same, all
    batches are full: if the images do not divide evenly, the first ones are repeated at the end.
    """
    if batch < 1:
        raise ValueError(f"batch is the number of images per batch: 1 or more, got {batch}")
    repeated = list(islice(cycle(paths), math.ceil(len(paths) / batch) * batch))
    groups = [repeated[start : start + _GROUP * batch] for start in range(0, len(repeated), _GROUP * batch)]

    def seconds_of(predictor: Predictor, group: list[Path]) -> float:
        started = time.perf_counter()
        predictor(group, batch=batch)  # its results are on the CPU
        return time.perf_counter() - started

    def read(group: list[Path]) -> None:
        for path in group:
            path.read_bytes()

    models = {name: partial(seconds_of, predictor.uncached()) for name, predictor in predictors.items()}
    measured, failures = _race("throughput", models, groups, rounds, before=read)
    images = rounds * len(repeated)
    return Throughput({name: images / sum(seconds) for name, seconds in measured.items()}, failures)


def _race(
    title: str, models: Mapping[str, Callable[[Item], Answer]], items: Sequence[Item], rounds: int,
    before: Callable[[Item], object],
) -> tuple[dict[str, list[Answer]], dict[str, str]]:  # fmt: skip
    """The answers of each model that did not fail, without the warm-up; and the reasons why the others failed.

    before  is called with each item of a row before the first turn of that row
    """
    if not items or rounds < 1:
        raise ValueError(f"times are taken on one image and in one round at least, got {len(items)} and {rounds}")
    answers: dict[str, list[Answer]] = {name: [] for name in models}
    failures = {}
    rows = [items[start : start + _ROW] for start in range(0, len(items), _ROW)]
    with Progress(title, (rounds + 1) * (len(items) + len(rows)) * len(models)) as bar:
        for number, row in product(range(rounds + 1), rows):
            for item in row:
                before(item)
            for name in list(answers):
                for item, counted in ((row[0], False), *((item, number > 0) for item in row)):
                    try:
                        answer = models[name](item)
                    except Exception as error:  # out of memory, an operator that the device lacks, an external model's
                        failures[name] = _reason(error)
                        del answers[name]
                        break
                    if counted:
                        answers[name].append(answer)
                    bar.update()
    return answers, failures


def _reason(error: Exception) -> str:
    """In one line: the type of the error, and the first line of its message that does not end with a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = next((line for line in lines if not line.endswith(":")), "")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def percentile(seconds: np.ndarray, q: float, replicates: int = 1000, seed: int = 0) -> Interval:
    """The q-th percentile (0..100) of seconds (rounds, images), with the interval for other rounds and images.

    Each replicate draws both with replacement (Efron 1979). The interval from a single round ignores how rounds differ.
    """
    seconds = np.asarray(seconds, dtype=np.float64)
    if seconds.ndim != 2 or not seconds.size:
        raise ValueError(f"expected seconds (rounds, images), one at least, got {seconds.shape}")
    random, (rounds, images) = np.random.default_rng(seed), seconds.shape
    row = random.integers(rounds, size=(replicates, rounds, 1))
    column = random.integers(images, size=(replicates, 1, images))
    drawn = np.percentile(seconds[row, column], q, axis=(1, 2))  # (replicates,)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(np.percentile(seconds, q)), float(low), float(high))


def flops(predictor: Predictor, path: Path) -> int:
    """Floating-point operations of detecting in one image, an addition and a multiplication counting two.

    Convolutions, matrix products and attention are counted. Not counted are additions, norms and activations, the
    proposer, and custom operators: region pooling, warping, suppression. TypeError for a program without a detector.
    """
    from torch.utils.flop_counter import FlopCounterMode

    inputs = [InputImage.open(path)]
    images, _ = predictor.prepare(inputs, predictor.proposals(inputs))
    with FlopCounterMode(display=False) as counter:
        Eager(predictor.detector, packed=False)(images)  # the counter knows no packed convolutions
    return counter.get_total_flops()


def parameters(detector: Detector) -> int:
    """The number of weights, frozen ones included."""
    return sum(parameter.numel() for parameter in detector.parameters())


def bare(propose: Propose) -> Propose:
    """The proposer without its cache. It may give more boxes than the cache."""
    return propose.propose if isinstance(propose, CachedProposer) else propose


class _Clock:
    """Adds up the seconds of each stage, including work that is still queued on the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = self.now()
        yield
        self.seconds[stage] += self.now() - started

    def now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()


@contextmanager
def _selects_timed(program: Program, clock: _Clock) -> Iterator[None]:
    """Within, the clock times the selections of an eager detector; hooks would change a compiled one."""
    modules = program.detector.modules() if isinstance(program, Eager) else ()
    selects = [module for module in modules if isinstance(module, Select)]
    started = 0.0

    def start(*_: Any) -> None:
        nonlocal started
        started = clock.now()

    def stop(*_: Any) -> None:
        clock.seconds["nms"] += clock.now() - started

    hooks = [select.register_forward_pre_hook(start) for select in selects]
    hooks += [select.register_forward_hook(stop) for select in selects]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
