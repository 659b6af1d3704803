"""What a user feels, from a file to boxes: times taken in turn on the same images, and the machine they hold for."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from boxwright.detectors import Detector
from boxwright.detectors.select import Select
from boxwright.metrics.compare import Interval
from boxwright.predict.predictor import InputImage, Predictor, uncached
from boxwright.predict.program import Compiled
from boxwright.progress import Progress
from boxwright.proposals import CachedProposer, Propose

STAGES = ("decode", "resize", "propose", "network", "nms", "boxes")
"""From a file to boxes in the image's own pixels. Proposals come from the image as it is, before it is resized."""


Place = TypeVar("Place")
Answer = TypeVar("Answer")

_ROW = 5  # looks that one contestant takes before it is another's turn


class Quartiles(NamedTuple):
    """The middle of a number of measurements, and what a quarter of them are below and above."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        """Raises StatisticsError where there are none."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


class Latencies(NamedTuple):
    """How long each look took.

    seconds   of each contestant that held out, by stage: all images in their order, round after round
    failures  of the others, why
    """

    seconds: dict[str, list[dict[str, float]]]
    failures: dict[str, str]


class Throughput(NamedTuple):
    """Images a second, `rates`, of each contestant that held out; `failures` of the others, why."""

    rates: dict[str, float]
    failures: dict[str, str]


def stages(predictor: Predictor, path: Path) -> dict[str, float]:
    """Seconds of each of `STAGES` for one image; a look is their sum.

    propose  by the bare proposer: a user's new image is in no cache. 0 for a detector that looks for itself
    nms      all selection of boxes, that of a region proposal network too. 0 where a compiled program does it, whose
             time is all `network`
    boxes    to the CPU, to the image's pixels, to names. Slots are trimmed within `network`
    """
    clock, detector = _Clock(predictor.device), predictor.detector
    with uncached(detector), _selects_timed(detector, clock):
        proposals = None
        with clock("decode"):
            arrays = [InputImage.open(path)]
        if detector.propose is not None:
            with clock("propose"):
                proposals = predictor.propose(arrays)
        with clock("resize"):
            images, ways_back = predictor.resize(arrays, proposals)
        with clock("network"):
            answers = detector.detect(images)
        with clock("boxes"):
            predictor.results(arrays, ways_back, answers, predictor.threshold)
    clock.seconds["network"] -= clock.seconds["nms"]
    return clock.seconds


def take_latencies(
    looks: Mapping[str, Callable[[Path], Mapping[str, float]]], paths: Sequence[Path], rounds: int = 3
) -> Latencies:
    """Every contestant looks at five images, in the mapping's order, before the next five; round after round.

    looks   from an image's file to the seconds of each stage, `stages` of a predictor for one
    rounds  through all images; one more goes before, uncounted, in which all that is compiled gets compiled

    Who comes before whom is to change nothing. So each one's five begin with a look that does not count, which brings
    its weights into the processor's caches, as they are for somebody who runs this one detector; and the files are read
    before for nobody, so that the first does not wait for the disk in place of the others. A contestant that raises has
    no more turns, and the others go on.
    """
    measured, failures = _race("latency", looks, paths, rounds, before=Path.read_bytes)
    return Latencies({name: [dict(look) for look in all_looks] for name, all_looks in measured.items()}, failures)


def throughput(predictors: Mapping[str, Predictor], paths: Sequence[Path], batch: int, rounds: int = 3) -> Throughput:
    """Images a second, `batch` looked at together, in turn as in `take_latencies`.

    Where they do not come out even the first images come once more, so that all batches are full.
    """
    if batch < 1:
        raise ValueError(f"batch is how many images are looked at together: 1 or more, got {batch}")
    count = math.ceil(len(paths) / batch)
    again = cycle(paths)
    groups = [list(islice(again, batch)) for _ in range(count)]

    def detect(predictor: Predictor, group: list[Path]) -> float:
        with uncached(predictor.detector):
            started = time.perf_counter()
            predictor(group, batch=batch)  # which ends with boxes on the CPU
            return time.perf_counter() - started

    def read(group: list[Path]) -> None:
        for path in group:
            path.read_bytes()

    looks = {name: lambda group, p=predictor: detect(p, group) for name, predictor in predictors.items()}
    measured, failures = _race("throughput", looks, groups, rounds, before=read)
    return Throughput({name: batch * len(seconds) / sum(seconds) for name, seconds in measured.items()}, failures)


