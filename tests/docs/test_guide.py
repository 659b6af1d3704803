"""The commands and snippets of the README and of the guide, run in their order in a folder with a tiny dataset."""

from __future__ import annotations

import functools
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.cells import cell_len

from bench.tiny_race import footprint, pace
from boxwright import plugins, zoo
from boxwright.backbones import BACKBONES
from boxwright.bench.plan.cells import Cell
from boxwright.bench.plan.rules import Rules
from boxwright.bench.report import write as report
from boxwright.bench.run import state as race_state
from boxwright.bench.run import timing
from boxwright.bench.run.state import RaceState
from boxwright.cli import main, training
from boxwright.cli.import_ import Import
from boxwright.cli.train import Train
from boxwright.cli.verify import Verify
from boxwright.detectors.config import DETECTORS, KINDS
from boxwright.train.config import TrainConfig
from boxwright.train.loop import Training
from boxwright.train.run import Run
from boxwright.zoo import torchvision
from boxwright.zoo.foreign import Arguments
from calibrated import calibrate
from shapes import write_shapes

ROOT = Path(__file__).parents[2]
GUIDE = [
    f"docs/{name}.md" for name in ("guide/train", "guide/evaluate", "guide/python", "guide/many", "bench", "weights")
]
FASTER = "fasterrcnn_resnet50_fpn"
SMALL = Arguments(min_size=32, max_size=48)
BLOCK = re.compile(
    r"^```(?P<language>\w*)(?P<title>[^\n]*)\n(?P<code>.*?)^```$|^    boxwright (?P<command>[^#\n]*[^#\s])", re.M | re.S
)
"""A block of code, with a title where it is a quotation of the source, or a command."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], int]]:
    """Runs a command in a folder with datasets of cats, dogs and kangaroos and new photographs: its exit status.

    Every training is one epoch on small images, without curves, also in a race, which draws nothing and starts no
    process. Models are imported as they detect in images of 32 pixels. A command that several pages have runs once.
    """
    folder = tmp_path_factory.mktemp("guide")
    write_shapes(folder / "my_dataset", {"train": 2, "val": 1, "test": 1})
    for file in (folder / "my_dataset").glob("*.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        for category, name in zip(content["categories"], ("cat", "dog", "kangaroo"), strict=True):
            category["name"] = name
        file.write_text(json.dumps(content), encoding="utf-8")
    for copy in ("more_data", "coco128"):
        shutil.copytree(folder / "my_dataset", folder / copy)
    shutil.copytree(folder / "my_dataset" / "images", folder / "new_photos", ignore=shutil.ignore_patterns("*[23].png"))
    shutil.copyfile(next((folder / "new_photos").iterdir()), folder / "photo.jpg")
    start = training.start

    def start_briefly(options: Train) -> tuple[Run, int | None]:
        options = replace(options, workers=0)
        if options.resume is None or options.training.epochs:
            options = replace(options, training=replace(options.training, epochs=1))
        if options.resume is None:
            options = replace(options, size=(48, 64), batch=2)
        with pytest.MonkeyPatch.context() as unsaved:
            if options.start == "coco.safetensors":  # 700 MB to resume from, twice
                unsaved.setattr(Training, "save", lambda training, path: None)
            return start(options)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("BOXWRIGHT_CACHE", str(folder / "cache"))
        patch.setattr(training, "start", start_briefly)
        patch.setattr(sys, "path", [*sys.path, ""])  # files of the pages are imported from the folder
        patch.setattr("boxwright.train.estimate._STEPS", 2)
        patch.setattr("boxwright.draw.plots.draw_curves", lambda epochs, path: None)
        race_briefly(patch)
        import_briefly(patch)
        patch.setenv("COLUMNS", "80")
        run = functools.cache(in_a_terminal)
        assert run("train --from voc9 --data my_dataset/") == 0  # the run that the pages speak of
        yield run
    for table in (DETECTORS, KINDS, BACKBONES):
        for name in ("mine", "tiny"):  # what the page on Python registers
            table.pop(name, None)
    plugins._options.clear()
    for name in ("my_detector", "my_backbone"):
        sys.modules.pop(name, None)


class Terminal(StringIO):
    """A terminal of 80 columns, which every command here prints to."""

    def isatty(self) -> bool:
        return True


def in_a_terminal(command: str) -> int:
    """The exit status of a command, no line of which is too long, except a word, JSON or a command to be copied."""
    with redirect_stdout(Terminal()) as out, redirect_stderr(Terminal()) as err:
        status = main(shlex.split(command))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue() + err.getvalue())  # without what a bar sends
    whole = ("{", "boxwright detect photo.jpg")
    lines = [line for line in re.split(r"[\r\n]+", shown) if " " in line.strip() and not line.startswith(whole)]
    long = [line for line in lines if cell_len(line) > 80]
    assert not long, f"{command}:\n{shown}"
    return status


def race_briefly(patch: pytest.MonkeyPatch) -> None:
    """Every race is of tiny cells, one seed and one epoch; one of them that fails is an error."""
    init = RaceState.__init__

    def tiny(cell: Any) -> Any:
        if not isinstance(cell, Cell):
            return cell
        smaller = {"backbone": "mobilenet_v3_small", "proposals": 10, "region_samples": 8}
        config = replace(cell.config, **{name: value for name, value in smaller.items() if hasattr(cell.config, name)})
        return replace(cell, config=config, preprocess=replace(cell.preprocess, short=48, long=64))

    def init_briefly(
        state: RaceState, entrants: Sequence[Any], data: Any, rules: Rules, training: TrainConfig, *rest: Any
    ) -> None:
        rules = replace(rules, seeds=1, batch=2, timed=1, rounds=1, workers=0, pretrained=False)
        init(state, list(map(tiny, entrants)), data, rules, replace(training, epochs=1), *rest)

    patch.setattr(RaceState, "__init__", init_briefly)
    patch.setattr(RaceState, "fail", lambda state, name, why: pytest.fail(f"{name}: {why}"))
    patch.setattr("boxwright.bench.run.parallel.gc", SimpleNamespace(collect=lambda: 0))  # half a second after each job
    patch.setattr(race_state, "pace", pace)
    patch.setattr(timing, "_footprint", lambda state, name: footprint()._asdict() | {"file": 9_000_000})
    patch.setattr(report, "_draw", lambda race: ({}, {}))
    patch.setattr("boxwright.cli.lineage_race.draw_costs", lambda *costs: None)


def import_briefly(patch: pytest.MonkeyPatch) -> None:
    """Models are imported, and verified, as they detect in a small photograph of 32 pixels."""
    given, again = Import.run, Verify.run

    def import_small(options: Import) -> None:
        photos = None if options.answers else Path("small_photos")
        given(replace(options, min_size=SMALL.min_size, max_size=SMALL.max_size, photos=photos))

    patch.setattr(Import, "run", import_small)
    patch.setattr(Verify, "run", lambda options: again(replace(options, photos=Path("small_photos"))))
    # Published weights are converted when they are first used, at their own size; these are `coco.safetensors`.
    patch.setattr("boxwright.zoo.convert.obtain", lambda name: Path("coco.safetensors"))
    patch.setattr("boxwright.zoo.hub.fetch", lambda reference: Path("coco.safetensors"))


@pytest.fixture(scope="module")
def weights(run: Callable[[str], int]) -> Any:
    """torchvision's Faster R-CNN of two classes, in `mine.pth`; and in files of 90 classes with the published name.

    Made up such that they detect dozens of objects in the photographs of `small_photos` and photo.png, other.png.
    """
    Path("small_photos").mkdir()
    for name, copy in (("chelsea", "photo.png"), ("coffee", "other.png")):
        image = Image.open(Path(zoo.__file__).parent / "photos" / f"{name}.webp").resize((120, 80))
        image.save(copy)
    shutil.copy("photo.png", "small_photos")
    shown = [np.asarray(Image.open(path).convert("RGB")) for path in ("photo.png", "other.png")]
    torch.manual_seed(0)
    model = torchvision.build(FASTER, 90, arguments=SMALL)
    calibrate(model.eval(), lambda: torchvision.detect(model, 1, shown))
    state = model.state_dict()
    for name in ("weights.pth", "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"):
        torch.save(state, name)
    mine = torchvision.build(FASTER, 2, arguments=SMALL)
    mine.load_state_dict({name: state[name][: len(value)] if value.ndim else state[name]
                          for name, value in mine.state_dict().items()})  # fmt: skip
    torch.save(mine.state_dict(), "mine.pth")
    return mine


CHANGES = {  # of the Python of the pages, which has no option for a test
    "epochs=12": "epochs=1",
    "short=320, long=416": "short=48, long=64",
    "@COMMIT": "@" + 40 * "0",
    "    ...  # decode": "    return Slots(rows, rows[..., 0], rows[..., 0].long(), rows[..., 0] > 0)  # decode",
}


@pytest.fixture(scope="module")
def given(weights: Any) -> dict[str, Any]:
    """What a reader of the pages has already: a trained model of torchvision, and a session of ONNX Runtime."""
    torch.save(torchvision.build("fasterrcnn_mobilenet_v3_large_320_fpn", 3).state_dict(), "torchvision.pth")
    session = SimpleNamespace(run=lambda outputs, inputs: [torch.ones(1, 1, 4)])
    names = ("cat", "dog", "kangaroo")
    return {"model": weights, "session": session, "names": names, "data_names": names}


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", *GUIDE])
def test_the_commands_and_snippets_of_a_page_run(page: str, run: Callable[[str], int], given: dict[str, Any]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = [
        match
        for match in BLOCK.finditer(text)
        if match["command"] or (match["language"] == "python" and not match["title"])
    ]
    assert len(blocks) >= 3
    for block in blocks:
        if block["command"]:
            assert run(block["command"]) == 0, block["command"]
            continue
        code = functools.reduce(lambda code, change: code.replace(*change), CHANGES.items(), block["code"])
        if file := re.match(r"# (\w+\.py)\n", code):
            Path(file[1]).write_text(code, encoding="utf-8")
        else:
            exec(compile(code, page, "exec"), {**given})
