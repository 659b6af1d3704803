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
from boxwright.bench.run.state import Course
from boxwright.bench.run.timing import CONTROL, OWN, as_key, found_by
from boxwright.bench.verdict import Constraint, judge
from boxwright.checkpoint import read
from boxwright.measure.evaluate import targets_of
from boxwright.measure.speed import percentile
from boxwright.metrics import evaluate, recall_precision
from boxwright.metrics.compare import Interval, ap_interval
from boxwright.train.loop import TrainConfig
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


def conclude(course: Course, constraints: Sequence[Constraint], pictures: int) -> Race:
    """The result, and its report in the race's folder."""
    entries = [_cell(course, cell) for cell in course.cells.values()]
    entries += [_guest(course, name) for name in course.guests]
    verdict = judge(entries, constraints)
    chosen = verdict.winner or verdict.nearest
    race = Race(
        title=course.data.resolve().stem,
        command=course.record.content["command"],
        made=_made(course),
        settings=_settings(course),
        differences=_differences(course),
        entries=tuple(entries),
        rungs=tuple(course.rungs),
        verdict=verdict,
        control=_control(course),
        constraints=tuple(map(str, constraints)),
        plan=_plan(course),
        commands=_commands(course, chosen) if chosen in course.cells else {},
    )
    shown = []
    if pictures and verdict.winner and verdict.runner_up:
        first, second = (_side(course, name) for name in (verdict.winner, verdict.runner_up))
        shown = show(first, second, course.parts["test"], pictures)
    write(race, course.folder, shown)
    return race


def _cell(course: Course, cell: Cell) -> Entry:
    jobs, known = course.jobs(cell.name), course.record.content["footprints"].get(cell.name, {})
    gone = {standing.name: rung for rung in course.rungs for standing in rung.standings if not standing.kept}
    state, reason = "finished", ""
    if cell.name in course.failed:
        state, reason = "failed", course.failed[cell.name]
    elif cell.name in gone:
        state, reason = "stopped", _put_out(gone[cell.name], cell.name)
    measured = state != "failed"
    return Entry(
        cell.name, cell.detector, cell.config.backbone, cell.size, cell.proposals, state, reason,
        epochs=min(job.epochs() for job in jobs),
        seconds=sum(job.seconds() for job in jobs),
        quality=_quality([load_found(job.found) for job in jobs], [_thresholds(job) for job in jobs], course)
        if measured else None,
        speed=_speeds(course, cell.name, course.rules.runtimes) if measured else {},
        failures={runtime: why for runtime in course.rules.runtimes
                  if (why := course.record.content["times"].get("failures", {}).get(as_key(cell.name, runtime)))},
        learning={job.training.seed: job.learning() for job in jobs},
        **known,
    )  # fmt: skip


def _put_out(rung: Rung, name: str) -> str:
    ((place, own),) = ((place, one) for place, one in enumerate(rung.standings, 1) if one.name == name)
    kept = sum(standing.kept for standing in rung.standings)
    return (
        f"place {place} of {len(rung.standings)} after epoch {rung.epoch}, with AP {fraction(own.ap)} on val and "
        f"{digits(1000 * own.seconds)} ms a picture; {kept} went on"
    )


def _guest(course: Course, name: str) -> Entry:
    failures = course.record.content["times"].get("failures", {})
    why = course.failed.get(name) or failures.get(as_key(name, OWN), "")
    if why:
        return Entry(name, "", "", 0, None, "failed", why)
    found = load_found(found_by(course, name))
    quality = _quality([found], [{}], course)
    return Entry(name, "", "", 0, None, "guest", quality=quality, speed=_speeds(course, name, (OWN,)))


def _quality(found: Sequence[list[Detections]], thresholds: Sequence[Mapping[str, float]], course: Course) -> Quality:
    """Of each seed its detections on the test part, and the scores from which on those of a class count."""
    test, names = course.parts["test"], course.names
    targets = targets_of(test)
    evaluated = [evaluate(one, targets, names) for one in found]
    intervals = ap_interval(found, targets, names, seed=course.training.seed)
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