def in_turn(tasks: Mapping[Any, Callable[[int], object]], places: int, rounds: int) -> dict[Any, list[float]]:
    """Seconds that each task takes at each place, all at one place before the next; a first round is warm-up."""
    seconds: dict[Any, list[float]] = {name: [] for name in tasks}
    with Progress("test time", (rounds + 1) * places * len(tasks)) as bar:
        for turn in range(rounds + 1):
            for place in range(places):
                for name, task in tasks.items():
                    started = time.perf_counter()
                    task(place)
                    if turn:
                        seconds[name].append(time.perf_counter() - started)
                    bar.update()
    return seconds


def _race(
    title: str,
    looks: Mapping[str, Callable[[Place], Answer]],
    places: Sequence[Place],
    rounds: int,
    before: Callable[[Place], object],
) -> tuple[dict[str, list[Answer]], dict[str, str]]:
    """What each contestant that held out answered, warm-up left out; and of the others, why they did not."""
    if not places or rounds < 1:
        raise ValueError(f"times are taken on one image and in one round at least, got {len(places)} and {rounds}")
    answers: dict[str, list[Answer]] = {name: [] for name in looks}
    failures = {}
    looks_of_each = (rounds + 1) * (len(places) + math.ceil(len(places) / _ROW))
    with Progress(title, looks_of_each * len(looks)) as bar:
        for name, place, counted in _turns(answers, places, rounds, before):
            try:
                answer = looks[name](place)
            except (
                Exception
            ) as error:  # the device's memory, an operator that it does not have, an external model's own
                failures[name] = _reason(error)
                del answers[name]
                continue
            if counted:
                answers[name].append(answer)
            bar.update()
    return answers, failures


def _turns(
    names: Collection[Any], places: Sequence[Place], rounds: int, before: Callable[[Place], object]
) -> Iterator[tuple[Any, Place, bool]]:
    """Who is next, where, and whether it counts. Who leaves `names` has no more turns.

    before  is done at each place of a row before anybody's turn
    """
    for turn in range(rounds + 1):
        for start in range(0, len(places), _ROW):
            row = places[start : start + _ROW]
            for place in row:
                before(place)
            for name in list(names):
                for place, counted in ((row[0], False), *((place, turn > 0) for place in row)):
                    if name in names:
                        yield name, place, counted


def _reason(error: Exception) -> str:
    """In a line: the first one that says more than who raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = next((line for line in lines if not line.endswith(":")), "")
    return f"{type(error).__name__}: {telling}" if telling else type(error).__name__


def percentile(seconds: np.ndarray, q: float, replicates: int = 1000, seed: int = 0) -> Interval:
    """The q-th percentile (0..100) of seconds (rounds, images), with the interval for other rounds and images.

    Each replicate draws both with replacement (Efron 1979). One round says nothing of how rounds differ.
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

    Those of convolutions, matrix products and attention are counted. Not seen are additions, norms and activations, a
    proposer's, and the inside of custom operators: region pooling, warping, suppression. For an eager detector.
    """
    from torch.utils.flop_counter import FlopCounterMode

    arrays = [InputImage.open(path)]
    images, _ = predictor.resize(arrays, predictor.propose(arrays))
    with FlopCounterMode(display=False) as counter:
        predictor.detector.detect(images)
    return counter.get_total_flops()


def parameters(detector: Detector) -> int:
    """Numbers that a detector has learnt or may learn."""
    return sum(parameter.numel() for parameter in detector.parameters())


def bare(propose: Propose) -> Propose:
    """The proposer itself, which remembers nothing, and may find more boxes than are wanted of it."""
    return propose.propose if isinstance(propose, CachedProposer) else propose


class _Clock:
    """Adds up the seconds of each stage, what the device still has to do included."""

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
def _selects_timed(detector: Detector, clock: _Clock) -> Iterator[None]:
    """Within, the clock has what the detector's selections take. A compiled program has none: it would change."""
    selects = [module for module in detector.modules() if isinstance(module, Select)]
    started = 0.0

    def start(*_: Any) -> None:
        nonlocal started
        started = clock.now()

    def stop(*_: Any) -> None:
        clock.seconds["nms"] += clock.now() - started

    hooks: list[Any] = []
    if not isinstance(detector, Compiled):
        hooks += [select.register_forward_pre_hook(start) for select in selects]
        hooks += [select.register_forward_hook(stop) for select in selects]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
