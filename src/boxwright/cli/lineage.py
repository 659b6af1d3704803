"""`boxwright lineage`: what each idea from R-CNN to a single stage was worth, measured anew on your own images.

It is a race without a budget, of one seed, shown as a table of what each detector costs.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from boxwright.bench.plan.cells import Cell, configure, differences
from boxwright.bench.plan.rules import Rules
from boxwright.bench.race import race
from boxwright.bench.report.lineage import Cost, draw_costs, quartiles_of
from boxwright.bench.result import Entry, Race
from boxwright.bench.run.state import RaceState
from boxwright.cli.table import table
from boxwright.data.dataset import Dataset
from boxwright.data.formats import Splits, open_dataset
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import DETECTORS
from boxwright.progress import say
from boxwright.train.config import TrainConfig
from boxwright.train.stop import StoppedError, stoppable
from boxwright.units import Unit, digits, fraction

STEPS = ("rcnn", "spp_net", "fast_rcnn", "faster_rcnn", "retinanet")


@dataclass(frozen=True)
class Lineage:
    """Train the detectors from R-CNN to a single stage alike, and compare what they cost and how good they are.

    The folder is that of a race, see `boxwright bench`, with lineage.png and lineage.svg besides. The same command
    again goes on where it was, and tries again what failed.
    """

    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """The dataset: its folder, COCO JSON or YOLO YAML."""
    steps: Annotated[tuple[str, ...], tyro.conf.arg(metavar="DETECTOR ...")] = STEPS
    """The detectors; the others are compared to the first."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """The folder; runs/DATA-lineage if not given."""
    backbone: str = "efficientnet_lite0"
    """The backbone of all of them."""
    images: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Train on so many of the training images, drawn with the seed; on all if not given."""
    test_images: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Measure AP on so many of the test images, drawn with the seed; on all if not given."""
    proposer: str = "selective_search"
    """Proposals of the detectors that take them from outside: selective_search, sliding_window, or a file of them."""
    proposals: int = 300
    """Proposals an image, from outside as from a region proposal network. The papers had 2000 and 300."""
    region_samples: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Proposals an image to train on; each detector's own number if not given, which is smaller for R-CNN."""
    size: tuple[int, int] = (320, 416)
    """The image as the detectors get it, in pixels: its shorter side, and what its longer side may reach at most."""
    json: bool = False
    """Print results.json instead of the table."""
    rules: tyro.conf.OmitArgPrefixes[Rules] = field(default_factory=lambda: Rules(seeds=1, timed=10))
    training: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)

    def run(self) -> int:
        """Exit status: 0 done, 1 where a step failed (the others are done), 130 stopped by Ctrl-C, 143 by SIGTERM."""
        if self.data is None:
            raise ValueError("measure on which data? Name a dataset with --data")
        cells, splits = self._cells(), self._splits(self.data)
        folder = self.out or Path("runs") / f"{self.data.resolve().stem}-lineage"
        state = RaceState(cells, splits, self.rules, self.training, folder)
        for cell in cells:
            cell.config.build(len(state.names))  # a mistake in the options is to be told before the work
        say(self._introduction(state))
        try:
            with stoppable():
                done = race(
                    cells, splits, self.rules, self.training, out=folder, report_images=0, retry=True,
                    command=shlex.join(["boxwright", *sys.argv[1:]]),
                )  # fmt: skip
        except StoppedError as stopped:
            say(f"{stopped}; the same command goes on")
            return 128 + stopped.signal
        entries = [entry for name in self.steps for entry in done.entries if entry.name == name]
        print((folder / "results.json").read_text(encoding="utf-8") if self.json else lineage_table(done, entries))
        self._draw(entries, folder, self._caption(done.settings, done.settings["machine"]))
        return 1 if any(entry.state == "failed" for entry in entries) else 0

    def _cells(self) -> list[Cell]:
        unknown = [name for name in self.steps if name not in DETECTORS]
        if unknown or not self.steps or len(set(self.steps)) < len(self.steps):
            raise ValueError(f"--steps takes different ones of {', '.join(DETECTORS)}; got {' '.join(self.steps)}")
        for name in ("images", "test_images", "proposals", "region_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} is 1 or more, got {value}")
        options: dict[str, Any] = {"backbone": self.backbone, "proposer": self.proposer, "proposals": self.proposals}
        if self.region_samples is not None:
            options["region_samples"] = self.region_samples
        preprocess = Preprocess(short=self.size[0], long=self.size[1])
        return [Cell(name, configure(name, **options), preprocess) for name in self.steps]

    def _splits(self, data: Path) -> Splits:
        splits = open_dataset(data, self.training.seed)
        test = "test" if "test" in splits else "val"
        for split, count, option in (("train", self.images, "--images"), (test, self.test_images, "--test-images")):
            if count is not None:
                if count > len(splits[split]):
                    raise ValueError(f"{option} asks for {count} images; the {split} split has {len(splits[split])}")
                splits[split] = subset(splits[split], count, self.training.seed)
        return splits

    def _introduction(self, state: RaceState) -> str:
        """What all share, and each setting that they do not."""
        lines = [f"the same for all: {self._caption(state.settings, state.settings)}"]
        for name, own in differences({name: cell.config for name, cell in state.cells.items()}).items():
            lines.append(f"  {name}: " + ", ".join(f"{key} {_plain(value)}" for key, value in own.items()))
        done = state.raced()
        return "\n".join([*lines, *([f"finished before: {', '.join(done)}"] if done else []), f"{state.folder}/"])

    def _caption(self, settings: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
        """What the numbers hold for, in a line."""
        return " · ".join(
            [
                f"{self.backbone}, {self.size[0]} to {self.size[1]} pixels",
                f"{settings['train images']} training and {settings['test images']} test images",
                f"{settings['epochs']} epoch{'s' * (settings['epochs'] > 1)}, {self.proposals} proposals",
                f"{machine['name']}, network on {machine['threads']} of {machine['cores']} cores, proposals on 1",
            ]
        )

    def _draw(self, entries: Sequence[Entry], folder: Path, caption: str) -> None:
        """lineage.png and lineage.svg, where matplotlib is installed."""
        costs = [Cost.of(entry) for entry in entries]
        title = f"{costs[0].name} to {costs[-1].name} on {self.data.stem if self.data else ''}"
        try:
            for suffix in ("png", "svg"):
                draw_costs(costs, folder / f"lineage.{suffix}", title, caption)
        except ImportError as error:
            say(f"no image: {error}")
        else:
            say(f"written: {folder / 'lineage'}.png, .svg; {folder / 'report.html'}")


def lineage_table(race: Race, entries: Sequence[Entry]) -> str:
    """What each step takes, how good it is, and how many times as fast it is as the first one that is finished."""
    costs = [Cost.of(entry) for entry in entries]
    hours, seconds = Unit.of(cost.training for cost in costs), Unit.of(cost.whole for cost in costs)
    head = ["", f"training, {hours.name}", "milliseconds an image", f"test, {seconds.name} an image", "proposals",
            "network", "quartiles", "AP", "AP50"]  # fmt: skip
    rows, ratios = [], []
    first = next((cost for cost in costs if math.isfinite(cost.training)), costs[0])
    for entry, cost in zip(entries, costs, strict=True):
        network = quartiles_of(entry, "network")
        times = [seconds.write(time) for time in (cost.whole, cost.proposals, cost.network)]
        between = "–".join(seconds.write(time) for time in network[1:]) if math.isfinite(network.median) else "–"
        per_image = 1000 * cost.training / max(1, entry.epochs * _images_of_an_epoch(race))
        rows.append([cost.name, hours.write(cost.training), digits(per_image), *times, between,
                     fraction(cost.ap), fraction(cost.ap50)])  # fmt: skip
        ratios.append([cost.name, *(digits(getattr(first, part) / getattr(cost, part))
                                    for part in ("training", "whole", "network"))])  # fmt: skip
    compared = [f"times as fast as {first.name}", "training", "test", "test without proposals"]
    lines = [table(head, rows), "", table(compared, ratios), ""]
    lines += [_ahead(of["train"], race.settings["machine"]["cores"]) for of in race.proposals.values()]
    lines += [f"{entry.name} failed: {entry.reason}" for entry in entries if entry.state == "failed"]
    return "\n".join(lines).rstrip()


def subset(dataset: Dataset, count: int, seed: int) -> Dataset:
    """So many images drawn with the seed, in the dataset's order. More of them hold fewer of the same seed."""
    return dataset.select(np.sort(np.random.default_rng(seed).permutation(len(dataset))[:count]))


def _images_of_an_epoch(race: Race) -> int:
    """Whole batches of the training images; all of them where they do not fill one."""
    images, batch = race.settings["train images"], race.settings["batch"]
    return images // batch * batch or images


def _ahead(train: Mapping[str, float], cores: int) -> str:
    known = train["images"] - train["new"]
    return f"proposals for the training images, not counted above: {train['seconds']:.1f} s on {cores} cores" + (
        f"; those of {known} of the {train['images']} were known before" if known else f" for {train['images']}"
    )


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_plain, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
