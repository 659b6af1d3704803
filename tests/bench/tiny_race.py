"""A race of seconds, for tests and, as a script, for a process that a test kills.

python tiny_race.py DATA FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from boxwright.bench.driver import race
from boxwright.bench.plan.budget import Plan
from boxwright.bench.plan.cells import Cell
from boxwright.bench.plan.rules import Rules
from boxwright.bench.report import write as report
from boxwright.bench.result import Race
from boxwright.bench.run import state as race_state
from boxwright.bench.run import timing
from boxwright.bench.run.external import ExternalModel
from boxwright.bench.run.job import Effort, Job
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import FasterRCNNConfig, RetinaNetConfig, SSDConfig
from boxwright.measure.footprint import Footprint
from boxwright.train.config import TrainConfig

_NET = "mobilenet_v3_small"
_FASTER = FasterRCNNConfig(_NET, channels=16, proposals=20, rpn_samples=32, region_samples=16, hidden=16)
WAYS = Preprocess(short=64, long=96)
CELLS = [
    Cell("faster", _FASTER, WAYS),
    Cell("retina", RetinaNetConfig(_NET, channels=16, depth=1), WAYS),
    Cell("retina-2", RetinaNetConfig(_NET, channels=16, depth=2), WAYS),
    Cell("ssd", SSDConfig(_NET), WAYS),
]
RULES = Rules(pretrained=False, batch=2, timed=2, rounds=2, workers=0, device="cpu")
TRAINING = TrainConfig(epochs=2, precision="fp32")
PARTS = {"train": 8, "val": 4, "test": 4}


def pace(job: Job) -> Effort:
    """As if it had been measured."""
    return Effort(step=0.1, image=0.01 * len(job.cell.name), propose=0.0, bytes=1000)


def footprint(*_: Any) -> Footprint:
    """As if it had been measured."""
    return Footprint(memory=300_000_000, device_memory=None, first=2.5)


def halved(*_: Any, **__: Any) -> Plan:
    """Two of four cells are put out after the first epoch."""
    return Plan(2, (1,), 60.0)


def patch(monkeypatch: pytest.MonkeyPatch, drawn: bool = False) -> None:
    """What takes long, or differs from run to run, made up; the report is drawn if wanted."""
    if not drawn:
        monkeypatch.setattr(report, "_draw", lambda race: ({}, {}))
    monkeypatch.setattr(race_state, "pace", pace)
    monkeypatch.setattr(timing, "footprint", footprint)
    monkeypatch.setattr(race_state, "make_plan", halved)


def run(data: Path, out: Path, cells: list[Cell | ExternalModel] | None = None, **options: Any) -> Race:
    """The tiny race; `options` are those of `race`."""
    return race(
        cells or [*CELLS], data, **{"rules": RULES, "training": TRAINING, "out": out, "report_images": 1, **options}
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        patch(monkeypatch)
        run(Path(sys.argv[1]), Path(sys.argv[2]))
