"""The scripts of benchmarks/: their table, and that both sides of a row find the same."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield import_module
    for name in ("record", "peers", "versus_torchvision", "everything", "gpu"):
        sys.modules.pop(name, None)


def test_a_ratio_below_one_says_that_ours_is_faster(script: Any) -> None:
    record = script("record")
    assert record.ratio([1, 1, 1, 1, 1], [2, 4, 2, 4, 2]) == "0.50 (0.25 to 0.50)"
    assert record.ratio([0.02], [1]) == "0.02 (0.02 to 0.02)"
    assert [record.milliseconds([value]) for value in (0.00123, 0.0123, 0.123, 1.23)] == [
        "1.23 ms", "12.3 ms", "123 ms", "1230 ms",
    ]  # fmt: skip


def test_rows_of_one_machine_are_kept_together(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, path = script("record"), tmp_path / "build" / "table.json"
    record.save(None, {"a": {"ours": "1 ms"}})
    for name in ("a", "b"):
        record.save(path, {name: {"ours": "1 ms"}})
    assert list(json.loads(path.read_text())["peers"]["rows"]) == ["a", "b"]
    monkeypatch.setattr(record, "describe_machine", lambda: "another")
    record.save(path, {"c": {"ours": "1 ms"}})
    table = json.loads(path.read_text())["peers"]
    assert (list(table["rows"]), table["how"], table["columns"]) == (["c"], "another", record.COLUMNS)


def test_both_sides_of_a_row_find_the_same(script: Any) -> None:
    versus = script("versus_torchvision")
    sides, answers = versus.build_sides("ssdlite", 2, (320, 320), versus.CPU), []
    for runs in (versus.our_inference, versus.torchvisions_inference):
        seconds, found = versus.timed(runs(lambda: sides), "fp32", 1, 1)
        assert seconds > 0
        answers.append(versus.detections(found))
    assert len(answers[0]) > 50
    pixels, score = versus.difference(*answers).replace(" px", "").split(", ")
    assert float(pixels) < 0.05 and float(score) < 1e-3


def test_the_tables_of_a_gpu_have_a_column_for_each_side(script: Any) -> None:
    times = {"ms": 5.0, "low": 4.0, "high": 6.0, "images_per_second": 200.0, "ratio": 3.0}
    rows = [
        {"detector": "all", "what": "machine", "side": "", "name": "a card"},
        {"detector": "fcos", "what": "batch 1", "side": "captured", **times},
        {"detector": "fcos", "what": "batch 1", "side": "torchvision", **times, "ratio": 1.0},
        {"detector": "fcos", "what": "batch 1, host waits", "side": "eager", "waits": 2, "places": ["ops.py:1"]},
        {"detector": "ssd", "what": "process", "side": "", "error": "exit status 1"},
    ]
    machine, *tables, failed = script("gpu").tables(rows).split("\n\n")
    assert "a card" in machine and failed == "failed: ssd, process, : exit status 1"
    assert [table.splitlines()[0] for table in tables] == [
        "| batch 1 | torchvision | captured |", "| batch 1, host waits | eager |",
    ]  # fmt: skip
    assert tables[0].splitlines()[2].endswith("| 5.0 ms (4.0 to 6.0), 200/s, × 3.00 |")
    assert tables[1].splitlines()[2] == "| fcos | waits 2 |"


def test_every_row_names_runs_that_exist_and_is_unique(script: Any) -> None:
    versus = script("versus_torchvision")
    rows = [(task, row) for task in versus.make_tasks().values() for row in task.rows]
    assert len({(row.title, row.against) for _, row in rows}) == len(rows)
    assert all(row.peer in task.sides and next(iter(task.sides)) == "ours" for task, row in rows)


def test_every_script_is_run_and_says_what_its_numbers_mean(script: Any) -> None:
    everything = script("everything")
    names = {path.name for path in FOLDER.glob("*.py")}
    parts, hours = {"everything.py", "peers.py", "record.py", "torchvision_detectors.py"}, {"equal_terms.py"}
    assert {name for name, *_ in everything.SCRIPTS} == names - parts - hours
    for name, *_ in everything.SCRIPTS:
        assert "python benchmarks/" not in everything.meaning(name) and len(everything.meaning(name)) > 200
