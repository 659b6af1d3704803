"""`boxwright lineage` from end to end on a few drawn images: goes on, refuses, and survives a step that fails."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro

from boxwright.checkpoint import load_detector
from boxwright.cli import lineage
from boxwright.cli.lineage import Lineage
from boxwright.train.loop import DivergedError
from shapes import write_shapes

SMALL = (
    "--steps fast_rcnn faster_rcnn --no-pretrained --backbone mobilenet_v3_small --proposer sliding_window"
    " --proposals 20 --size 64 96 --batch 2 --epochs 1 --precision fp32 --device cpu --images 4 --timed 1 --workers 0"
)


def run(data: Path, out: Path, *more: str) -> int:
    options = [*shlex.split(SMALL), *more, "--data", str(data), "--out", str(out)]
    return tyro.cli(Lineage, args=options, config=(tyro.conf.FlagCreatePairsOff,)).run()


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "lineage.json").read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), {"train": 6, "val": 1, "test": 3})


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a lineage of two steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert run(data, folder) == 0
    return folder


def test_what_is_in_the_folder(whole: Path, data: Path):
    content = read(whole)
    assert list(content["steps"]) == list(content["times"]) == ["fast_rcnn", "faster_rcnn"]
    settings = content["settings"]
    assert (settings["training images"], settings["test images"], settings["epochs"]) == (4, 3, 1)
    assert settings["data"] == str(data.resolve()) and settings["torch"]
    assert content["command"].split()[0] == "boxwright"
    for name, step in content["steps"].items():
        assert step["seconds"] == pytest.approx(4 * step["seconds_per_image"])
        assert 0 <= step["ap"] <= step["ap50"] <= 1
        assert len(content["times"][name]["network"]["seconds"]) == 3
        best = load_detector(whole / f"{name}.safetensors")
        assert best.metadata["config"] == content["configs"][name]
        assert best.metadata["metrics"]["test"]["ap50"] == step["ap50"]
    assert content["times"]["fast_rcnn"]["proposals"]["median"] > 0
    assert content["times"]["faster_rcnn"]["proposals"] == {}
    assert content["proposals"]["train"]["images"] == 4
    names = {path.name for path in whole.iterdir()}
    assert names == {"lineage.json", "lineage.png", "lineage.svg", "fast_rcnn.safetensors", "faster_rcnn.safetensors"}


def test_a_finished_lineage_is_only_shown_again(
    whole: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    before = (whole / "lineage.json").read_bytes()
    monkeypatch.setattr(lineage, "learn", lambda *_: pytest.fail("this was learnt before"))
    monkeypatch.setattr(lineage, "take_times", lambda *_: pytest.fail("these were taken before"))
    assert run(data, whole) == 0
    assert (whole / "lineage.json").read_bytes() == before
    shown = capsys.readouterr()
    rows = [line.split() for line in shown.out.splitlines()]
    assert ["Fast", "R-CNN", "1.00", "1.00", "1.00"] in rows  # as fast as itself
    assert "finished before: fast_rcnn, faster_rcnn" in shown.err
    assert "same for all: mobilenet_v3_small, 64 to 96 pixels · 4 training and 3 test images" in shown.err
    assert "proposer sliding_window" in shown.err  # a setting that the other has not
    assert run(data, whole, "--json") == 0
    assert json.loads(capsys.readouterr().out)["steps"] == read(whole)["steps"]


def test_other_settings_are_refused_by_name(whole: Path, data: Path):
    before = (whole / "lineage.json").read_bytes()
    with pytest.raises(ValueError, match="other settings: proposals was 20, now 30; f"):
        run(data, whole, "--proposals", "30")
    with pytest.raises(ValueError, match="seed was 0, now 5.*another --out"):
        run(data, whole, "--seed", "5")
    with pytest.raises(ValueError, match="fast_rcnn region_samples was 128, now 64; faster_rcnn region_samples"):
        run(data, whole, "--region-samples", "64")
    assert (whole / "lineage.json").read_bytes() == before


def test_a_step_that_fails_is_told_and_tried_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    learn, learnt = lineage.learn, []

    def diverges(config: Any, recipe: Any) -> Any:
        learnt.append(type(config).__name__)
        if "Faster" not in type(config).__name__:
            raise DivergedError("the loss is no longer a finite number\nand more")
        return learn(config, recipe)

    with monkeypatch.context() as patch:
        patch.setattr(lineage, "learn", diverges)
        assert run(data, tmp_path) == 1
    shown = capsys.readouterr()
    assert "fast_rcnn failed: DivergedError: the loss is no longer a finite number" in shown.out.splitlines()
    content = read(tmp_path)
    assert learnt == ["FastRCNNConfig", "FasterRCNNConfig"]
    assert list(content["times"]) == ["faster_rcnn"] and "ap50" in content["steps"]["faster_rcnn"]
    assert (tmp_path / "lineage.png").exists()

    assert run(data, tmp_path) == 0
    assert read(tmp_path)["steps"]["faster_rcnn"] == content["steps"]["faster_rcnn"]
    assert list(read(tmp_path)["times"]) == ["fast_rcnn", "faster_rcnn"]


def test_stopped_in_the_second_step_it_keeps_the_first(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    learn, first = lineage.learn, []

    def stops(config: Any, recipe: Any) -> Any:
        if first:
            raise KeyboardInterrupt
        first.append(config)
        return learn(config, recipe)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lineage, "learn", stops)
        run(data, tmp_path)
    step = read(tmp_path)["steps"]
    assert list(step) == ["fast_rcnn"]
    assert run(data, tmp_path, "--steps", "fast_rcnn") == 0  # the steps may be others
    assert read(tmp_path)["steps"] == step


def test_without_matplotlib_there_is_no_image(
    whole: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "boxwright.draw.plots", None)
    assert run(data, whole) == 0
    assert "no image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "rnn"], "--steps takes different ones of .*; got rnn"),
        (["--steps", "fast_rcnn", "fast_rcnn"], "different ones"),
        (["--images", "7"], "--images asks for 7 images; the train part has 6"),
        (["--test-images", "0"], "--test-images is 1 or more, got 0"),
        (["--device", "gpu"], "there is no device 'gpu'"),
        (["--proposer", "nobody"], "nobody"),
    ],
)
def test_mistakes_are_said_before_the_work(data: Path, tmp_path: Path, words: list[str], said: str):
    with pytest.raises(ValueError, match=said):
        run(data, tmp_path / "new", *words)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("text", "said"), [("{", "is no JSON"), ("[]", "not written by"), ("{}", "not written by")])
def test_a_file_of_somebody_else_is_left_alone(data: Path, tmp_path: Path, text: str, said: str):
    (tmp_path / "lineage.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        run(data, tmp_path)
    assert (tmp_path / "lineage.json").read_text() == text


def test_without_data_it_asks_for_some():
    with pytest.raises(ValueError, match="Name a dataset with --data"):
        Lineage().run()
