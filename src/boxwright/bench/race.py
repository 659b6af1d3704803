"""The race: train all cells alike, thin them out where time is short, measure what is left side by side.

The model is Huang et al. 2017, "Speed/accuracy trade-offs for modern convolutional object detectors": one data
pipeline, one evaluator, post-processing inside the time; here on the user's own data and machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from boxwright.bench.plan.cells import Cell
from boxwright.bench.plan.rules import Rules
from boxwright.bench.result import Race
from boxwright.bench.run.external import ExternalModel
from boxwright.bench.run.parallel import open_pool
from boxwright.bench.run.state import RaceState
from boxwright.bench.run.timing import take_times
from boxwright.bench.summary import check_constraints, conclude
from boxwright.data.formats import Splits
from boxwright.train.config import TrainConfig


def race(
    cells: Sequence[Cell | ExternalModel],
    data: str | Path | Splits,
    rules: Rules | None = None,
    training: TrainConfig | None = None,
    *,
    out: str | Path | None = None,
    constraints: Sequence[str] = (),
    images: int = 6,
    retry: bool = False,
    command: str = "boxwright.bench.race(...)",
) -> Race:
    """Train every cell with every seed, measure all that got through side by side, and write the report.

    cells        of `grid`, or made by hand; external models are measured, but not trained
    data         as `open_dataset` takes it, or what it gave. The epoch is chosen on "val", the numbers are of "test"
    training     the learning rate and all else about learning; its epochs are those of cells that get to the end,
                 where `rules.budget` leaves that many
    out          the folder; runs/DATA-bench if not given. What is there already is not done again
    constraints  what the winner must meet: "p95<30ms", "recall[cat]>0.9"; see `Constraint`
    images     in the report, on which winner and runner-up disagree
    retry        cells that failed are tried again
    command      what the report says it was made by

    Raises ValueError for what cannot be raced, or for a folder of another race; OSError where the disk is, or would
    be, full; StoppedError on Ctrl-C or SIGTERM. Whatever else goes wrong is that cell's failure.
    """
    race_state = RaceState(cells, data, rules or Rules(), training or TrainConfig(), out, command)
    wanted = check_constraints(constraints, race_state.names)
    if retry:
        race_state.retry()
    with open_pool(race_state.rules.parallel, race_state.rules.ray, race_state.device) as pool:
        race_state.prepare(pool)
        race_state.learn(pool)
    take_times(race_state)
    return conclude(race_state, wanted, images)
