"""The result of a race: an entry for each of its cells, the halvings of the field, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # importing a race's rules imports no torch
    from boxwright.measure.speed import Quartiles
    from boxwright.units import Interval

State = Literal["finished", "stopped", "failed", "external"]
"""Trained to the end; stopped on the way, for others were better; failed; or an external model, not trained here."""


@dataclass(frozen=True)
class ClassQuality:
    """One class on the test split, means over the seeds (0..1, nan without an object).

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
    """On the test split, means over the seeds. The intervals are for other test images and other seeds.

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
    throughput  images a second, in batches; nan for an external model
    quartiles   of "propose", and of "network" with its NMS; empty for an external model
    """

    p50: Interval
    p95: Interval
    stages: dict[str, float]
    throughput: float
    quartiles: dict[str, Quartiles] = field(default_factory=dict)


@dataclass(frozen=True)
class Learning:
    """The training of one seed: the loss of each epoch, and AP on val after the epochs in which it was measured."""

    losses: tuple[float, ...]
    val: dict[int, float]


@dataclass(frozen=True)
class Entry:
    """What was measured of a cell, also of one that was stopped; what is not known is nan, None or empty.

    detector     "" for an external model, as is its backbone
    backbone     "" for a detector without one
    size         the shorter side of images, in pixels; 0 for an external model
    proposals    None for a detector that has none
    reason       why it was stopped or failed
    epochs       of training
    seconds      of training, all seeds together
    speed        by runtime: "eager", "compiled"; "own" for an external model
    failures     by runtime that did not work: the reason
    memory       peak bytes of a process that only detects; `device_memory`: of its network on a GPU
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
    """A cell at a rung: its AP on val, the mean of its seeds; its seconds an image; and whether it was kept."""

    name: str
    ap: float
    seconds: float
    kept: bool


@dataclass(frozen=True)
class Rung:
    """A halving of the field after an epoch: the standings, best first."""

    epoch: int
    standings: tuple[Standing, ...]


@dataclass(frozen=True)
class Verdict:
    """Which cell to take under the user's constraints, and why.

    too_little_evidence  what is missing for a winner to be named, empty where nothing is
    winner               the leader, unless there is too little evidence
    leader, runner_up    the first two cells; None where there is none that meets the constraints
    tied                 the other cells whose paired difference in AP to the leader may be 0
    nearest              where no cell meets the constraints: the cell that misses them least
    frontier             the cells that no other is both faster than and better than, fastest first
    reasons              sentences for people
    best                 the best AP among those that meet the constraints, or among all where none does
    to_best, to_leader   by cell: its AP minus that of the best and of the leader, with the paired interval
    """

    too_little_evidence: tuple[str, ...] = ()
    winner: str | None = None
    leader: str | None = None
    runner_up: str | None = None
    tied: tuple[str, ...] = ()
    nearest: str | None = None
    frontier: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    best: str | None = None
    to_best: dict[str, Interval] = field(default_factory=dict)
    to_leader: dict[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Race:
    """The whole result of a race.

    title        the data's name
    command      that ran it
    made         the day it was finished, as 2026-11-23, and the version of boxwright
    settings     what all cells share: data, splits, augmentation, epochs, learning rate, machine ...
    differences  the settings of each cell that are not the same in all of them
    rungs        empty where all cells were trained to the end
    control      (first, last): p50 of the first cell, and of the same cell timed again as the last one
    constraints  of the user, as written
    proposals    what computing proposals before the training took, by proposer and split: "images", how many of them
                 were "new" to the cache, "seconds"
    plan         planned and spent time, for people
    commands     for the leader, or the nearest: from a purpose to the command or the lines of Python
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
