"""`boxwright train` from end to end on a few drawn pictures."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from boxwright.cli import main, train
from boxwright.cli.train import Train, new_folder
from boxwright.data.formats import open_dataset
from boxwright.data.shapes import NAMES, write_shapes
from boxwright.detectors import DETECTORS
from boxwright.engine.checkpoint import load_detector
from boxwright.engine.evaluate import evaluate_detector
from boxwright.engine.history import History
from boxwright.engine.train import TrainConfig

SMALL = shlex.split(
    "faster_rcnn --no-pretrained --backbone mobilenet_v3_small --channels 16 --hidden 16 --proposals 20"
    " --size 64 96 --batch 2 --epochs 2 --workers 0 --precision fp32 --device cpu --log-every 2"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), {"train": 8, "val": 2, "test": 2})


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never stopped: two epochs of four steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert main(["train", *SMALL, "--data", str(data), "--out", str(folder)]) == 0
    return folder


def test_the_folder_of_a_run(whole: Path, data: Path) -> None:
    names = {path.name for path in whole.iterdir() if not path.name.startswith("events")}
    checkpoints = {"best.safetensors", "last.safetensors", "resume.safetensors"}
    assert names >= {"config.json", "log.jsonl", *checkpoints}
    assert not any(name.endswith(".partial") for name in names)
    assert "splits.json" not in names  # the dataset has parts of its own
    history = History(whole)
    assert [row["step"] for row in history.steps()] == [2, 4, 6, 8]
    assert [row["epoch"] for row in history.epochs()] == [1, 2]
    assert history.epochs()[1]["losses"].keys() == {"objectness", "proposal_box", "class", "box", "total"}


def test_the_best_checkpoint_rebuilds_the_detector_that_was_measured(whole: Path, data: Path) -> None:
    best = load_detector(whole / "best.safetensors")
    assert best.names == NAMES
    assert (best.preprocess.short, best.preprocess.long) == (64, 96)
    assert 0 <= best.metadata["threshold"] <= 1
    parts = open_dataset(data)
    for part in ("val", "test"):
        quality = evaluate_detector(best.detector, parts[part], NAMES, best.preprocess, progress=False)
        assert best.metadata["metrics"][part]["ap"] == quality.ap


def test_stopped_by_ctrl_c_and_resumed_equals_never_stopped(
    whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(History, "step", lambda self, step: signal.raise_signal(signal.SIGINT))
        assert main(["train", *SMALL, "--data", str(data), "--out", str(folder)]) == 130
    assert f"boxwright train --resume {folder}" in capfd.readouterr().err
    assert not (folder / "best.safetensors").exists()  # it was in the first epoch
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    assert main(["train", "--resume", str(folder), "--device", "cpu", "--workers", "1"]) == 0
    for name in ("resume.safetensors", "last.safetensors", "best.safetensors"):
        ours, theirs = load_file(folder / name), load_file(whole / name)
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    rows, wanted = History(folder).epochs(), History(whole).epochs()
    assert [row["losses"] for row in rows] == [row["losses"] for row in wanted]
    assert [row.get("val") for row in rows] == [row.get("val") for row in wanted]


def test_a_second_ctrl_c_stops_at_once() -> None:
    class Flag:
        stop = False

    with train._stopping(Flag()) as caught:  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGINT)
        assert Flag.stop is False and caught == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_finished_run_resumed_is_measured_again(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole / "resume.safetensors").read_bytes()
    assert main(["train", "--resume", str(whole), "--device", "cpu"]) == 0
    assert "on the test part" in capsys.readouterr().out
    assert (whole / "resume.safetensors").read_bytes() == before


def test_without_parts_they_are_drawn_and_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "boxwright.report.plots", None)  # as if matplotlib were not installed
    write_shapes("drawn", 12, format="yolo")
    options = shlex.split("--epochs 1 --augment none --classes square circle --resize letterbox --size 64 64 --ema 0")
    assert main(["train", *SMALL, "--data", "drawn", *options]) == 0
    folder = Path("runs/drawn-faster_rcnn")
    parts = json.loads((folder / "splits.json").read_text())
    assert len(parts["train"]) + len(parts["val"]) + len(parts["test"]) == 12
    loaded = load_detector(folder / "best.safetensors")
    assert loaded.names == ("square", "circle")
    assert (loaded.preprocess.mode, loaded.preprocess.height) == ("letterbox", 64)
    assert not (folder / "curves.png").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    assert new_folder(tmp_path / "a") == tmp_path / "a"
    assert new_folder(tmp_path / "a") == tmp_path / "a"  # still empty
    (tmp_path / "a" / "file").touch()
    assert new_folder(tmp_path / "a") == tmp_path / "a-2"
    (tmp_path / "a-2" / "file").touch()
    assert new_folder(tmp_path / "a") == tmp_path / "a-3"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["retinanet"], "boxwright train localizer|sliding_window|"),
        (["--data", "somewhere"], f"boxwright train {'|'.join(DETECTORS)} --data PATH"),
        (["--resume", "runs/x", "--epochs", "9"], "with the options of the run"),
        (["--resume", "runs/x"], "runs/x is no folder of a run: it has no config.json"),
        (["faster_rcnn", "--data", "DATA", "--classes", "circle", "cat"], "of which cat is not among them"),
        (["faster_rcnn", "--data", "DATA", "--device", "gpu"], "there is no device 'gpu'"),
    ],
)
def test_what_is_wrong_is_said(data: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *(word.replace("DATA", str(data)) for word in words)]) == 1
    assert said in " ".join(capsys.readouterr().err.split())


def test_no_option_means_two_things() -> None:
    """The options of a detector, of the optimisation and of the command are flags side by side."""
    for config in DETECTORS.values():
        kinds: tuple[Any, ...] = (Train, TrainConfig, config)
        counts = Counter(field.name for kind in kinds for field in fields(kind))
        assert [name for name, count in counts.items() if count > 1] == []
