"""From the record of a race to its result: an entry for each cell, the verdict, commands for the leader."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.bench.plan.budget import duration
from boxwright.bench.plan.cells import Cell, differences
from boxwright.bench.report.disagreements import Side, show
from boxwright.bench.report.write import write
from boxwright.bench.result import ClassQuality, Entry, Quality, Race, Rung, Speed
from boxwright.bench.run.job import Job, load_detections
from boxwright.bench.run.state import RaceState, one_line
from boxwright.bench.run.timing import CONTROL, OWN, as_key, detections_of
from boxwright.bench.verdict import Constraint, judge
from boxwright.checkpoint import read
from boxwright.measure.evaluate import targets_of
from boxwright.measure.speed import Quartiles, percentile
from boxwright.metrics import evaluate, recall_precision
from boxwright.metrics.compare import bootstrap_ap, interval, paired_difference
from boxwright.train.config import TrainConfig
from boxwright.types import Target
from boxwright.units import Interval, counted, digits, fraction
from boxwright.version import __version__

_MACHINE = ("device", "name", "cores", "threads", "python", "torch")


def check_constraints(texts: Sequence[str], names: Sequence[str]) -> list[Constraint]:
    """As `Constraint.parse`, for data of these classes."""
    constraints = [Constraint.parse(text) for text in texts]
    for constraint in constraints:
        constraint.check(names)
    return constraints


def conclude(race_state: RaceState, constraints: Sequence[Constraint], report_images: int) -> Race:
    """The result, and its report in the race's folder."""
    sides = {}
    for entry in _entries(race_state):
        if entry.state != "failed":
            try:
                sides[entry.name] = _sides(race_state, entry.name)
            except (ValueError, OSError) as error:  # a damaged file
                race_state.fail(entry.name, one_line(error))
    entries = _entries(race_state)
    targets, names = targets_of(race_state.splits["test"]), race_state.names
    seed = race_state.training.seed
    aps = {name: bootstrap_ap([side.detections for side in seeds], targets, names, seed=seed)
           for name, seeds in sides.items()}  # fmt: skip
    qualities = {name: _quality(seeds, targets, names, aps[name]) for name, seeds in sides.items()}
    entries = [replace(entry, quality=qualities.get(entry.name)) for entry in entries]
    verdict = judge(entries, constraints, lambda name, other: paired_difference(aps[name], aps[other]))
    chosen = verdict.leader or verdict.nearest
    content = race_state.record.content
    if not content["made"]:  # the day of the measurements stays when the report is written again
        race_state.keep("made", date.today().isoformat())
    race = Race(
        title=race_state.data.resolve().stem, command=content["command"],
        made=f"{content['made']}, boxwright {__version__}", settings=_settings(race_state),
        differences=_differences(race_state), entries=tuple(entries), rungs=tuple(race_state.rungs), verdict=verdict,
        control=_control(race_state), constraints=tuple(map(str, constraints)), plan=_plan(race_state),
        proposals=content["proposals"],
        commands=_commands(race_state, chosen) if chosen in race_state.cells else {},
    )  # fmt: skip
    shown = []
    if report_images and verdict.leader and verdict.runner_up:
        fixed = [0.5] * len(names)  # scores from which on an external model's detections are drawn
        first, second = (
            sides[name][0]._replace(thresholds=fixed) if name in race_state.external_models else sides[name][0]
            for name in (verdict.leader, verdict.runner_up)
        )
        shown = show(first, second, race_state.splits["test"], report_images)
    write(race, race_state.folder, shown)
    return race


def _entries(race_state: RaceState) -> list[Entry]:
    """All but the quality."""
    cells = [_cell(race_state, cell) for cell in race_state.cells.values()]
    return cells + [_external(race_state, name) for name in race_state.external_models]


def _cell(race_state: RaceState, cell: Cell) -> Entry:
    """All but the quality."""
    jobs, known = race_state.jobs(cell.name), race_state.record.content["footprints"].get(cell.name, {})
    stopped = {standing.name: rung for rung in race_state.rungs for standing in rung.standings if not standing.kept}
    state, reason = "finished", ""
    if cell.name in race_state.failed:
        state, reason = "failed", race_state.failed[cell.name]
    elif cell.name in stopped:
        state, reason = "stopped", _why_stopped(stopped[cell.name], cell.name)
    failures = race_state.record.content["times"].get("failures", {})
    return Entry(
        cell.name, cell.detector, cell.backbone, cell.size, cell.proposals, state, reason,
        epochs=min(job.epochs() for job in jobs),
        seconds=sum(job.seconds() for job in jobs),
        speed=_speeds(race_state, cell.name, race_state.rules.runtimes) if state != "failed" else {},
        failures={runtime: why for runtime in race_state.rules.runtimes
                  if (why := failures.get(as_key(cell.name, runtime)))},
        learning={job.training.seed: job.learning() for job in jobs},
        **known,
    )  # fmt: skip


