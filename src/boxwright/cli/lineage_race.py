"""What `boxwright lineage` does: a race without a budget, of one seed, shown as a table of what each detector costs."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.bench.driver import race
from boxwright.bench.plan.cells import Cell, configure, differences
from boxwright.bench.report.lineage import Cost, draw_costs, quartiles_of
from boxwright.bench.result import Entry, Race
from boxwright.bench.run.state import RaceState
from boxwright.cli.lineage import Lineage
from boxwright.cli.table import table
from boxwright.data.dataset import Dataset
from boxwright.data.formats import Splits, open_dataset
from boxwright.data.preprocess import Preprocess
from boxwright.terminal import fit, say, terminal_width
from boxwright.train.stop import StoppedError, stoppable
from boxwright.units import Unit, counted, digits, fraction

_READING = (
    "train: the whole training; ms/image: an image of it. test: an image from file to boxes; of it proposals, and "
    "network with its quartiles."
)


def run(options: Lineage, data: Path) -> int:
    """Exit status: 0 done, 1 where a step failed (the others are done), 130 stopped by Ctrl-C, 143 by SIGTERM."""
    cells, splits = _cells(options), _splits(options, data)
    folder = options.out or Path("runs") / f"{data.resolve().stem}-lineage"
    state = RaceState(cells, splits, options.rules, options.training, folder)
    for cell in cells:
        cell.config.build(len(state.names))  # mistakes in the options raise before the work
    say(_introduction(options, state))
    try:
        with stoppable():
            done = race(
                cells, splits, options.rules, options.training, out=folder, report_images=0, retry=True,
                command=shlex.join(["boxwright", *sys.argv[1:]]),
            )  # fmt: skip
    except StoppedError as stopped:
        say(f"{stopped}; the same command continues")
        return 128 + stopped.signal
    entries = [entry for name in options.steps for entry in done.entries if entry.name == name]
    print((folder / "results.json").read_text(encoding="utf-8") if options.json else lineage_table(done, entries))
    _draw(data, entries, folder, _caption(options, done.settings, done.settings["machine"]))
    return 1 if any(entry.state == "failed" for entry in entries) else 0


def _cells(options: Lineage) -> list[Cell]:
    fields = {name: getattr(options, name) for name in ("backbone", "proposer", "proposals")}
    if options.region_samples is not None:
        fields["region_samples"] = options.region_samples
    preprocess = Preprocess(short=options.size[0], long=options.size[1])
    return [Cell(name, configure(name, **fields), preprocess) for name in options.steps]


def _splits(options: Lineage, data: Path) -> Splits:
    splits = open_dataset(data, options.training.seed, options.format)
    test = "test" if "test" in splits else "val"
    for split, count, option in (("train", options.images, "--images"), (test, options.test_images, "--test-images")):
        if count is not None:
            if count > len(splits[split]):
                raise ValueError(f"{option} asks for {count} images; the {split} split has {len(splits[split])}")
            splits[split] = subset(splits[split], count, options.training.seed)
    return splits


def _introduction(options: Lineage, state: RaceState) -> str:
    """The settings of all detectors, and those of each that differ."""
    lines = [f"the same for all: {_caption(options, state.settings, state.settings)}"]
    for name, fields in differences({name: cell.config for name, cell in state.cells.items()}).items():
        lines.append(f"  {name}: " + ", ".join(f"{key} {_plain(value)}" for key, value in fields.items()))
    done = state.raced()
    return "\n".join([*lines, *([f"finished before: {', '.join(done)}"] if done else []), f"{state.folder}/"])


def _caption(options: Lineage, settings: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
    """The conditions of the measurement, in a line."""
    return " · ".join(
        [
            f"{options.backbone}, {options.size[0]} to {options.size[1]} pixels",
            f"{settings['train images']} training and {settings['test images']} test images",
            f"{counted(settings['epochs'], 'epoch')}, {options.proposals} proposals",
            f"{machine['name']}, network on {machine['threads']} of {machine['cores']} cores, proposals on 1",
        ]
    )


def _draw(data: Path, entries: Sequence[Entry], folder: Path, caption: str) -> None:
    """lineage.png and lineage.svg, where matplotlib is installed."""
    costs = [Cost.of(entry) for entry in entries]
    title = f"{costs[0].name} to {costs[-1].name} on {data.stem}"
    try:
        for suffix in ("png", "svg"):
            draw_costs(costs, folder / f"lineage.{suffix}", title, caption)
    except ImportError as error:
        say(f"no image: {error}")
    else:
        say(f"written: {folder / 'lineage'}.png, .svg; {folder / 'report.html'}")


def lineage_table(race: Race, entries: Sequence[Entry]) -> str:
    """The times and the quality of each step, and how many times as fast it is as the first one that is finished."""
    costs = [Cost.of(entry) for entry in entries]
    hours, seconds = Unit.of(cost.training for cost in costs), Unit.of(cost.whole for cost in costs)
    head = ["", f"train, {hours.short}", "ms/image", f"test, {seconds.short}", "proposals", "network", "quartiles",
            "AP", "AP50"]  # fmt: skip
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
    compared = [f"times as fast as {first.name}", "train", "test", "test without proposals"]
    width = terminal_width()
    lines = [table(head, rows, width, ("quartiles", "ms/image", "AP50")), fit(_READING), "",
             table(compared, ratios, width), ""]  # fmt: skip
    lines += [fit(_ahead(of["train"], race.settings["machine"]["cores"])) for of in race.proposals.values()]
    lines += [fit(f"{entry.name} failed: {entry.reason}") for entry in entries if entry.state == "failed"]
    return "\n".join(lines).rstrip()


def subset(dataset: Dataset, count: int, seed: int) -> Dataset:
    """`count` images drawn with the seed, in the dataset's order. With the same seed, a larger count adds images."""
    return dataset.select(np.sort(np.random.default_rng(seed).permutation(len(dataset))[:count]))


def _images_of_an_epoch(race: Race) -> int:
    """Whole batches of the training images; all of them where they do not fill one."""
    images, batch = race.settings["train images"], race.settings["batch"]
    return images // batch * batch or images


def _ahead(train: Mapping[str, float], cores: int) -> str:
    known = train["images"] - train["new"]
    return f"proposals for the training images, not counted above: {train['seconds']:.1f} s on {cores} cores" + (
        f"; those of {known} of the {train['images']} were cached" if known else f" for {train['images']}"
    )


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_plain, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
