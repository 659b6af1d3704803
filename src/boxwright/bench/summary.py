"""From the record of a race to its result: an entry for each cell, the verdict, the commands for the winner."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.bench.lineage import differences
from boxwright.bench.plan.budget import written
from boxwright.bench.plan.cells import Cell
from boxwright.bench.report.disagreements import Side, show
from boxwright.bench.report.write import write
from boxwright.bench.result import ClassQuality, Entry, Quality, Race, Rung, Speed
from boxwright.bench.run.job import Job, load_found
from boxwright.bench.run.state import RaceState
from boxwright.bench.run.timing import CONTROL, OWN, as_key, found_by
from boxwright.bench.verdict import Constraint, judge
from boxwright.checkpoint import read
from boxwright.measure.evaluate import targets_of
from boxwright.measure.speed import percentile
from boxwright.metrics import evaluate, recall_precision
from boxwright.metrics.compare import Interval, ap_interval
from boxwright.train.config import TrainConfig
from boxwright.types import Detections
from boxwright.units import digits, fraction
from boxwright.version import __version__

_MACHINE = ("device", "name", "cores", "threads", "python", "torch")


def check_constraints(texts: Sequence[str], names: Sequence[str]) -> list[Constraint]:
    """As `Constraint.parse`, for data of these classes."""
    constraints = [Constraint.parse(text) for text in texts]
    for constraint in constraints:
        constraint.check(names)
    return constraints


def conclude(race_state: RaceState, constraints: Sequence[Constraint], images: int) -> Race:
    """The result, and its report in the race's folder."""
    entries = [_cell(race_state, cell) for cell in race_state.cells.values()]
    entries += [_guest(race_state, name) for name in race_state.external_models]
    verdict = judge(entries, constraints)
    chosen = verdict.winner or verdict.nearest
    race = Race(
        title=race_state.data.resolve().stem,
        command=race_state.record.content["command"],
        made=_made(race_state),
        settings=_settings(race_state),
        differences=_differences(race_state),
        entries=tuple(entries),
        rungs=tuple(race_state.rungs),
        verdict=verdict,
        control=_control(race_state),
        constraints=tuple(map(str, constraints)),
        plan=_plan(race_state),
        commands=_commands(race_state, chosen) if chosen in race_state.cells else {},
    )
    shown = []
    if images and verdict.winner and verdict.runner_up:
        first, second = (_side(race_state, name) for name in (verdict.winner, verdict.runner_up))
        shown = show(first, second, race_state.parts["test"], images)
    write(race, race_state.folder, shown)
    return race


def _cell(race_state: RaceState, cell: Cell) -> Entry:
    jobs, known = race_state.jobs(cell.name), race_state.record.content["footprints"].get(cell.name, {})
    gone = {standing.name: rung for rung in race_state.rungs for standing in rung.standings if not standing.kept}
    state, reason = "finished", ""
    if cell.name in race_state.failed:
        state, reason = "failed", race_state.failed[cell.name]
    elif cell.name in gone:
        state, reason = "stopped", _put_out(gone[cell.name], cell.name)
    measured = state != "failed"
    return Entry(
        cell.name, cell.detector, cell.config.backbone, cell.size, cell.proposals, state, reason,
        epochs=min(job.epochs() for job in jobs),
        seconds=sum(job.seconds() for job in jobs),
        quality=_quality([load_found(job.found) for job in jobs], [_thresholds(job) for job in jobs], race_state)
        if measured else None,
        speed=_speeds(race_state, cell.name, race_state.rules.runtimes) if measured else {},
        failures={runtime: why for runtime in race_state.rules.runtimes
                  if (why := race_state.record.content["times"].get("failures", {}).get(as_key(cell.name, runtime)))},
        learning={job.training.seed: job.learning() for job in jobs},
        **known,
    )  # fmt: skip


