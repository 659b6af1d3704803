"""How much code there is to read: the files and lines that run when a detector is built, trained and used.

`python docs/reading.py [DETECTOR ...]` builds each detector, computes its losses for one batch and detects in it, and
prints which functions of boxwright ran. `--files` lists them. docs/architecture.md quotes the table, and
tests/docs/test_reading.py holds its limits.
"""

from __future__ import annotations

import inspect
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

import torch

import boxwright
from boxwright import ops
from boxwright.detectors import DETECTORS
from boxwright.types import Images, Target

SOURCE = Path(boxwright.__file__).parent
NUM_CLASSES = 3


class Reading(NamedTuple):
    """What ran of a detector.

    functions  by file, relative to the package: each function and its number of lines, docstring included
    backbone   the same for the backbone: files in backbones/, and whatever only they call
    """

    functions: dict[str, dict[str, int]]
    backbone: dict[str, dict[str, int]]

    @property
    def files(self) -> int:
        """Files to open beside the backbone's, some of which, such as layers/conv.py, serve both."""
        return len(self.functions.keys() - self.backbone.keys())

    @property
    def lines(self) -> int:
        """Lines of all functions that ran, the backbone's included."""
        return sum(sum(part.values()) for group in self for part in group.values())


def read(name: str) -> Reading:
    """Trace what a detector of `DETECTORS`, with its default options, runs: construction, one loss, one detection."""
    images = Images(torch.rand(2, 3, 320, 416) * 255, torch.tensor([[320, 416], [300, 400]]))
    images = images.replace(proposals=torch.tensor([[[10.0, 20, 100, 200], [40, 50, 160, 170]]] * 2))
    targets = [Target(torch.tensor([[10.0, 20, 100, 200], [50, 60, 150, 160]]), torch.tensor([0, 1])), Target.empty()]

    config = DETECTORS[name]()
    config.build(NUM_CLASSES)  # imports the modules: class bodies are not functions that run
    ops.load_compiled_ops.cache_clear()  # it runs, whoever ran it before

    def run() -> None:
        detector = config.build(NUM_CLASSES)
        detector.loss(images, targets)
        detector.eval().detect(images)

    return _grouped(_trace(run))


def _trace(run: Callable[[], None]) -> dict[CodeType, bool]:
    """The package's functions that `run` calls; True for those that are called by the backbone only."""
    ran: dict[CodeType, bool] = {}

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and _file(frame.f_code):
            ran[frame.f_code] = ran.get(frame.f_code, True) and _in_backbone(frame)

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return ran


def _file(code: CodeType) -> str:
    """The file relative to the package; "" for a file outside it, and for one that is no part of a detector."""
    path = Path(code.co_filename)
    if not path.is_relative_to(SOURCE) or path.name == "checkpoint.py":  # which counts parameters once one was loaded
        return ""
    return path.relative_to(SOURCE).as_posix()


def _in_backbone(frame: FrameType | None) -> bool:
    while frame is not None:
        if _file(frame.f_code).startswith("backbones/"):
            return True
        frame = frame.f_back
    return False


def _grouped(ran: dict[CodeType, bool]) -> Reading:
    groups: tuple[defaultdict[str, dict[str, int]], ...] = (defaultdict(dict), defaultdict(dict))
    for code, of_backbone in ran.items():
        if "<" not in code.co_qualname.rpartition(".")[2]:  # comprehensions are lines of their function
            groups[of_backbone][_file(code)][code.co_qualname] = len(inspect.getsourcelines(code)[0])
    return Reading(*(dict(group) for group in groups))


def table(readings: dict[str, Reading]) -> str:
    """Markdown: files beside the backbone, lines that ran in them, lines with the backbone."""
    rows = [
        "| detector | files beside the backbone | lines that run there | with the backbone |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, reading in readings.items():
        own = sum(sum(part.values()) for part in reading.functions.values())
        rows.append(f"| {name} | {reading.files} | {own:,} | {reading.lines:,} |")
    return "\n".join(rows)


def main(arguments: Sequence[str]) -> None:
    names = [argument for argument in arguments if not argument.startswith("-")] or list(DETECTORS)
    readings = {name: read(name) for name in names}
    print(table(readings))
    if "--files" in arguments:
        for name, reading in readings.items():
            print(f"\n{name}")
            for file, functions in sorted(reading.functions.items()):
                print(f"  {file}: " + ", ".join(f"{function} ({lines})" for function, lines in functions.items()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
