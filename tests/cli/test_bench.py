"""`boxwright bench` as a user calls it, on a few drawn images."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

from bench.made_up import LITE
from bench.made_up import race as made_up_race
from bench.tiny_race import PARTS, patch
from boxwright.bench.plan.budget import make_plan
from boxwright.bench.run import state as race_state
from boxwright.cli import bench, main
from boxwright.train.stop import StoppedError
from shapes import write_shapes

SMALL = shlex.split(
    "--detectors ssd retinanet --backbones mobilenet_v3_small --sizes 64 --seeds 1 --epochs 1 --no-pretrained --batch 2"
    " --timed 1 --rounds 1 --workers 0 --precision fp32 --device cpu --report-images 0"
)
NAMES = ["ssd-mobilenet_v3_small-64", "retinanet-mobilenet_v3_small-64"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), PARTS)


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    patch(monkeypatch)
    monkeypatch.setattr(race_state, "make_plan", lambda *_, **__: race_state.Plan(1, (), 60.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench") / "out"


def run(data: Path, folder: Path, *more: str) -> int:
    return main(["bench", *SMALL, "--data", str(data), "--out", str(folder), *more])


def test_table_report_and_json(data: Path, folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run(data, folder, "--constraint", "p95<9s", "--constraint", "file<1GB") == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].split() == ["cell", "AP", "95", "%", "AP50", "p50,", "ms", "p95,", "ms", "MB"]
    assert {line.split()[0] for line in lines[1:3]} == set(NAMES)
    # One seed and one epoch on a few images: the table has a leader, but no winner.
    assert ("leader" in lines[1] or "leader" in lines[2]) and "winner" not in "".join(lines[:3])
    assert lines[3] == "* no other is both faster and better."
    assert lines[5].startswith("difference in AP") and {line.split()[0] for line in lines[6:8]} == set(NAMES)
    warning = next(line for line in lines if line.startswith("Too little evidence for a winner: "))
    assert "1 seed (2 are needed), 1 epoch (3 are needed)" in warning
    assert str(folder / "report.html") in shown.err
    assert "p95&lt;9s" in (folder / "report.html").read_text()

    assert run(data, folder, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in content["entries"]] == NAMES
    assert content == json.loads((folder / "results.json").read_text())
    verdict = content["verdict"]
    assert verdict["winner"] is None and verdict["leader"] in NAMES
    assert "1 seed (2 are needed)" in verdict["too_little_evidence"] and set(verdict["to_best"]) == set(NAMES)


def test_nothing_meets_it_is_an_answer(data: Path, folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run(data, folder, "--constraint", "p95<1us") == 0
    out = capsys.readouterr().out
    assert "nearest" in out and "p95<1us" in out


def test_a_dry_run_trains_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(data, tmp_path / "new", "--dry-run", "--constraint", "p95<30ms", "--constraint", "file<20MB") == 0
    out = capsys.readouterr().out
    assert "the winner must meet p95<30ms and file<20MB, as the race measures it; " in out
    assert "neither p50 nor p95" in out
    assert all(name in out for name in NAMES)
    assert "cells: 2, seeds: 1, epochs: 1; 60 s at most" in out
    assert "Too little evidence for a winner: " in out and "1 seed (2 are needed), 1 epoch (3 are needed)." in out
    assert not (tmp_path / "new").exists()


def test_a_dry_run_tells_what_would_fail(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pace = race_state.pace

    def fails(job: Any) -> Any:
        if job.cell.detector == "ssd":
            raise RuntimeError("out of memory")
        return pace(job)

    monkeypatch.setattr(race_state, "pace", fails)
    assert run(data, tmp_path / "new", "--dry-run") == 1
    assert f"{NAMES[0]} would fail: RuntimeError: out of memory" in capsys.readouterr().out


def test_a_cell_that_failed_is_exit_status_1(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    train = race_state.train

    def fails(job: Any, until: int) -> None:
        if job.cell.detector == "ssd":
            raise RuntimeError("out of memory")
        train(job, until)

    monkeypatch.setattr(race_state, "train", fails)
    assert run(data, tmp_path) == 1
    shown = capsys.readouterr()
    assert f"{NAMES[0]} failed: seed 0: RuntimeError: out of memory" in shown.out
    assert "The others continue" in shown.err


def test_an_error_of_several_cells_is_written_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fails(job: Any, until: int) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(race_state, "train", fails)
    assert run(data, tmp_path) == 1
    shown = capsys.readouterr()
    assert f"{NAMES[0]}, {NAMES[1]} failed: seed 0: RuntimeError: out of memory" in shown.out
    assert f"{NAMES[1]} failed as {NAMES[0]} did. The others continue" in shown.err
    assert shown.out.count("out of memory") == shown.err.count("out of memory") == 1


def test_a_budget_that_is_too_small_names_a_race_that_fits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(race_state, "make_plan", make_plan)
    # A cell takes about 10 s with each seed, and 10 s to be timed: 64 s with 2 seeds, and a tenth is kept in reserve.
    assert run(data, tmp_path / "new", "--seeds", "3", "--budget", "75s") == 1
    shown = capsys.readouterr().err
    assert "the budget of 75 s is too small for 2 cells with 3 seeds" in shown and "a few steps of each cell" in shown
    assert "The nearest race that fits: --seeds 2 (1 epoch, about " in shown
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench, "terminal_width", lambda: width)
    for backbones in ((LITE,), (LITE, "timm_mobilenetv3_large_100.ra_in1k")):
        shown = bench._summary(made_up_race(backbones=backbones))
        assert max(map(len, shown.splitlines())) <= width, shown
        table = shown.partition("\n\n")[0].splitlines()
        assert "AP" in table[0] and "p50, ms" in table[0]
        assert f"Backbone of all: {LITE}." in shown or len(backbones) == 2
    monkeypatch.setattr(bench, "terminal_width", lambda: None)
    piped = bench._summary(made_up_race()).splitlines()
    assert f"ssd-{LITE}-320" in " ".join(piped[1:12]) and "MB" in piped[0]


def test_stopped_it_says_how_to_go_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def stops(job: Any, until: int) -> None:
        raise StoppedError("stopped in epoch 1 of somebody", signal.SIGINT)

    monkeypatch.setattr(race_state, "train", stops)
    assert run(data, tmp_path) == 130
    assert "stopped in epoch 1 of somebody; the same command continues" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--detectors", "rnn"], "there is no detector 'rnn'; did you mean rcnn?"),
        (["--sizes", "8"], "sizes are 32 or more, got 8"),
        (["--constraint", "p95<30"], "unit of p95"),
        (["--constraint", "recall[cat]>0.9"], 'no class "cat"'),
        (["--report-images", "-1"], "--report-images is 0 or more"),
        (["--device", "gpu"], "there is no device 'gpu'"),
        (["--backbones", "nonet"], "there is no backbone 'nonet'"),
    ],
)
def test_mistakes_are_said_before_the_work(
    data: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert run(data, tmp_path / "new", *words) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_budget_that_is_no_time(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        run(data, tmp_path / "new", "--budget", "soon")
    assert "a length of time such as 45s" in capsys.readouterr().err


def test_where_no_cell_can_be_trained_it_says_why(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fails(job: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(race_state, "pace", fails)
    assert run(data, tmp_path / "new") == run(data, tmp_path / "new", "--dry-run") == 1
    message = f"no cell of this race can be trained: {NAMES[0]}, {NAMES[1]}: RuntimeError: out of memory\n"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_without_data_it_asks_for_some(capsys: pytest.CaptureFixture[str]):
    assert main(["bench"]) == 1
    assert "Name a dataset with --data" in capsys.readouterr().err
