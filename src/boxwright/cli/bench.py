"""`boxwright bench`: which detector to take, on your data and your machine."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from boxwright.bench.plan.rules import Rules
from boxwright.cli.arguments import (
    DataFormat,
    MaxMegapixels,
    check_at_least,
    check_detectors,
    check_folder,
    dataset_path,
)
from boxwright.cli.table import table
from boxwright.terminal import say, terminal_width, wrap
from boxwright.train.config import TrainConfig
from boxwright.units import between, digits, fraction

if TYPE_CHECKING:
    from boxwright.bench.result import Race
    from boxwright.bench.run.state import RaceState

DETECTORS = ("ssd", "retinanet", "fcos", "faster_rcnn")


@dataclass(frozen=True)
class Bench:
    """Train detectors alike on your data, measure them side by side, and tell which one to take.

    The cells of the race are all combinations of --detectors, --backbones, --sizes and --proposals. The folder gets
    report.html with all results, frontier.png and .svg, results.json and .csv, and the checkpoints. A race that was
    stopped continues with the same command.
    """

    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """The dataset: its folder, COCO JSON, YOLO YAML or CSV."""
    format: DataFormat = None
    max_megapixels: MaxMegapixels = None
    detectors: Annotated[tuple[str, ...], tyro.conf.arg(metavar="DETECTOR ...")] = DETECTORS
    """Meta-architectures, of those that `boxwright train` offers."""
    backbones: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("efficientnet_lite0",)
    """Backbones; a timm model as timm:NAME."""
    sizes: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (320,)
    """The shorter side of images in pixels; the longer side is at most 1.3 times that."""
    proposals: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...", help_behavior_hint="")] = ()
    """Numbers of proposals, for detectors that have them; the default of each detector if not given."""
    constraint: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="WHAT<VALUE", help_behavior_hint=""), tyro.conf.UseAppendAction
    ] = ()
    """What the winner must meet, such as "p95<30ms" (95 % of the images take less), "recall[cat]>0.9" or "file<20MB";
    can be repeated. The median time of an image is p50."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """The folder; runs/DATA-bench if not given."""
    dry_run: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Only list the cells and estimate the time, from a few steps of each."""
    report_images: int = 6
    """Test images in the report on which the first two cells differ; with 0 it contains none of your images."""
    retry: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Try cells again that failed before."""
    json: bool = False
    """Print results.json instead of the table."""
    rules: tyro.conf.OmitArgPrefixes[Rules] = field(default_factory=Rules)
    training: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)

    def run(self) -> int:
        """Exit status: 0 done, 1 where a cell failed, 130 stopped by Ctrl-C, 143 by SIGTERM."""
        data = dataset_path(self.data)
        check_detectors(self.detectors)
        check_at_least(0, report_images=self.report_images)
        check_folder("--out", self.out)
        from boxwright.bench.plan.cells import grid
        from boxwright.bench.verdict import Constraint

        for constraint in self.constraint:
            Constraint.parse(constraint)
        cells = grid(self.detectors, self.backbones, self.sizes, self.proposals)
        from boxwright.bench.driver import race
        from boxwright.bench.run.state import RaceState
        from boxwright.bench.summary import check_constraints
        from boxwright.data.formats import open_dataset
        from boxwright.train.stop import StoppedError, stoppable

        splits = open_dataset(data, self.training.seed, self.format)
        race_state = RaceState(cells, splits, self.rules, self.training, self.out)
        check_constraints(self.constraint, race_state.names)
        if self.dry_run:
            print(_estimate(race_state, self.constraint))
            return 1 if race_state.failed else 0
        try:
            with stoppable():
                result = race(
                    cells, splits, self.rules, self.training, out=self.out, constraints=self.constraint,
                    report_images=self.report_images, retry=self.retry,
                    command=shlex.join(["boxwright", *sys.argv[1:]]),
                )  # fmt: skip
        except StoppedError as stopped:
            say(f"{stopped}; the same command continues")
            return 128 + stopped.signal
        except OSError as error:
            error.add_note("what the race has done is kept; the same command continues")
            raise
        results = race_state.folder / "results.json"
        print(results.read_text(encoding="utf-8") if self.json else _summary(result), end="")
        say(str(results.with_name("report.html")))
        return 1 if any(entry.state == "failed" for entry in result.entries) else 0


def _estimate(race_state: RaceState, constraints: Sequence[str]) -> str:
    """The cells, how long they will take, what the winner must meet, and what evidence will be missing for one."""
    from boxwright.bench.plan.budget import duration
    from boxwright.bench.run.parallel import open_pool
    from boxwright.bench.run.state import by_reason
    from boxwright.bench.verdict import too_little_evidence

    with open_pool(race_state.rules.parallel, race_state.rules.ray, race_state.device) as pool:
        efforts, plan = race_state.estimate(pool)
    steps = max(1, len(race_state.splits["train"]) // race_state.rules.batch)
    rows = [
        [name, digits(steps * effort.step), digits(1000 * (effort.image + effort.propose)), digits(effort.bytes / 1e6)]
        for name, effort in efforts.items()
    ]
    objects, seeds = int((~race_state.splits["test"].crowd).sum()), race_state.rules.seeds
    halved = f", halved after {' and '.join(map(str, plan.rungs))}" if plan.rungs else ""
    width = terminal_width()
    lines = [
        *(f"{names} would fail: {reason}" for names, reason in by_reason(race_state.failed).items()),
        f"cells: {len(efforts)}, seeds: {seeds}, epochs: {plan.epochs}{halved}; {duration(plan.seconds)} at most "
        f"on {race_state.settings['name']}",
        *_must_meet(constraints),
        *_warning(too_little_evidence(objects, seeds, plan.epochs, math.nan)),
    ]
    cells = table(["cell", "seconds an epoch", "ms an image", "MB"], rows, width)
    return "\n".join([cells, *(wrap(line, width) for line in lines)])


def _summary(race: Race) -> str:
    """The table, best first, the differences in AP, and the verdict, in the columns of the terminal."""
    from boxwright.bench.report.page import ranked, references
    from boxwright.bench.run.state import by_reason
    from boxwright.bench.verdict import write_difference

    width, ranks = terminal_width(), ranked(race)
    shared = _shared_backbone(race) if width else ""
    names = {entry.name: entry.name.replace(f"-{shared}-", "-", 1) if shared else entry.name for entry in race.entries}
    rows = []
    for row in ranks:
        entry, speed, quality = row.entry, row.speed, row.entry.quality
        ap = [fraction(quality.ap.value), between(quality.ap.low, quality.ap.high)] if quality else ["–", ""]
        ap50 = fraction(quality.ap50.value) if quality else "–"
        times = [digits(1000 * value) for value in (speed.p50.value, speed.p95.value)] if speed else ["–", "–"]
        size = digits(math.nan if entry.file is None else entry.file / 1e6)
        star = "*" if "frontier" in row.marks else ""
        marks = ", ".join(mark for mark in row.marks if mark != "frontier") or entry.state * (not star)
        rows.append([names[entry.name], *ap, ap50, *times, size, star, marks])
    head = ["cell", "AP", "95 %", "AP50", "p50, ms", "p95, ms", "MB", "", ""]
    spare = ("MB", "AP50", "p95, ms", "95 %")
    results = table(head, rows, width, spare)
    notes = ["* no other is both faster and better."] if race.verdict.frontier else []
    notes += [f"Backbone of all: {shared}."] if shared else []
    left_out = [column for column in spare if column not in results.partition("\n")[0]]
    notes += [f"{', '.join(left_out)}: in report.html."] if left_out else []
    lines = [results, *([wrap(" ".join(notes), width)] if notes else []), ""]
    columns = references(race)
    compared = [row.entry.name for row in ranks if row.entry.name in race.verdict.to_best]
    if len(compared) > 1:
        heads = (column.role if width else f"{column.name}, {column.role}" for column in columns)
        head = ["difference in AP", *(f"to {name}" for name in heads)]
        rows = [
            [names[name],
             *("–" if name == column.name else write_difference(column.differences[name]) for column in columns)]
            for name in compared
        ]  # fmt: skip
        lines += [table(head, rows, width), ""]
    failed = {entry.name: entry.reason for entry in race.entries if entry.state == "failed"}
    sentences = [*_warning(race.verdict.too_little_evidence), *race.verdict.reasons,
                 *(f"{alike} failed: {reason}" for alike, reason in by_reason(failed).items())]  # fmt: skip
    return "\n".join([*lines, *(wrap(sentence, width) for sentence in sentences), ""])


def _shared_backbone(race: Race) -> str:
    """The backbone of all cells, as it is in their names; nothing where there are several."""
    from boxwright.bench.plan.cells import as_folder

    backbones = {as_folder(entry.backbone) for entry in race.entries if entry.backbone}
    return backbones.pop() if len(backbones) == 1 else ""


def _must_meet(constraints: Sequence[str]) -> list[str]:
    if not constraints:
        return []
    means = "; the ms an image above are means of a few images, neither p50 nor p95"
    return [f"the winner must meet {' and '.join(constraints)}, as the race measures it{means}"]


def _warning(lacking: tuple[str, ...]) -> list[str]:
    return [f"Too little evidence for a winner: {', '.join(lacking)}."] if lacking else []
