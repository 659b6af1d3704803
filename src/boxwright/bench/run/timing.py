"""Times of all trained cells and external models, taken in turn, so that load on the machine affects all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from boxwright import plugins
from boxwright.bench.plan.cells import as_folder
from boxwright.bench.run.job import save_detections
from boxwright.bench.run.state import RaceState, one_line
from boxwright.checkpoint import modules_of
from boxwright.data.dataset import Dataset
from boxwright.data.image import ImageError, read_reduced
from boxwright.measure.footprint import footprint
from boxwright.measure.speed import flops, parameters, stages, take_latencies, throughput
from boxwright.predict.predictor import Predictor
from boxwright.predict.program import PROGRAMS
from boxwright.terminal import say
from boxwright.zoo import load

CONTROL = "control"
"""The first cell timed again at the end: where these times differ from the first ones, all may."""

OWN = "own"
"""The runtime of an external model."""


def take_times(race_state: RaceState) -> None:
    """Measure what the record lacks: footprints once for each cell, times of all entrants together."""
    for name in race_state.raced():
        known = race_state.record.content["footprints"]
        if name not in known:
            race_state.keep("footprints", {**known, name: _footprint(race_state, name)})
    for name, external_model in race_state.external_models.items():
        try:
            save_detections(detections_of(race_state, name), external_model.measure(race_state.splits["test"]))
            race_state.keep("failed", {other: why for other, why in race_state.failed.items() if other != name})
        except Exception as error:
            race_state.fail(name, one_line(error))
    key = _key(race_state)
    if race_state.record.content["times"].get("key") == key or not key["entrants"]:
        return
    paths = sample(race_state.splits["test"], race_state.rules.timed, race_state.training.seed)
    predictors, broken = _predictors(race_state)
    models: dict[str, Callable[[Path], Mapping[str, float]]]
    models = {name: partial(stages, predictor) for name, predictor in predictors.items()}
    models |= {as_key(name, OWN): external_model.stages for name, external_model in race_state.external_models.items()
               if name not in race_state.failed}  # fmt: skip
    if not models:
        return
    first = next(iter(models))
    latencies = take_latencies({**models, CONTROL: models[first]}, paths, race_state.rules.rounds)
    rates = throughput(predictors, paths, race_state.rules.batch, race_state.rules.rounds)
    seconds = {name: [{stage: round(time, 7) for stage, time in of_image.items()} for of_image in measured]
               for name, measured in latencies.seconds.items()}  # fmt: skip
    failures = {**rates.failures, **latencies.failures, **broken}
    race_state.keep("times", {"key": key, "images": len(paths), "first": first, "seconds": seconds,
                              "throughput": rates.rates, "failures": failures})  # fmt: skip


def sample(dataset: Dataset, count: int, seed: int) -> list[Path]:
    """Images of a dataset, drawn with the seed among those that can be read; fewer where there are no more."""
    paths = []
    for index in np.random.default_rng(seed).permutation(len(dataset)).tolist():
        if len(paths) == count:
            break
        try:
            read_reduced(dataset.path(index))
        except ImageError:
            continue  # evaluation warns of it
        paths.append(dataset.path(index))
    return paths


def as_key(name: str, runtime: str) -> str:
    """The record's key for a cell in a runtime."""
    return f"{name} {runtime}"


def detections_of(race_state: RaceState, external_model: str) -> Path:
    """The file of an external model's detections on the test split, which every run of the race writes anew."""
    return race_state.folder / "external" / f"{as_folder(external_model)}.npz"


def _key(race_state: RaceState) -> dict[str, Any]:
    """The settings that the times depend on; times of the same settings are not taken again."""
    rules = race_state.rules
    entrants = [*race_state.raced(), *(name for name in race_state.external_models if name not in race_state.failed)]
    return {"entrants": entrants, "runtimes": list(rules.runtimes), "timed": rules.timed, "rounds": rules.rounds}


def _predictors(race_state: RaceState) -> tuple[dict[str, Predictor], dict[str, str]]:
    """Each cell with the weights of its first seed in each runtime, and the errors of those that cannot be loaded."""
    predictors, broken = {}, {}
    for name in race_state.raced():
        for runtime in race_state.rules.runtimes:
            try:
                predictor = load(race_state.jobs(name)[0].best, race_state.device)
                program = PROGRAMS[runtime](predictor.detector)
                predictors[as_key(name, runtime)] = predictor.with_program(program)
            except Exception as error:
                broken[as_key(name, runtime)] = one_line(error)
    return predictors, broken


def _footprint(race_state: RaceState, name: str) -> dict[str, Any]:
    """What does not depend on the other cells."""
    best = race_state.jobs(name)[0].best
    paths = sample(race_state.splits["test"], race_state.rules.timed, race_state.training.seed)
    known: dict[str, Any] = {"file": best.stat().st_size}
    try:
        predictor = load(best, race_state.device)
        known |= {"parameters": parameters(predictor.detector), "flops": flops(predictor, paths[0])}
        if plugins.of_session(modules_of(race_state.cells[name].config).values()):
            say(
                f"{name}: no memory and no time to the first boxes, which a new process measures: it cannot import "
                "what this session registered; move that into a file, and import it"
            )
        else:
            known |= footprint(best, paths, race_state.device)._asdict()
    except Exception as error:
        say(f"{name}: not all of its footprint could be measured: {one_line(error)}")
    return known
