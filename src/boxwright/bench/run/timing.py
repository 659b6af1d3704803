"""Times of all trained cells and external models, taken in turn, so that load on the machine affects all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.bench.plan.cells import as_folder
from boxwright.bench.run.job import save_found
from boxwright.bench.run.state import RaceState, said
from boxwright.data.dataset import Dataset
from boxwright.data.image import ImageError, read_image
from boxwright.measure.footprint import footprint
from boxwright.measure.speed import flops, parameters, stages, take_latencies, throughput
from boxwright.predict.predictor import Predictor
from boxwright.predict.program import PROGRAMS
from boxwright.progress import say
from boxwright.zoo import load

CONTROL = "control"
"""The first cell once more, as the last one: where its times differ from its own, so may all."""

OWN = "own"
"""The runtime of an external model."""

Look = Callable[[Path], Mapping[str, float]]


def take_times(race_state: RaceState) -> None:
    """What the record does not know yet: footprints once for each cell, times for all cells of this race together."""
    for name in race_state.raced():
        if name not in race_state.record.content["footprints"]:
            race_state.keep(
                "footprints", {**race_state.record.content["footprints"], name: _footprint(race_state, name)}
            )
    for name, external_model in race_state.external_models.items():
        try:
            save_found(found_by(race_state, name), external_model.measure(race_state.parts["test"]))
            race_state.keep("failed", {one: why for one, why in race_state.failed.items() if one != name})
        except Exception as error:
            race_state.fail(name, said(error))
    key = _key(race_state)
    if race_state.record.content["times"].get("key") == key or not key["entrants"]:
        return
    paths = sample(race_state.parts["test"], race_state.rules.timed, race_state.training.seed)
    predictors, broken = _predictors(race_state)
    looks: dict[str, Look] = {name: partial(stages, predictor) for name, predictor in predictors.items()}
    looks |= {
        as_key(name, OWN): race_state.external_models[name].look
        for name in race_state.external_models
        if name not in race_state.failed
    }
    if not looks:
        return
    first = next(iter(looks))
    latencies = take_latencies({**looks, CONTROL: looks[first]}, paths, race_state.rules.rounds)
    rates = throughput(predictors, paths, race_state.rules.batch, race_state.rules.rounds)
    times = {
        "key": key,
        "images": len(paths),
        "first": first,
        "seconds": {name: _rounded(measured) for name, measured in latencies.seconds.items()},
        "throughput": rates.rates,
        "failures": {**rates.failures, **latencies.failures, **broken},
    }
    race_state.keep("times", times)


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


def as_key(name: str, runtime: str) -> str:
    """How the record calls a cell in a runtime."""
    return f"{name} {runtime}"


def found_by(race_state: RaceState, external_model: str) -> Path:
    """Where the detections of an external model are kept."""
    return race_state.folder / "guests" / f"{as_folder(external_model)}.npz"


def _key(race_state: RaceState) -> dict[str, Any]:
    """What the times depend on; others of the same are not taken again."""
    rules = race_state.rules
    entrants = [*race_state.raced(), *(name for name in race_state.external_models if name not in race_state.failed)]
    return {"entrants": entrants, "runtimes": list(rules.runtimes), "timed": rules.timed, "rounds": rules.rounds}


def _predictors(race_state: RaceState) -> tuple[dict[str, Predictor], dict[str, str]]:
    """Each cell, with the weights of its first seed, in each runtime; and those that the device has no room for."""
    predictors, broken = {}, {}
    for name in race_state.raced():
        for runtime in race_state.rules.runtimes:
            try:
                predictor = load(race_state.jobs(name)[0].best, race_state.device)
                program = PROGRAMS[runtime](predictor.detector)
                predictors[as_key(name, runtime)] = predictor.with_program(program)
            except Exception as error:
                broken[as_key(name, runtime)] = said(error)
    return predictors, broken


def _footprint(race_state: RaceState, name: str) -> dict[str, Any]:
    """What does not depend on who else is in the race."""
    best = race_state.jobs(name)[0].best
    paths = sample(race_state.parts["test"], race_state.rules.timed, race_state.training.seed)
    known: dict[str, Any] = {"file": best.stat().st_size}
    try:
        predictor = load(best, race_state.device)
        known |= {"parameters": parameters(predictor.detector), "flops": flops(predictor, paths[0])}
        known |= footprint(best, paths, race_state.device)._asdict()
    except Exception as error:
        say(f"{name}: not all of its footprint could be measured: {said(error)}")
    return known


def _rounded(measured: Any) -> Any:
    return [{stage: round(seconds, 7) for stage, seconds in one.items()} for one in measured]