def _put_out(rung: Rung, name: str) -> str:
    ((place, own),) = ((place, one) for place, one in enumerate(rung.standings, 1) if one.name == name)
    kept = sum(standing.kept for standing in rung.standings)
    return (
        f"place {place} of {len(rung.standings)} after epoch {rung.epoch}, with AP {fraction(own.ap)} on val and "
        f"{digits(1000 * own.seconds)} ms an image; {kept} went on"
    )


def _guest(race_state: RaceState, name: str) -> Entry:
    failures = race_state.record.content["times"].get("failures", {})
    why = race_state.failed.get(name) or failures.get(as_key(name, OWN), "")
    if why:
        return Entry(name, "", "", 0, None, "failed", why)
    found = load_found(found_by(race_state, name))
    quality = _quality([found], [{}], race_state)
    return Entry(name, "", "", 0, None, "guest", quality=quality, speed=_speeds(race_state, name, (OWN,)))


def _quality(
    found: Sequence[list[Detections]], thresholds: Sequence[Mapping[str, float]], race_state: RaceState
) -> Quality:
    """Of each seed its detections on the test part, and the scores from which on those of a class count."""
    test, names = race_state.parts["test"], race_state.names
    targets = targets_of(test)
    evaluated = [evaluate(one, targets, names) for one in found]
    intervals = ap_interval(found, targets, names, seed=race_state.training.seed)
    sizes = {size: _mean([getattr(one, f"ap_{size}") for one in evaluated]) for size in ("small", "medium", "large")}
    at = [{name: scores.get(name, math.nan) for name in names} for scores in thresholds]
    counted = [recall_precision(one, targets, names, scores) for one, scores in zip(found, at, strict=True)]
    classes = {
        name: ClassQuality(
            objects=evaluated[0].classes[name].objects,
            ap=_mean([one.classes[name].ap for one in evaluated]),
            ap50=_mean([one.classes[name].ap50 for one in evaluated]),
            recall=_mean([one[name].recall for one in counted]),
            precision=_mean([one[name].precision for one in counted]),
            threshold=_mean([scores[name] for scores in at]),
        )
        for name in names
    }
    return Quality(intervals.ap, intervals.ap50, tuple(one.ap for one in evaluated), sizes, classes)


def _thresholds(job: Job) -> dict[str, float]:
    """The score of each class where F1 was best on val, in the best epoch; none for a class not found there."""
    _, described = read(job.best)
    return described.get("thresholds", {})


def _speeds(race_state: RaceState, name: str, runtimes: Sequence[str]) -> dict[str, Speed]:
    times = race_state.record.content["times"]
    keys = {runtime: as_key(name, runtime) for runtime in runtimes}
    return {
        runtime: _speed(times["seconds"][key], times["images"], times["throughput"].get(key))
        for runtime, key in keys.items()
        if key in times.get("seconds", {})
    }


def _speed(measured: Sequence[Mapping[str, float]], images: int, rate: float | None) -> Speed:
    """From the stages of each look, round after round over the images."""
    seconds = np.array([sum(look.values()) for look in measured]).reshape(-1, images)
    stages = {stage: statistics.fmean(look[stage] for look in measured) for stage in measured[0]}
    return Speed(percentile(seconds, 50), percentile(seconds, 95), stages, math.nan if rate is None else rate)


def _control(race_state: RaceState) -> tuple[Interval, Interval] | None:
    times = race_state.record.content["times"]
    seconds, first = times.get("seconds", {}), times.get("first")
    if first not in seconds or CONTROL not in seconds:
        return None
    one, other = (_speed(seconds[key], times["images"], None).p50 for key in (first, CONTROL))
    return one, other


def _settings(race_state: RaceState) -> dict[str, Any]:
    """What all share, as people read it."""
    known = dict(race_state.settings)
    machine = {key: known.pop(key) for key in _MACHINE}
    rules = race_state.rules
    return {
        **known,
        "epochs": race_state.epochs,
        "learning rate rule": "linear warm-up, then a cosine to the end of the epochs",
        "times are of": f"{race_state.record.content['times'].get('images', 0)} images; counted rounds: {rules.rounds}",
        "test images that cannot be read": "; ".join(race_state.record.content["unreadable"]) or "none",
        "machine": machine,
    }


