"""`boxwright data check` and `boxwright data show`: the problems of a dataset, and its content."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from boxwright.cli.arguments import DataFormat, MaxMegapixels, check_at_least, check_folder, chosen_splits, dataset_path
from boxwright.cli.images import save_drawing
from boxwright.cli.table import table
from boxwright.files import Outputs
from boxwright.terminal import fit, say, terminal_width, wrap
from boxwright.units import counted, printable

if TYPE_CHECKING:
    from boxwright.data.check import Problem
    from boxwright.data.formats import Splits

_SHOWN = 10  # problems of one kind that are printed without --all


@dataclass(frozen=True)
class Check:
    """Name what is wrong in a dataset, file by file, and how to mend it. Nothing is changed.

    An error is left out when the dataset is opened, or makes a measurement wrong; a warning is kept, perhaps mended; a
    note is allowed, but good to know. Exit status 1 if there is an error.
    """

    data: Positional[Annotated[Path, arg(metavar="PATH", help_behavior_hint="")]]
    """The dataset: its folder, COCO JSON, YOLO YAML or CSV."""
    format: DataFormat = None
    max_megapixels: MaxMegapixels = None
    all: bool = False
    """Print every place, not only the first ten of each kind of problem."""
    json: bool = False
    """Print all problems as a JSON list."""

    def run(self) -> int:
        from boxwright.data.check import check

        with ExitStack() as stack:
            problems = check(self.data, self.format, bar := _Bar(stack))
        if self.json:
            print(json.dumps([asdict(problem) for problem in problems], indent=1))
        elif problems:
            print(_report(problems, len(problems) if self.all else _SHOWN))
        else:
            print(f"nothing is wrong in {counted(bar.total, 'image')}")
        return 1 if any(problem.severity == "error" for problem in problems) else 0


@dataclass(frozen=True)
class Show:
    """Count the boxes of each class and split, and draw samples with their boxes."""

    data: Positional[Annotated[Path, arg(metavar="PATH", help_behavior_hint="")]]
    """The dataset: its folder, COCO JSON, YOLO YAML or CSV."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("samples")
    """The folder for the images, one per split."""
    samples: int = 12
    """Samples drawn of each split."""
    split: Annotated[str | None, arg(metavar="train|val|test", help_behavior_hint="")] = None
    """Only this split."""
    augmented: Literal["none", "light", "standard", "strong"] = "none"
    """Show the samples as training augments them."""
    seed: int = 0
    """Chooses the samples and their augmentation."""
    format: DataFormat = None
    max_megapixels: MaxMegapixels = None

    def run(self) -> None:
        data = dataset_path(self.data)
        check_at_least(1, samples=self.samples)
        check_folder("--out", self.out)
        from boxwright.data.formats import open_dataset

        splits = open_dataset(data, self.seed, self.format)
        names = chosen_splits(data, splits, self.split)
        outputs = Outputs(splits[name].path(index) for name in names for index in range(len(splits[name])))
        outputs.check("--out", [self.out / f"{name}.jpg" for name in names])
        print(_counts(splits))
        from boxwright.data.augment import PRESETS
        from boxwright.draw.samples import contact_sheet

        augment = None if self.augmented == "none" else PRESETS[self.augmented]
        for name in names:
            path = self.out / f"{name}.jpg"
            sheet = contact_sheet(splits[name], self.samples, self.seed, augment)
            path = save_drawing(sheet, path, outputs, "--out")
            say(f"{name}: {path}")


class _Bar:
    """The progress of `check`. The bar starts with the first image, when the total is known."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.total = 0

    def __call__(self, done: int, total: int) -> None:
        self.total = total
        if done == 1:
            from boxwright.progress import Progress

            self.progress = self.stack.enter_context(Progress("check", total))
        self.progress.update()


def _report(problems: list[Problem], most: int) -> str:
    """The problems by kind, errors first, at most `most` of each."""
    lines, width = [], terminal_width()
    for severity, kind in dict.fromkeys((problem.severity, problem.kind) for problem in problems):
        same = [problem for problem in problems if problem.kind == kind]
        lines.append(f"{severity}: {kind} ({len(same)})")
        for problem in same[:most]:
            location = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
            lines.append(f"  {printable(location)}")
            texts = (*printable(problem.message).splitlines(), f"mend: {printable(problem.mend)}")
            lines += [wrap(line, width, "    ") for line in texts]
        if len(same) > most:
            lines.append(f"  and {len(same) - most} more; --all or --json names each")
        lines.append("")
    totals = Counter(problem.severity for problem in problems)
    lines.append(", ".join(counted(count, severity) for severity, count in totals.items()))
    return "\n".join(lines)


def _counts(splits: Splits) -> str:
    """Images and boxes of each class, a column per split."""
    counts = {split: dataset.counts() for split, dataset in splits.items()}
    rows: list[tuple[object, ...]] = [("images", *(len(dataset) for dataset in splits.values()))]
    rows += [(name, *(counts[split][name] for split in splits)) for name in splits.names]
    rows.append(("boxes", *(sum(count.values()) for count in counts.values())))
    drawn = f"; splits drawn by boxwright with seed {splits.seed}" if splits.drawn else ""
    return f"{fit(f'{splits.source}: {splits.format}{drawn}')}\n{table(('', *splits), rows, terminal_width())}"
