"""The times of all that were trained, and of guests, taken side by side: what the machine does meanwhile hits all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from boxwright.bench.lineage import sample
from boxwright.bench.plan.cells import as_folder
from boxwright.bench.run.job import save_found
from boxwright.bench.run.state import Course, said, say
from boxwright.measure.footprint import footprint
from boxwright.measure.speed import flops, parameters, stages, take_latencies, throughput
from boxwright.predict.predictor import Predictor
from boxwright.predict.program import RUNTIMES
from boxwright.zoo import load

CONTROL = "control"
"""The first cell once more, as the last one: where its times differ from its own, so may all."""

OWN = "own"
"""The runtime of a guest."""

Look = Callable[[Path], Mapping[str, float]]


def take_times(course: Course) -> None:
    """What the record does not know yet: footprints once for each cell, times for all cells of this race together."""
    for name in course.raced():
        if name not in course.record.content["footprints"]:
            course.keep("footprints", {**course.record.content["footprints"], name: _footprint(course, name)})
    for name, guest in course.guests.items():
        try:
            save_found(found_by(course, name), guest.measure(course.parts["test"]))
            course.keep("failed", {one: why for one, why in course.failed.items() if one != name})
        except Exception as error:
            course.fail(name, said(error))
    key = _key(course)
    if course.record.content["times"].get("key") == key or not key["entrants"]:
        return
    paths = sample(course.parts["test"], course.rules.timed, course.training.seed)
    predictors, broken = _predictors(course)
    looks: dict[str, Look] = {name: partial(stages, predictor) for name, predictor in predictors.items()}
    looks |= {as_key(name, OWN): course.guests[name].look for name in course.guests if name not in course.failed}
    if not looks:
        return
    first = next(iter(looks))
    latencies = take_latencies({**looks, CONTROL: looks[first]}, paths, course.rules.rounds)
    rates = throughput(predictors, paths, course.rules.batch, course.rules.rounds)
    times = {
        "key": key,
        "pictures": len(paths),
        "first": first,
        "seconds": {name: _rounded(measured) for name, measured in latencies.seconds.items()},
        "throughput": rates.rates,
        "failures": {**rates.failures, **latencies.failures, **broken},
    }
    course.keep("times", times)


def as_key(name: str, runtime: str) -> str:
    """How the record calls a cell in a runtime."""
    return f"{name} {runtime}"


def found_by(course: Course, guest: str) -> Path:
    """Where the detections of a guest are kept."""
    return course.folder / "guests" / f"{as_folder(guest)}.npz"


def _key(course: Course) -> dict[str, Any]:
    """What the times depend on; others of the same are not taken again."""
    rules = course.rules
    entrants = [*course.raced(), *(name for name in course.guests if name not in course.failed)]
    return {"entrants": entrants, "runtimes": list(rules.runtimes), "timed": rules.timed, "rounds": rules.rounds}


def _predictors(course: Course) -> tuple[dict[str, Predictor], dict[str, str]]:
    """Each cell, with the weights of its first seed, in each runtime; and those that the device has no room for."""
    predictors, broken = {}, {}
    for name in course.raced():
        for runtime in course.rules.runtimes:
            try:
                predictor = load(course.jobs(name)[0].best, course.device)
                predictor.detector = RUNTIMES[runtime](predictor.detector)
                predictors[as_key(name, runtime)] = predictor
            except Exception as error:
                broken[as_key(name, runtime)] = said(error)
    return predictors, broken


def _footprint(course: Course, name: str) -> dict[str, Any]:
    """What does not depend on who else is in the race."""
    best = course.jobs(name)[0].best
    paths = sample(course.parts["test"], course.rules.timed, course.training.seed)
    known: dict[str, Any] = {"file": best.stat().st_size}
    try:
        predictor = load(best, course.device)
        known |= {"parameters": parameters(predictor.detector), "flops": flops(predictor, paths[0])}
        known |= footprint(best, paths, course.device)._asdict()
    except Exception as error:
        say(f"{name}: not all of its footprint could be measured: {said(error)}")
    return known


def _rounded(measured: Any) -> Any:
    return [{stage: round(seconds, 7) for stage, seconds in one.items()} for one in measured]
