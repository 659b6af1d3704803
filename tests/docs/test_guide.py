"""The commands and snippets of the README and of the guide, run in their order in a folder with a tiny dataset."""

from __future__ import annotations

import functools
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from boxwright import plugins
from boxwright.backbones import BACKBONES
from boxwright.cli import main, training
from boxwright.cli.train import Train
from boxwright.detectors.config import DETECTORS, KINDS
from boxwright.train.run import Run
from shapes import write_shapes

ROOT = Path(__file__).parents[2]
GUIDE = [f"docs/guide/{name}.md" for name in ("train", "evaluate", "python", "many")]
LONG = ("bench", "import", "lineage", "propose")
"""Commands of the README that take more than seconds, or a file from elsewhere; `test_check.py` parses them."""
BLOCK = re.compile(
    r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$|^    boxwright (?P<command>[^#\n]*[^#\s])", re.M | re.S
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], int]]:
    """Runs a command in a folder with two datasets of cats, dogs and kangaroos and new photographs: its exit status.

    Every training is one epoch on small images, without curves, and a command that several pages have runs once.
    """
    folder = tmp_path_factory.mktemp("guide")
    write_shapes(folder / "my_dataset", {"train": 2, "val": 1, "test": 1})
    for file in (folder / "my_dataset").glob("*.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        for category, name in zip(content["categories"], ("cat", "dog", "kangaroo"), strict=True):
            category["name"] = name
        file.write_text(json.dumps(content), encoding="utf-8")
    shutil.copytree(folder / "my_dataset", folder / "more_data")
    shutil.copytree(folder / "my_dataset" / "images", folder / "new_photos", ignore=shutil.ignore_patterns("*[23].png"))
    shutil.copyfile(next((folder / "new_photos").iterdir()), folder / "photo.jpg")
    start = training.start

    def start_briefly(options: Train) -> tuple[Run, int | None]:
        options = replace(options, workers=0)
        if options.resume is None or options.training.epochs:
            options = replace(options, training=replace(options.training, epochs=1))
        if options.resume is None:
            options = replace(options, size=(48, 64), batch=2)
        return start(options)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(training, "start", start_briefly)
        patch.setattr(sys, "path", [*sys.path, ""])  # files of the pages are imported from the folder
        patch.setattr("boxwright.train.estimate._STEPS", 2)
        patch.setattr("boxwright.draw.plots.draw_curves", lambda epochs, path: None)
        run = functools.cache(lambda command: main(shlex.split(command)))
        assert run("train --from voc9 --data my_dataset/") == 0  # the run that the pages speak of
        yield run
    for table in (DETECTORS, KINDS, BACKBONES):
        for name in ("mine", "tiny"):  # what the page on Python registers
            table.pop(name, None)
    plugins._options.clear()
    for name in ("my_detector", "my_backbone"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", *GUIDE])
def test_the_commands_and_snippets_of_a_page_run(page: str, run: Callable[[str], int]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = [match for match in BLOCK.finditer(text) if match["command"] or match["language"] == "python"]
    assert len(blocks) >= 3
    for block in blocks:
        if block["command"] and block["command"].split()[0] in LONG:
            continue
        if block["command"]:
            assert run(block["command"]) == 0, block["command"]
        else:
            code = block["code"].replace("epochs=12", "epochs=1").replace("short=320, long=416", "short=48, long=64")
            if file := re.match(r"# (\w+\.py)\n", code):
                Path(file[1]).write_text(code, encoding="utf-8")
            else:
                exec(compile(code, page, "exec"), {})
