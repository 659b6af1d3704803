"""`boxwright lineage` from end to end on a few drawn images: goes on, refuses, and survives a step that fails."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro

from bench.tiny_race import footprint, pace
from boxwright.bench.report import write as report
from boxwright.bench.run import state as race_state
from boxwright.bench.run import timing
from boxwright.checkpoint import load_detector
from boxwright.cli.lineage import Lineage
from boxwright.train.loop import DivergedError
from shapes import write_shapes

SMALL = (
    "--steps fast_rcnn faster_rcnn --no-pretrained --backbone mobilenet_v3_small --proposer sliding_window"
    " --proposals 20 --size 64 96 --batch 2 --epochs 1 --precision fp32 --device cpu --images 4 --timed 1 --workers 0"
)


def patch(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """What takes seconds and is no part of the lineage is made up; proposals are new to each test."""
    monkeypatch.setattr(race_state, "pace", pace)
    monkeypatch.setattr(timing, "footprint", footprint)
    monkeypatch.setattr(report, "_draw", lambda race: ({}, {}))
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(cache))


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    patch(monkeypatch, tmp_path / "cache")


def run(data: Path, out: Path, *more: str) -> int:
    options = [*shlex.split(SMALL), *more, "--data", str(data), "--out", str(out)]
    return tyro.cli(Lineage, args=options, config=(tyro.conf.FlagCreatePairsOff,)).run()


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), {"train": 6, "val": 1, "test": 3})


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a lineage of two steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as monkeypatch:
        patch(monkeypatch, folder.parent / "cache")
        assert run(data, folder) == 0
    return folder


def test_what_is_in_the_folder(whole: Path, data: Path):
    content = read(whole)
    assert [entry["name"] for entry in content["entries"]] == ["fast_rcnn", "faster_rcnn"]
    settings = content["settings"]
    assert (settings["train images"], settings["test images"], settings["epochs"]) == (4, 3, 1)
    assert settings["data"] == str(data.resolve()) and settings["machine"]["torch"]
    for entry in content["entries"]:
        assert entry["seconds"] > 0
        assert 0 <= entry["quality"]["ap"]["value"] <= entry["quality"]["ap50"]["value"] <= 1
        speed = entry["speed"]["eager"]
        network = speed["stages"]["network"] + speed["stages"]["nms"]
        assert speed["quartiles"]["network"]["low"] <= network <= 1.5 * speed["quartiles"]["network"]["high"]
        best = load_detector(whole / "cells" / entry["name"] / "seed0" / "best.safetensors")
        assert len(best.names) == 3
    first, second = (entry["speed"]["eager"]["quartiles"]["propose"]["median"] for entry in content["entries"])
    assert first > 0 == second  # from outside, and by itself
    assert content["proposals"]["sliding_window"]["train"]["images"] == 4
    assert content["proposals"]["sliding_window"]["train"]["new"] == 4
    names = {path.name for path in whole.iterdir()}
    assert names >= {"bench.json", "cells", "report.html", "results.json", "lineage.png", "lineage.svg"}


def test_a_finished_lineage_is_only_shown_again(
    whole: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    before = read(whole)
    for name in ("train", "measure", "pace"):
        monkeypatch.setattr(race_state, name, lambda *_, **__: pytest.fail("this was done before"))
    monkeypatch.setattr(timing, "take_latencies", lambda *_: pytest.fail("these were taken before"))
    assert run(data, whole) == 0
    assert read(whole)["entries"] == before["entries"]
    shown = capsys.readouterr()
    rows = [line.split() for line in shown.out.splitlines()]
    assert ["Fast", "R-CNN", "1.00", "1.00", "1.00"] in rows  # as fast as itself
    assert "proposals for the training images, not counted above: " in shown.out
    assert shown.out.splitlines()[-1].endswith(" cores for 4")
    assert "finished before: fast_rcnn, faster_rcnn" in shown.err
    assert "same for all: mobilenet_v3_small, 64 to 96 pixels · 4 training and 3 test images" in shown.err
    assert "proposer sliding_window" in shown.err  # a setting that the other has not
    assert run(data, whole, "--json") == 0
    assert json.loads(capsys.readouterr().out)["entries"] == before["entries"]


def test_other_settings_are_refused_by_name(whole: Path, data: Path):
    before = (whole / "bench.json").read_bytes()
    with pytest.raises(ValueError, match="other settings: fast_rcnn proposals was 20, now 30; f"):
        run(data, whole, "--proposals", "30")
    with pytest.raises(ValueError, match="seed was 0, now 5.*another --out"):
        run(data, whole, "--seed", "5")
    with pytest.raises(ValueError, match="fast_rcnn region_samples was 128, now 64; faster_rcnn region_samples"):
        run(data, whole, "--region-samples", "64")
    assert (whole / "bench.json").read_bytes() == before


def test_a_step_that_fails_is_told_and_tried_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    train, trained = race_state.train, []

    def diverges(job: Any, until: int) -> None:
        trained.append(job.cell.name)
        if job.cell.name == "fast_rcnn":
            raise DivergedError("the loss is no longer a finite number\nand more")
        train(job, until)

    with monkeypatch.context() as patched:
        patched.setattr(race_state, "train", diverges)
        assert run(data, tmp_path) == 1
    shown = capsys.readouterr()
    failed = "fast_rcnn failed: seed 0: DivergedError: the loss is no longer a finite number"
    assert failed in shown.out.splitlines()
    assert trained == ["fast_rcnn", "faster_rcnn"]
    before, after = read(tmp_path)["entries"]
    assert (before["state"], after["state"]) == ("failed", "finished") and after["speed"]
    assert (tmp_path / "lineage.png").exists()

    assert run(data, tmp_path) == 0
    entries = read(tmp_path)["entries"]
    assert entries[1]["quality"] == after["quality"]
    assert all(entry["speed"] for entry in entries)


def test_stopped_in_the_second_step_it_keeps_the_first(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train, first = race_state.train, []

    def stops(job: Any, until: int) -> None:
        if first:
            raise KeyboardInterrupt
        first.append(job)
        train(job, until)

    with monkeypatch.context() as patched:
        patched.setattr(race_state, "train", stops)
        assert run(data, tmp_path) == 130
    assert not (tmp_path / "results.json").exists()
    monkeypatch.setattr(race_state, "train", lambda *_, **__: pytest.fail("this was learnt before"))
    assert run(data, tmp_path, "--steps", "fast_rcnn") == 0  # the steps may be others
    assert [entry["name"] for entry in read(tmp_path)["entries"]] == ["fast_rcnn"]


def test_without_matplotlib_there_is_no_image(
    whole: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "boxwright.draw.plots", None)
    assert run(data, whole) == 0
    assert "no image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "rnn"], "there is no detector 'rnn'; did you mean rcnn"),
        (["--steps", "fast_rcnn", "fast_rcnn"], "takes different detectors"),
        (["--images", "7"], "--images asks for 7 images; the train split has 6"),
        (["--test-images", "0"], "--test-images is 1 or more, got 0"),
        (["--device", "gpu"], "there is no device 'gpu'"),
        (["--proposer", "nobody"], "nobody"),
    ],
)
def test_mistakes_are_said_before_the_work(data: Path, tmp_path: Path, words: list[str], said: str):
    with pytest.raises(ValueError, match=said):
        run(data, tmp_path / "new", *words)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "is no JSON"), ("[]", "is no record of boxwright bench"), ("{}", "is no record of boxwright bench")],
)
def test_a_file_of_somebody_else_is_left_alone(data: Path, tmp_path: Path, text: str, said: str):
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        run(data, tmp_path)
    assert (tmp_path / "bench.json").read_text() == text


def test_without_data_it_asks_for_some():
    with pytest.raises(ValueError, match="Name a dataset with --data"):
        Lineage().run()
