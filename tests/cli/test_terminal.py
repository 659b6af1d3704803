"""Tables in a terminal of 80 columns fit, however long the names are. `test_guide.py` has all commands."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch

from bench.made_up import race
from boxwright.cli import main
from boxwright.cli.lineage_race import lineage_table
from boxwright.data.formats import open_dataset
from boxwright.measure.evaluate import targets_of
from boxwright.metrics import evaluate
from boxwright.terminal import fit, terminal_width
from boxwright.types import Detections
from shapes import write_shapes

LONG = "a class of a name that is longer than half a line"


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = write_shapes(tmp_path / "shapes", {"train": 3, "val": 2, "test": 2})
    for file in folder.glob("*.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        content["categories"][0]["name"] = LONG
        file.write_text(json.dumps(content), encoding="utf-8")
    return folder


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


@pytest.mark.parametrize("command", ["stats", "show", "check"])
def test_tables_of_a_dataset_fit(command: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with redirect_stdout(Terminal()) as out:
        assert main(["data", command, "shapes"]) == 0
    assert widest(out.getvalue()) <= 80
    if command == "stats":
        assert "small  medium  large" in out.getvalue() and "range: --json, or a wider" in out.getvalue()


def test_the_models_fit_with_whole_names() -> None:
    with redirect_stdout(Terminal()) as out:
        assert main(["models", "--runs", "none"]) == 0
    shown = out.getvalue()
    assert widest(shown) <= 80 and "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn" in shown
    assert "published as: --json, or a wider terminal" in shown and "voc9 (default)" in shown


def test_the_lineage_fits() -> None:
    made = race()
    proposals = {"selective_search": {"train": {"images": 200, "new": 9, "seconds": 12.5}}}
    made = replace(made, proposals=proposals, settings={**made.settings, "train images": 200, "batch": 8})
    with redirect_stdout(Terminal()):
        shown = lineage_table(made, made.entries)
    assert widest(shown) <= 80 and "proposals" in shown.splitlines()[0]
    assert widest(lineage_table(made, made.entries)) > 80  # in a file


def test_the_table_of_an_evaluation_fits(data: Path) -> None:
    test = open_dataset(data)["test"]
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    quality = evaluate([nothing] * len(test), targets_of(test), test.names)
    assert widest(quality.table(80)) <= 80 and LONG in quality.table() and LONG not in quality.table(80)


def test_a_file_is_no_terminal() -> None:
    assert terminal_width(Terminal()) == 80 and terminal_width(StringIO()) is None
    assert fit("word " * 40, StringIO()) == "word " * 40


@pytest.mark.parametrize("words", ["data stats", "data check", "models", "--help"])
def test_a_command_whose_stdout_is_closed_runs(words: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by `>&-`, where Python has None in its place."""
    monkeypatch.setattr(sys, "stdout", None)
    assert main([*words.split(), str(data)] if words.startswith("data") else words.split()) == 0