def _differences(race_state: RaceState) -> dict[str, dict[str, Any]]:
    """What a cell has that is not the same in all of them, the size of its images first."""
    own = differences({name: cell.config for name, cell in race_state.cells.items()})
    ways = differences({name: cell.preprocess for name, cell in race_state.cells.items()})
    return {name: {"detector": cell.detector, **ways[name], **own[name]} for name, cell in race_state.cells.items()}


def _plan(race_state: RaceState) -> tuple[str, ...]:
    plan = race_state.plan
    assert plan is not None
    rungs = f"halved after epoch {' and '.join(map(str, plan.rungs))}" if plan.rungs else "nobody put out on the way"
    budget = f", within a budget of {race_state.rules.budget}" if race_state.rules.budget else ""
    return (
        f"planned: {plan.epochs} epochs, {rungs}, {written(plan.seconds)} at most{budget}",
        f"taken: {written(race_state.spent)}",
    )


def _made(race_state: RaceState) -> str:
    """The day the times were taken, which stays when the report is written again."""
    day = race_state.record.content["made"] or date.today().isoformat()
    if not race_state.record.content["made"]:
        race_state.keep("made", day)
    return f"{day}, boxwright {__version__}"


def _side(race_state: RaceState, name: str) -> Side:
    if name in race_state.external_models:
        return Side(name, load_found(found_by(race_state, name)), [0.5] * len(race_state.names))
    job = race_state.jobs(name)[0]
    thresholds = _thresholds(job)
    return Side(name, load_found(job.found), [thresholds.get(one, math.nan) for one in race_state.names])


def _commands(race_state: RaceState, name: str) -> dict[str, str]:
    """What one does with a cell."""
    jobs = race_state.jobs(name)
    job = max(jobs, key=lambda job: job.ap())
    drawn = race_state.splits.drawn  # then the seed says which images are in which part, too
    data, best = shlex.quote(str(race_state.data)), shlex.quote(str(job.best))
    height, width = job.cell.preprocess.canvas([job.cell.preprocess.size(race_state.parts["test"].size(0))])
    return {
        "train it again": train_command(jobs[0] if drawn else job, race_state.data),
        "detect": f"boxwright detect photo.jpg --model {best}",
        "score": f"boxwright evaluate {best} --data {data}" + f" --seed {race_state.training.seed}" * drawn,
        "fine-tune": f"boxwright train --from {best} --data more_data/",
        "export (Python)": "\n".join(
            [
                "import torch",
                "from boxwright.detectors.base import Network",
                "from boxwright.checkpoint import load_detector",
                f"detector = load_detector({str(job.best)!r}).detector",
                f"image = torch.zeros(1, 3, {height}, {width}), torch.tensor([[{height}, {width}]])",
                'torch.export.save(torch.export.export(Network(detector), image), "detector.pt2")',
            ]
        ),
    }


def train_command(job: Job, data: Path) -> str:
    """The `boxwright train` that does what the job did."""
    config, training = job.cell.config, job.training
    size = (job.cell.preprocess.short, job.cell.preprocess.long)
    words = ["boxwright", "train", job.cell.detector, "--data", str(data), "--size", *map(str, size)]
    words += _flags(config, type(config)()) + _flags(training, TrainConfig())
    words += ["--batch", str(job.batch), "--augment", job.augment, *([] if job.pretrained else ["--no-pretrained"])]
    return shlex.join(words)


def _flags(config: Any, usual: Any) -> list[str]:
    """Options of a dataclass that are not as usual."""
    words = []
    for field in fields(config):
        value, flag = getattr(config, field.name), f"--{field.name.replace('_', '-')}"
        if value == getattr(usual, field.name):
            continue
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def _mean(values: Sequence[float]) -> float:
    """Of those that are known."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan
