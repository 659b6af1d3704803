"""What a race finds out: an entry for each of its cells, how the field was thinned out, and who won."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from boxwright.measure.speed import Quartiles
from boxwright.metrics.compare import Interval

State = Literal["finished", "stopped", "failed", "guest"]
"""Trained to the end; stopped on the way, for others were better; failed; or somebody else's, not trained here."""


@dataclass(frozen=True)
class ClassQuality:
    """One class on the test part, means over the seeds (0..1, nan without an object).

    recall, precision  at IoU .5, of the detections that score at least `threshold`, where F1 was best on val
    """

    objects: int
    ap: float
    ap50: float
    recall: float
    precision: float
    threshold: float


@dataclass(frozen=True)
class Quality:
    """On the test part, means over the seeds. The intervals are for other test images and other seeds.

    seeds   AP of each seed
    sizes   AP of "small", "medium" and "large" objects, as COCO has them; nan without such objects
    """

    ap: Interval
    ap50: Interval
    seeds: tuple[float, ...]
    sizes: dict[str, float]
    classes: dict[str, ClassQuality]


@dataclass(frozen=True)
class Speed:
    """From a file on disk to boxes in its pixels, warm, in seconds.

    p50, p95    of one image at a time; the intervals are for other images and rounds
    stages      the mean of each of `boxwright.measure.speed.STAGES`, which sum to the mean of the whole; an external
                model has the one stage "detect"
    throughput  images a second, many looked at together; nan for an external model
    quartiles   of "propose", and of "network" with its nms; empty for an external model
    """

    p50: Interval
    p95: Interval
    stages: dict[str, float]
    throughput: float
    quartiles: dict[str, Quartiles] = field(default_factory=dict)


@dataclass(frozen=True)
class Learning:
    """How one seed learnt: the loss of each epoch from the first, and AP on val after those where it was measured."""

    losses: tuple[float, ...]
    val: dict[int, float]


@dataclass(frozen=True)
class Entry:
    """What is known of a cell, one that was stopped as well; what is not is nan, None or empty.

    detector     "" for an external model, as is its backbone
    size         the shorter side of images, in pixels; 0 for an external model
    proposals    None for a detector that has none
    reason       why it was stopped or failed
    epochs       that it learnt
    seconds      of training, all seeds together
    speed        by runtime: "eager", "compiled"; "own" for an external model
    failures     by runtime that did not work, why
    memory       bytes at most of a process that only detects; `device_memory` of what its network took on a GPU
    flops        of one test image, an addition and a multiplication counting two
    file         bytes of the checkpoint
    first        seconds from the start of a process to its first boxes
    """

    name: str
    detector: str
    backbone: str
    size: int
    proposals: int | None
    state: State
    reason: str = ""
    epochs: int = 0
    seconds: float = 0.0
    quality: Quality | None = None
    speed: dict[str, Speed] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    parameters: int | None = None
    flops: int | None = None
    file: int | None = None
    memory: int | None = None
    device_memory: int | None = None
    first: float | None = None
    learning: dict[int, Learning] = field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """A cell at a rung: its AP on val, the mean of its seeds; its seconds an image; and whether it went on."""

    name: str
    ap: float
    seconds: float
    kept: bool


@dataclass(frozen=True)
class Rung:
    """Where the field was halved: after so many epochs, best first."""

    epoch: int
    standings: tuple[Standing, ...]


@dataclass(frozen=True)
class Verdict:
    """Who wins under the user's constraints, and why.

    winner       None where nothing meets them
    runner_up    None where there is no second
    tied         those whose interval of AP overlaps the winner's, the winner left out
    nearest      where nothing meets them: the cell that misses least
    frontier     the cells that no other is both faster than and better than, fastest first
    reasons      sentences that say why, for people
    """

    winner: str | None
    runner_up: str | None
    tied: tuple[str, ...]
    nearest: str | None
    frontier: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Race:
    """A race, whole.

    title        what it was about: the data's name
    command      that ran it
    made         the day it was finished, as 2026-11-23, and the version of boxwright
    settings     what all cells share: data, splits, augmentation, epochs, learning rate, machine ...
    differences  what each cell has that is not the same in all of them
    rungs        empty where all cells could train to the end
    control      (first, last): p50 of the first cell, and of the same cell timed again as the last one
    constraints  what the winner had to meet, as the user wrote it
    proposals    what computing proposals before the training took, by proposer and split: "images", how many of them
                 were "new" to the cache, "seconds"
    plan         what it was to take and what it took, for people
    commands     for the winner, or the nearest: what it does to the command or the lines of Python
    """

    title: str
    command: str
    made: str
    settings: dict[str, Any]
    differences: dict[str, dict[str, Any]]
    entries: tuple[Entry, ...]
    rungs: tuple[Rung, ...]
    verdict: Verdict
    control: tuple[Interval, Interval] | None = None
    constraints: tuple[str, ...] = ()
    proposals: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    plan: tuple[str, ...] = ()
    commands: dict[str, str] = field(default_factory=dict)
