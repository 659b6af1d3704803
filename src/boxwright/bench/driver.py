"""The race: train all cells alike, halve the field where time is short, measure the rest side by side.

The model is Huang et al. 2017, "Speed/accuracy trade-offs for modern convolutional object detectors": one data
pipeline, one evaluator, post-processing inside the time; here on the user's own data and machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from boxwright.bench.plan.cells import Cell
from boxwright.bench.plan.checks import race_folder
from boxwright.bench.plan.rules import Rules
from boxwright.bench.result import Race
from boxwright.bench.run.external import ExternalModel
from boxwright.bench.run.parallel import open_pool
from boxwright.bench.run.state import RaceState
from boxwright.bench.run.timing import take_times
from boxwright.bench.summary import check_constraints, conclude
from boxwright.data.formats import Splits, open_dataset
from boxwright.lock import hold
from boxwright.train.config import TrainConfig


def race(
    cells: Sequence[Cell | ExternalModel],
    data: str | Path | Splits,
    rules: Rules | None = None,
    training: TrainConfig | None = None,
    *,
    out: str | Path | None = None,
    constraints: Sequence[str] = (),
    report_images: int = 6,
    retry: bool = False,
    command: str = "boxwright.bench.race(...)",
) -> Race:
    """Train every cell with every seed, measure all that were not stopped early side by side, and write the report.

    cells          from `grid`, or made by hand; external models are measured, but not trained
    data           as `open_dataset` takes it, or what it returned. Epochs are chosen on "val", results are of "test"
    training       the learning rate and all else about training; its epochs are the most that a cell is trained, fewer
                   where `rules.budget` is short
    out            the folder; runs/DATA-bench if not given. Finished jobs in it are not repeated
    constraints    on the winner: "p95<30ms", "recall[cat]>0.9"; see `Constraint`
    report_images  test images in the report, on which the leader and the runner-up differ
    retry          cells that failed are tried again
    command        is named in the report

    Raises ValueError for what cannot be raced, or for a folder of another race; HeldError for the folder of a race that
    is running; OSError where the disk is, or would be, full; StoppedError on Ctrl-C or SIGTERM. Any other error makes
    its cell fail; the others continue.
    """
    training = training or TrainConfig()
    splits = data if isinstance(data, Splits) else open_dataset(data, training.seed)
    folder = race_folder(splits, out)
    with hold(folder):
        race_state = RaceState(cells, splits, rules or Rules(), training, folder, command)
        parsed = check_constraints(constraints, race_state.names)
        if retry:
            race_state.retry()
        with open_pool(race_state.rules.parallel, race_state.rules.ray, race_state.device) as pool:
            race_state.prepare(pool)
            race_state.learn(pool)
        take_times(race_state)
        return conclude(race_state, parsed, report_images)
