"""`boxwright bench`: which detector to take, on your data and your machine."""

from __future__ import annotations

import math
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from boxwright.bench.plan.budget import written
from boxwright.bench.plan.cells import grid
from boxwright.bench.plan.rules import Rules
from boxwright.bench.race import race
from boxwright.bench.report.page import between, ranked
from boxwright.bench.result import Race
from boxwright.bench.run.parallel import StoppedError, open_pool, stoppable
from boxwright.bench.run.state import RaceState
from boxwright.bench.summary import check_constraints
from boxwright.cli.table import table
from boxwright.train.config import TrainConfig
from boxwright.units import digits, fraction

DETECTORS = ("ssd", "retinanet", "fcos", "faster_rcnn")


@dataclass(frozen=True)
class Bench:
    """Train detectors alike on your data, measure them side by side, and say which one to take.

    The cells of the race are all combinations of --detectors, --backbones, --sizes and --proposals. The folder gets
    report.html with everything, frontier.png and .svg, results.json and .csv, and the checkpoints. The same command
    again goes on where it was.
    """

    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """The dataset: its folder, COCO JSON or YOLO YAML."""
    detectors: Annotated[tuple[str, ...], tyro.conf.arg(metavar="DETECTOR ...")] = DETECTORS
    """Meta-architectures, of those that `boxwright train` knows."""
    backbones: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("efficientnet_lite0",)
    """Backbones; a timm model as timm:NAME."""
    sizes: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (320,)
    """The shorter side of images in pixels; the longer side is 1.3 times that at most."""
    proposals: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...", help_behavior_hint="")] = ()
    """Numbers of proposals, for detectors that have them; each one's own number if not given."""
    constraint: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="WHAT<VALUE", help_behavior_hint=""), tyro.conf.UseAppendAction
    ] = ()
    """What the winner must meet, such as "p95<30ms", "recall[cat]>0.9" or "file<20MB"; once for each."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """The folder; runs/DATA-bench if not given."""
    dry_run: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Only show the cells, and how long all will take; that takes a few steps of each."""
    images: int = 6
    """Images in the report on which the first two disagree; with 0 it has none of your data's images."""
    retry: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Try the cells again that failed before."""
    json: bool = False
    """Print results.json instead of the table."""
    rules: tyro.conf.OmitArgPrefixes[Rules] = field(default_factory=Rules)
    training: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)

    def run(self) -> int:
        """Exit status: 0 done, 1 where a cell failed, 130 stopped by Ctrl-C, 143 by SIGTERM."""
        if self.data is None:
            raise ValueError("race on which data? Name a dataset with --data")
        if self.images < 0:
            raise ValueError(f"--images is 0 or more, got {self.images}")
        cells = grid(self.detectors, self.backbones, self.sizes, self.proposals)
        race_state = RaceState(cells, self.data, self.rules, self.training, self.out)
        check_constraints(self.constraint, race_state.names)
        if self.dry_run:
            print(_estimate(race_state))
            return 1 if race_state.failed else 0
        try:
            with stoppable():
                done = race(
                    cells, self.data, self.rules, self.training, out=self.out, constraints=self.constraint,
                    images=self.images, retry=self.retry, command=shlex.join(["boxwright", *sys.argv[1:]]),
                )  # fmt: skip
        except StoppedError as stopped:
            print(f"{stopped}; the same command goes on", file=sys.stderr)
            return 128 + stopped.signal
        results = race_state.folder / "results.json"
        print(results.read_text(encoding="utf-8") if self.json else _told(done), end="")
        print(results.with_name("report.html"), file=sys.stderr)
        return 1 if any(entry.state == "failed" for entry in done.entries) else 0


def _estimate(race_state: RaceState) -> str:
    """The cells, and what they will take."""
    with open_pool(race_state.rules.parallel, race_state.rules.ray, race_state.device) as pool:
        efforts, plan = race_state.estimate(pool)
    steps = max(1, len(race_state.parts["train"]) // race_state.rules.batch)
    rows = [
        [name, digits(steps * one.step), digits(1000 * (one.image + one.propose)), digits(one.bytes / 1e6)]
        for name, one in efforts.items()
    ]
    head = ["cell", "seconds an epoch", "ms an image", "MB"]
    halved = f", halved after {' and '.join(map(str, plan.rungs))}" if plan.rungs else ""
    lines = [f"{name} would fail: {why}" for name, why in race_state.failed.items()]
    return "\n".join(
        [
            table(head, rows),
            *lines,
            f"cells: {len(efforts)}, seeds: {race_state.rules.seeds}, epochs: {plan.epochs}{halved}; "
            f"{written(plan.seconds)} at most on {race_state.settings['name']}",
        ]
    )


def _told(race: Race) -> str:
    """The table, best first, and the verdict."""
    rows = []
    for cell in ranked(race):
        entry, speed = cell.entry, cell.speed
        ap = f"{fraction(entry.quality.ap.value)} {between(entry.quality.ap)}" if entry.quality else "–"
        ap50 = fraction(entry.quality.ap50.value) if entry.quality else "–"
        times = [digits(1000 * value) for value in (speed.p50.value, speed.p95.value)] if speed else ["–", "–"]
        size = digits(math.nan if entry.file is None else entry.file / 1e6)
        rows.append([entry.name, ap, ap50, *times, size, ", ".join(cell.marks) or entry.state])
    head = ["", "AP", "AP50", "p50, ms", "p95, ms", "MB", ""]
    failed = [f"{entry.name} failed: {entry.reason}" for entry in race.entries if entry.state == "failed"]
    return "\n".join([table(head, rows), "", *race.verdict.reasons, *failed, ""])