def _why_stopped(rung: Rung, name: str) -> str:
    rank, standing = next((rank, row) for rank, row in enumerate(rung.standings, 1) if row.name == name)
    kept = sum(row.kept for row in rung.standings)
    numbers = f"AP {fraction(standing.ap)} on val and {digits(1000 * standing.seconds)} ms an image, the mean of a few"
    return f"rank {rank} of {len(rung.standings)} after epoch {rung.epoch}, with {numbers}; {kept} went on"


def _external(race_state: RaceState, name: str) -> Entry:
    """All but the quality."""
    failures = race_state.record.content["times"].get("failures", {})
    if reason := race_state.failed.get(name) or failures.get(as_key(name, OWN), ""):
        return Entry(name, "", "", 0, None, "failed", reason)
    return Entry(name, "", "", 0, None, "external", speed=_speeds(race_state, name, (OWN,)))


def _sides(race_state: RaceState, name: str) -> list[Side]:
    """For each seed the detections on the test split, and the thresholds where F1 was best on val; nan if not known."""
    if name in race_state.external_models:
        return [Side(name, load_detections(detections_of(race_state, name)), [math.nan] * len(race_state.names))]
    sides, names = [], race_state.names
    for job in race_state.jobs(name):
        known = read(job.best)[1].get("thresholds", {})
        thresholds = [known.get(label, math.nan) for label in names]
        sides.append(Side(name, load_detections(job.detections), thresholds))
    return sides


def _quality(sides: Sequence[Side], targets: Sequence[Target], names: Sequence[str], aps: np.ndarray) -> Quality:
    """From each seed's detections on the test split, and their `bootstrap_ap`."""
    evaluated = [evaluate(side.detections, targets, names) for side in sides]
    thresholds = [dict(zip(names, side.thresholds, strict=True)) for side in sides]
    points = [recall_precision(side.detections, targets, names, scores)
              for side, scores in zip(sides, thresholds, strict=True)]  # fmt: skip
    classes = {
        name: ClassQuality(
            objects=evaluated[0].classes[name].objects,
            ap=_mean([seed.classes[name].ap for seed in evaluated]),
            ap50=_mean([seed.classes[name].ap50 for seed in evaluated]),
            recall=_mean([seed[name].recall for seed in points]),
            precision=_mean([seed[name].precision for seed in points]),
            threshold=_mean([seed[name] for seed in thresholds]),
        )
        for name in names
    }
    sizes = {size: _mean([getattr(seed, f"ap_{size}") for seed in evaluated]) for size in ("small", "medium", "large")}
    return Quality(interval(aps[0]), interval(aps[1]), tuple(seed.ap for seed in evaluated), sizes, classes)


def _speeds(race_state: RaceState, name: str, runtimes: Sequence[str]) -> dict[str, Speed]:
    times = race_state.record.content["times"]
    keys = {runtime: as_key(name, runtime) for runtime in runtimes}
    return {runtime: _speed(times["seconds"][key], times["images"], times["throughput"].get(key))
            for runtime, key in keys.items() if key in times.get("seconds", {})}  # fmt: skip


def _speed(measured: Sequence[Mapping[str, float]], images: int, rate: float | None = None) -> Speed:
    """From the seconds of each stage, round after round over the images."""
    seconds = np.array([sum(stages.values()) for stages in measured]).reshape(-1, images)
    means = {stage: statistics.fmean(stages[stage] for stages in measured) for stage in measured[0]}
    quartiles = {
        name: Quartiles.of([sum(stages[stage] for stage in summed) for stages in measured])
        for name, summed in (("propose", ("propose",)), ("network", ("network", "nms")))
        if means.keys() >= set(summed)
    }
    rate = math.nan if rate is None else rate
    return Speed(percentile(seconds, 50), percentile(seconds, 95), means, rate, quartiles)