def _speeds(course: Course, name: str, runtimes: Sequence[str]) -> dict[str, Speed]:
    times = course.record.content["times"]
    keys = {runtime: as_key(name, runtime) for runtime in runtimes}
    return {
        runtime: _speed(times["seconds"][key], times["pictures"], times["throughput"].get(key))
        for runtime, key in keys.items()
        if key in times.get("seconds", {})
    }


def _speed(measured: Sequence[Mapping[str, float]], pictures: int, rate: float | None) -> Speed:
    """From the stages of each look, round after round over the pictures."""
    seconds = np.array([sum(look.values()) for look in measured]).reshape(-1, pictures)
    stages = {stage: statistics.fmean(look[stage] for look in measured) for stage in measured[0]}
    return Speed(percentile(seconds, 50), percentile(seconds, 95), stages, math.nan if rate is None else rate)


def _control(course: Course) -> tuple[Interval, Interval] | None:
    times = course.record.content["times"]
    seconds, first = times.get("seconds", {}), times.get("first")
    if first not in seconds or CONTROL not in seconds:
        return None
    one, other = (_speed(seconds[key], times["pictures"], None).p50 for key in (first, CONTROL))
    return one, other


def _settings(course: Course) -> dict[str, Any]:
    """What all share, as people read it."""
    known = dict(course.settings)
    machine = {key: known.pop(key) for key in _MACHINE}
    rules = course.rules
    return {
        **known,
        "epochs": course.epochs,
        "learning rate rule": "linear warm-up, then a cosine to the end of the epochs",
        "times are of": f"{course.record.content['times'].get('pictures', 0)} pictures; counted rounds: {rules.rounds}",
        "test pictures that cannot be read": "; ".join(course.record.content["unreadable"]) or "none",
        "machine": machine,
    }


def _differences(course: Course) -> dict[str, dict[str, Any]]:
    """What a cell has that is not the same in all of them, the size of its pictures first."""
    own = differences({name: cell.config for name, cell in course.cells.items()})
    ways = differences({name: cell.preprocess for name, cell in course.cells.items()})
    return {name: {"detector": cell.detector, **ways[name], **own[name]} for name, cell in course.cells.items()}


def _plan(course: Course) -> tuple[str, ...]:
    plan = course.plan
    assert plan is not None
    rungs = f"halved after epoch {' and '.join(map(str, plan.rungs))}" if plan.rungs else "nobody put out on the way"
    budget = f", within a budget of {course.rules.budget}" if course.rules.budget else ""
    return (
        f"planned: {plan.epochs} epochs, {rungs}, {written(plan.seconds)} at most{budget}",
        f"taken: {written(course.spent)}",
    )


def _made(course: Course) -> str:
    """The day the times were taken, which stays when the report is written again."""
    day = course.record.content["made"] or date.today().isoformat()
    if not course.record.content["made"]:
        course.keep("made", day)
    return f"{day}, boxwright {__version__}"


def _side(course: Course, name: str) -> Side:
    if name in course.guests:
        return Side(name, load_found(found_by(course, name)), [0.5] * len(course.names))
    job = course.jobs(name)[0]
    thresholds = _thresholds(job)
    return Side(name, load_found(job.found), [thresholds.get(one, math.nan) for one in course.names])


def _commands(course: Course, name: str) -> dict[str, str]:
    """What one does with a cell."""
    jobs = course.jobs(name)
    job = max(jobs, key=lambda job: job.ap())
    drawn = course.splits.made  # then the seed says which pictures are in which part, too
    data, best = shlex.quote(str(course.data)), shlex.quote(str(job.best))
    height, width = job.cell.preprocess.canvas([job.cell.preprocess.size(course.parts["test"].size(0))])
    return {
        "train it again": train_command(jobs[0] if drawn else job, course.data),
        "detect": f"boxwright detect photo.jpg --model {best}",
        "score": f"boxwright evaluate {best} --data {data}" + f" --seed {course.training.seed}" * drawn,
        "fine-tune": f"boxwright train --from {best} --data more_data/",
        "export (Python)": "\n".join(
            [
                "import torch",
                "from boxwright.detectors.base import Network",
                "from boxwright.checkpoint import load_detector",
                f"detector = load_detector({str(job.best)!r}).detector",
                f"picture = torch.zeros(1, 3, {height}, {width}), torch.tensor([[{height}, {width}]])",
                'torch.export.save(torch.export.export(Network(detector), picture), "detector.pt2")',
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