def _control(race_state: RaceState) -> tuple[Interval, Interval] | None:
    times = race_state.record.content["times"]
    seconds, first = times.get("seconds", {}), times.get("first")
    if first not in seconds or CONTROL not in seconds:
        return None
    return _speed(seconds[first], times["images"]).p50, _speed(seconds[CONTROL], times["images"]).p50


def _settings(race_state: RaceState) -> dict[str, Any]:
    """The settings of all cells, for the report."""
    settings, images = race_state.settings, race_state.record.content["times"].get("images", 0)
    return {
        **{key: value for key, value in settings.items() if key not in _MACHINE},
        "epochs": race_state.epochs,
        "learning rate rule": "linear warm-up, then a cosine to the end of the epochs",
        "times are of": f"{images} images; counted rounds: {race_state.rules.rounds}",
        "test images that cannot be read": "; ".join(race_state.record.content["unreadable"]) or "none",
        "machine": {key: settings[key] for key in _MACHINE},
    }


def _differences(race_state: RaceState) -> dict[str, dict[str, Any]]:
    """The settings of a cell that are not the same in all of them, the size of its images first."""
    configs = differences({name: cell.config for name, cell in race_state.cells.items()})
    sizes = differences({name: cell.preprocess for name, cell in race_state.cells.items()})
    return {name: {"detector": cell.detector, **sizes[name], **configs[name]}
            for name, cell in race_state.cells.items()}  # fmt: skip


def _plan(race_state: RaceState) -> tuple[str, ...]:
    plan = race_state.plan
    assert plan is not None
    rungs = f"halved after epoch {' and '.join(map(str, plan.rungs))}" if plan.rungs else "no cell stopped early"
    budget = f", within a budget of {race_state.rules.budget}" if race_state.rules.budget else ""
    return (
        f"planned: {counted(plan.epochs, 'epoch')}, {rungs}, {duration(plan.seconds)} at most{budget}",
        f"spent: {duration(race_state.spent)}",
    )


def _commands(race_state: RaceState, name: str) -> dict[str, str]:
    """What to do next with a cell."""
    jobs = race_state.jobs(name)
    job = max(jobs, key=lambda job: job.ap())
    drawn = race_state.dataset.drawn  # with the training's seed
    data, best = shlex.quote(str(race_state.data)), shlex.quote(str(job.best))
    height, width = job.cell.preprocess.canvas([job.cell.preprocess.size(race_state.splits["test"].size(0))])
    return {
        "train it again": train_command(jobs[0] if drawn else job, race_state.data),
        "detect": f"boxwright detect photo.jpg --model {best}",
        "score": f"boxwright evaluate {best} --data {data}" + f" --seed {race_state.training.seed}" * bool(drawn),
        "fine-tune": f"boxwright train --from {best} --data more_data/",
        "export (Python)": "import torch\nfrom boxwright.detectors.base import Network\n"
        "from boxwright.checkpoint import load_detector\n"
        f"detector = load_detector({str(job.best)!r}).detector\n"
        f"image = torch.zeros(1, 3, {height}, {width}), torch.tensor([[{height}, {width}]])\n"
        'torch.export.save(torch.export.export(Network(detector), image), "detector.pt2")',
    }


def train_command(job: Job, data: Path) -> str:
    """The `boxwright train` command that repeats the job: it names all that the command would choose by the data."""
    named = {"anchor_scales", "box_scale", *([] if job.pretrained else ["frozen_stages", "norm"])}
    config, size = job.cell.config, (job.cell.preprocess.short, job.cell.preprocess.long)
    words = ["boxwright", "train", job.cell.detector, "--data", str(data), "--size", *map(str, size)]
    words += _flags(config, type(config)(), named) + _flags(job.training, TrainConfig())
    words += ["--batch", str(job.batch), "--augment", job.augment, *([] if job.pretrained else ["--no-pretrained"])]
    return shlex.join(words)


def _flags(config: Any, default: Any, named: Collection[str] = ()) -> list[str]:
    """The options of a dataclass that differ from the default, and those that are to be named."""
    words = []
    for field in fields(config):
        value, flag = getattr(config, field.name), f"--{field.name.replace('_', '-')}"
        if value == getattr(default, field.name) and field.name not in named:
            continue
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def _mean(values: Sequence[float]) -> float:
    """Of the values that are known."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan
