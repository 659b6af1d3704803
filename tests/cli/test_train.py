"""`boxwright train` from end to end on a few drawn images."""

from __future__ import annotations

import json
import os
import resource
import shlex
import shutil
import signal
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from safetensors.torch import load_file

from boxwright import checkpoint
from boxwright.checkpoint import load_detector, save_detector
from boxwright.cli import main
from boxwright.cli.train import Train
from boxwright.cli.training import numbered_folder, open_splits, read_options, with_size
from boxwright.data.formats import open_dataset
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import DETECTORS, DetectorConfig, FCOSConfig, RetinaNetConfig, SSDConfig
from boxwright.device import choose_precision
from boxwright.measure.evaluate import evaluate_dataset
from boxwright.predict.predictor import Predictor
from boxwright.predict.propose import sources_of, warm
from boxwright.proposals import CachedProposer
from boxwright.proposals.sliding_window import SlidingWindow
from boxwright.train.config import TrainConfig
from boxwright.train.estimate import _proposing
from boxwright.train.history import History
from boxwright.train.run import Run, frozen
from boxwright.train.stop import stopping
from shapes import NAMES, write_shapes

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
    assert [row["step"] for row in history.rows("step")] == [2, 4, 6, 8]
    assert [row["epoch"] for row in history.epochs()] == [1, 2]
    assert history.epochs()[1]["losses"].keys() == {"objectness", "proposal_box", "class", "box", "total"}


def test_the_best_checkpoint_rebuilds_the_detector_that_was_measured(whole: Path, data: Path) -> None:
    best = load_detector(whole / "best.safetensors")
    assert best.names == NAMES
    assert (best.preprocess.short, best.preprocess.long) == (64, 96)
    assert 0 <= best.metadata["threshold"] <= 1
    parts = open_dataset(data)
    for part in ("val", "test"):
        quality = evaluate_dataset(Predictor(best.detector, NAMES, best.preprocess), parts[part], progress=False)
        assert best.metadata["metrics"][part]["ap"] == quality.ap
    assert ("val_bf16" in best.metadata["metrics"]) == (choose_precision(torch.device("cpu")) == "bf16")
    if "val_bf16" in best.metadata["metrics"]:
        reduced = Predictor(best.detector, NAMES, best.preprocess).with_precision("bf16")
        quality = evaluate_dataset(reduced, parts["val"], batch_size=2, progress=False)
        assert best.metadata["metrics"]["val_bf16"]["ap"] == quality.ap


def test_stopped_by_ctrl_c_and_resumed_equals_never_stopped(
    whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, before = tmp_path / "run", signal.getsignal(signal.SIGINT)  # a shell's background job ignores it
    with monkeypatch.context() as patch:
        patch.setattr(History, "step", lambda self, step: signal.raise_signal(signal.SIGINT))
        assert main(["train", *SMALL, "--data", str(data), "--out", str(folder)]) == 130
    assert f"boxwright train --resume {folder}" in capfd.readouterr().err
    assert not (folder / "best.safetensors").exists()  # it was in the first epoch
    assert signal.getsignal(signal.SIGINT) is before

    assert main(["train", "--resume", str(folder), "--device", "cpu", "--workers", "1"]) == 0
    for name in ("resume.safetensors", "last.safetensors", "best.safetensors"):
        ours, theirs = load_file(folder / name), load_file(whole / name)
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    rows, wanted = History(folder).epochs(), History(whole).epochs()
    assert [row["losses"] for row in rows] == [row["losses"] for row in wanted]
    assert [row.get("val") for row in rows] == [row.get("val") for row in wanted]


def test_a_full_disk_keeps_what_was_trained(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here a limit on the size of files, when the state is saved the second time."""

    def train(run: Run, training: Any, **_: Any) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            training.save(run.state)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(Run, "train", train)
    folder = tmp_path / "run"
    assert main(["train", *SMALL, "--data", str(data), "--out", str(folder)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{folder}/resume.safetensors: cannot be written (File too large); an older file there is unchanged" in error
    assert f"what was trained before is kept; to continue: boxwright train --resume {folder}" in error
    assert checkpoint.describe(folder / "resume.safetensors") and not list(folder.glob("*.partial"))


def test_a_second_ctrl_c_stops_at_once() -> None:
    class Flag:
        stop = False

    with stopping(Flag()) as caught:  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGINT)
        assert Flag.stop is False and caught == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_closed_terminal_stops_after_a_step_but_not_under_nohup() -> None:
    class Flag:
        stop = False

    for handler, expected in ((signal.SIG_DFL, [signal.SIGHUP]), (signal.SIG_IGN, [])):
        before = signal.signal(signal.SIGHUP, handler)
        try:
            flag = Flag()
            with stopping(flag) as caught:  # type: ignore[arg-type]
                signal.raise_signal(signal.SIGHUP)
            assert caught == expected and flag.stop == bool(expected)
        finally:
            signal.signal(signal.SIGHUP, before)


def test_a_finished_run_resumed_is_measured_again(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole / "resume.safetensors").read_bytes()
    assert main(["train", "--resume", str(whole), "--device", "cpu"]) == 0
    assert "on the test split" in capsys.readouterr().out
    assert (whole / "resume.safetensors").read_bytes() == before


def test_a_finished_run_is_trained_further_in_a_new_folder(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    before = (folder / "log.jsonl").read_bytes()
    assert main(shlex.split(f"train --resume {folder} --epochs 1 --device cpu --workers 0")) == 0
    out, err = capsys.readouterr()
    assert f"{folder} is finished; a new run with its options and a new schedule starts from its best weights" in err
    assert f"from {folder}: kept: circle, square, triangle; initialized: none; dropped: none\n" in out
    assert (folder / "log.jsonl").read_bytes() == before
    options, first = (read_options(path / "config.json") for path in (tmp_path / "run-2", folder))
    assert options == replace(first, start=str(folder), training=replace(first.training, epochs=1))
    assert len(History(tmp_path / "run-2").epochs()) == 1


def test_a_run_that_is_not_finished_is_not_trained_further(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, state = checkpoint.read(whole / "resume.safetensors")
    checkpoint.write(tmp_path / "resume.safetensors", tensors, state | {"epoch": 1})
    shutil.copy(whole / "config.json", tmp_path)
    assert main(["train", "--resume", str(tmp_path), "--epochs", "1"]) == 1
    assert f"{tmp_path} is not finished: it has done 1 of 2 epochs" in " ".join(capsys.readouterr().err.split())


def test_patience_ends_a_run_and_resuming_changes_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("history", "run"):
        monkeypatch.setattr(f"boxwright.train.{module}.rank", lambda ap: 0.0)
    options = f"--data {data} --out {tmp_path} --epochs 5 --patience 1 --batch 8 --augment none"
    assert main(["train", *SMALL, *shlex.split(options)]) == 0
    captured = capsys.readouterr()
    assert "ended after epoch 2 of 5: no better AP on val for 1 epoch (--patience)" in captured.err
    assert "the best detector, of epoch 1, on the test split" in captured.out
    before = (tmp_path / "resume.safetensors").read_bytes()
    assert main(["train", "--resume", str(tmp_path), "--device", "cpu", "--workers", "0"]) == 0
    assert (tmp_path / "resume.safetensors").read_bytes() == before


@pytest.mark.parametrize("within", [True, False])
def test_a_run_that_its_time_ended_goes_on_as_if_it_had_not_been(
    within: bool, whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        if not within:  # the first epoch fits, another one does not
            patch.setattr(Run, "_fits", lambda self, spent, step: step.epoch is None)
        limit = "0.001s" if within else "1h"
        assert main(["train", *SMALL, "--data", str(data), "--out", str(tmp_path / "run"), "--max-time", limit]) == 0
    err = capsys.readouterr().err
    assert f"ended after epoch {0 if within else 1} of 2, as --max-time is over" in err
    assert ("too short for the first epoch" in err) == within
    assert (tmp_path / "run" / "best.safetensors").exists() != within
    resume = f"train --resume {tmp_path / 'run'} --max-time 1h --device cpu --workers 0"
    assert main(shlex.split(resume)) == 0
    for name in ("resume.safetensors", "last.safetensors", "best.safetensors"):
        ours, theirs = load_file(tmp_path / "run" / name), load_file(whole / name)
        assert [key for key in theirs if not torch.equal(ours[key], theirs[key])] == []


def test_a_dry_run_describes_and_estimates_and_writes_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *SMALL, "--data", str(data), "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert "chosen: --frozen-stages 0 --norm batch: the backbone starts from random weights" in shown.out
    lines = shown.out.splitlines()
    objects = int((~open_dataset(data)["train"].crowd).sum())
    assert f"train 8 {objects} 128 x 96 85 x 64".split() in [line.split() for line in lines]
    for start in ("a step takes ", "the run takes about ", "memory at its peak: "):
        assert len([line for line in lines if line.startswith(start)]) == 1
    assert "2 epochs of 4 steps" in lines[2]
    assert not (tmp_path / "run").exists()


def test_a_dry_run_counts_the_proposals_that_are_not_in_the_cache(data: Path, tmp_path: Path) -> None:
    proposer = CachedProposer(SlidingWindow(), tmp_path)
    splits = open_dataset(data)
    assert (
        _proposing(proposer, splits) > 0 and _proposing(proposer, splits) > 0
    )  # the estimate leaves the cache as it is
    warm(proposer, sources_of(splits["train"]))
    assert _proposing(proposer, splits) == _proposing(SlidingWindow(), splits) == 0


def test_which_random_layers_would_stay_frozen() -> None:
    assert frozen(SSDConfig()) == "2 stages and the batch norms"
    assert frozen(SSDConfig(norm="batch", frozen_stages=1)) == "1 stage"
    assert frozen(SSDConfig(norm="batch", frozen_stages=0)) == ""
    assert frozen(DETECTORS["spp_net"]()) == "all" and frozen(DetectorConfig()) == ""


def test_an_error_about_levels_names_the_option(data: Path, capsys) -> None:
    words = ["train", "retinanet", "--backbone", "mobilenet_v3_small", "--levels", "3", "9", "--no-pretrained"]
    assert main([*words, "--data", str(data), "--device", "cpu"]) == 1
    error = capsys.readouterr().err
    assert "levels (--levels) ascend among (1, 2, 3, 4, 5) for MobileNetV3" in error
    assert error.endswith("got (3, 9); give --levels 3\n")


def test_fractions_of_drawn_splits(data: Path, tmp_path: Path) -> None:
    undivided = write_shapes(tmp_path / "undivided", 12, format="yolo")
    splits = open_splits(Train(data=undivided, val_fraction=0.5, test_fraction=0.0))
    assert list(splits) == ["train", "val"] and len(splits["val"]) >= 3
    without_val = open_splits(Train(data=write_shapes(tmp_path / "train", {"train": 4}), val_fraction=0.0))
    assert (list(without_val), without_val.drawn) == (["train"], ())
    with pytest.raises(ValueError, match="has a val split itself, so that --val-fraction has nothing to draw"):
        open_splits(Train(data=data, val_fraction=0.2))


def test_without_parts_they_are_drawn_and_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "boxwright.draw.plots", None)  # as if matplotlib were not installed
    write_shapes("drawn", 12, format="yolo")
    options = shlex.split("--epochs 1 --augment none --classes square circle --resize letterbox --size 64 64 --ema 0")
    assert main(["train", *SMALL, "--data", "drawn", *options]) == 0
    assert "fewer than 50: too few to measure AP; give it a larger --val-fraction, or" in capsys.readouterr().err
    folder = Path("runs/drawn-faster_rcnn")
    parts = json.loads((folder / "splits.json").read_text())
    assert len(parts["train"]) + len(parts["val"]) + len(parts["test"]) == 12
    loaded = load_detector(folder / "best.safetensors")
    assert loaded.names == ("square", "circle")
    assert (loaded.preprocess.mode, loaded.preprocess.height) == ("letterbox", 64)
    assert not (folder / "curves.png").exists()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of circles and cats that sees images as 64 x 96 pixels, and whose weights have a licence."""
    torch.manual_seed(5)
    config = RetinaNetConfig("mobilenet_v3_small", channels=16, depth=1, frozen_stages=1)
    path = tmp_path_factory.mktemp("model") / "cats.safetensors"
    preprocess = Preprocess("letterbox", height=64, width=96, resample="plain")
    save_detector(path, config.build(2), config, ("cat", "Circle"), preprocess, {"licence": "CC0-1.0"})
    return path


def test_fine_tuning_takes_what_it_knows_from_the_model_and_needs_it_no_more(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = Path(shutil.copy(model, tmp_path)), tmp_path / "run"
    words = shlex.split("--batch 2 --epochs 1 --workers 0 --precision fp32 --device cpu --log-every 2 --lr 1e-9")
    with monkeypatch.context() as patch:
        patch.setattr(History, "step", lambda self, step: signal.raise_signal(signal.SIGINT))
        assert main(["train", "--from", str(file), "--data", str(data), "--out", str(folder), *words]) == 130
    said = "kept: circle ('Circle'); initialized: square, triangle; dropped: cat\n"
    assert f"from {file}: {said}" in capsys.readouterr().out

    file.unlink()
    assert main(["train", "--resume", str(folder), "--device", "cpu"]) == 0
    before, after = load_detector(model), load_detector(folder / "best.safetensors")
    assert (after.config, after.preprocess) == (before.config, before.preprocess)
    assert after.names == NAMES
    origin = after.metadata["from"]
    assert origin == json.loads((folder / "config.json").read_text())["from"]
    assert (origin["model"], origin["detector"], origin["licence"]) == (str(file), "retinanet", "CC0-1.0")
    assert (origin["kept"], origin["started"], origin["dropped"]) == (["circle"], ["square", "triangle"], ["cat"])
    head = [each.detector.state_dict()["anchors.head.logits.weight"] for each in (before, after)]
    rows = head[0].unflatten(0, (9, 2))[:, 1], head[1].unflatten(0, (9, 3))[:, NAMES.index("circle")]
    torch.testing.assert_close(*rows, rtol=0, atol=1e-6)  # at that learning rate nothing moves


def test_a_detector_that_is_named_begins_with_the_options_of_the_model(model: Path) -> None:
    defaults = Train.defaults(["--from", str(model)])

    def read(words: str) -> Any:
        return tyro.cli(Train, args=shlex.split(words), default=defaults).detector

    config = load_detector(model).config
    assert read("--from x") == config
    assert read("retinanet --depth 2 --backbone efficientnet_lite0") == replace(
        config, depth=2, backbone="efficientnet_lite0"
    )
    assert read("fcos") == FCOSConfig()


def test_sizes_of_images_change_the_preprocessing_of_the_model(model: Path) -> None:
    before = load_detector(model).preprocess
    assert with_size(Train()).preprocess == Preprocess(short=320, long=416)
    assert with_size(Train(preprocess=before)).preprocess == before
    larger = with_size(Train(preprocess=before, size=(128, 160))).preprocess
    assert larger == replace(before, height=128, width=160)
    other = with_size(Train(preprocess=before, resize="short_side")).preprocess
    assert other == replace(before, mode="short_side", short=64, long=96)


def test_the_folder_of_a_run_from_before_there_was_fine_tuning(whole: Path, tmp_path: Path) -> None:
    content = json.loads((whole / "config.json").read_text())
    wanted = read_options(whole / "config.json")
    del content["preprocess"], content["from"], content["options"]["start"]
    content["options"]["resize"] = "short_side"
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read_options(tmp_path / "config.json") == replace(wanted, resize="short_side")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    def new(name: str) -> Path:
        with ExitStack() as held:
            return numbered_folder(tmp_path / name, held)

    assert new("a") == new("a") == tmp_path / "a"  # still empty
    (tmp_path / "a" / "file").touch()
    assert new("a") == tmp_path / "a-2"
    (tmp_path / "a-2" / "file").touch()
    assert new("a") == tmp_path / "a-3"


def test_two_runs_never_get_the_same_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ExitStack() as held, ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: numbered_folder(tmp_path / "runs" / "a", held), range(16)))
        assert len(set(folders)) == 16
    assert f"runs/a is in use by process {os.getpid()} on " in " ".join(capsys.readouterr().err.split())
    assert [path for folder in folders for path in folder.iterdir()] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["retinanet"], "boxwright train localizer|sliding_window|"),
        (["--data", "somewhere"], f"boxwright train {'|'.join(DETECTORS)} --data PATH"),
        (["--resume", "runs/x", "--lr", "9"], "--from runs/x --data PATH"),
        (["--resume", "runs/x", "--epochs", "9"], "runs/x is no folder of a run: it has no config.json"),
        (["faster_rcnn", "--data", "DATA", "--max-time", "soon"], "--max-time is a length of time such as 45s"),
        (["faster_rcnn", "--data", "DATA", "--patience", "0"], "--patience is 1 or more, got 0"),
        (["ssd", "--data", "DATA", "--accept-changed-data"], "continues a run; name its folder: --resume DIR"),
        (["--resume", "runs/x"], "runs/x is no folder of a run: it has no config.json"),
        (["faster_rcnn", "--data", "DATA", "--classes", "circle", "cat"], "got circle, cat; unknown: cat"),
        (["faster_rcnn", "--data", "DATA", "--device", "gpu"], "there is no device 'gpu'"),
        (["--from", "nowhere.safetensors", "--data", "DATA"], "there is no model 'nowhere.safetensors'"),
        (["--from", "RUN/resume.safetensors", "--data", "DATA"], "holds no detector (a training's resume file?)"),
        (["fcos", "--from", "RUN", "--data", "DATA", "--device", "cpu"], "in the FasterRCNN to start from: give the"),
    ],
)
def test_what_is_wrong_is_said(
    data: Path, whole: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("DATA", str(data)).replace("RUN", str(whole)) for word in words]
    assert main(["train", *words]) == 1
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("splits", "words", "message"),
    [
        ({"test": 2}, [], "DATA has no train split; it has test"),
        ({"train": 2, "val": 1}, ["--classes", "square"], "the val split has no object of square to choose the best"),
        ({"train": 2, "val": 1}, ["--classes", "triangle"], "the train split has no object of triangle to learn from"),
    ],
)
def test_data_without_what_is_needed_is_refused_before_anything_is_written(
    splits: dict[str, int], words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_shapes(tmp_path / "data", splits, format="yolo")
    for split, label in (("train", 1), ("val", 0)):  # squares to learn from, circles to measure by
        for file in (data / "labels" / split).glob("*.txt"):
            file.write_text(f"{label} 0.5 0.5 0.2 0.2\n")
    assert main(["train", *SMALL, "--data", str(data), "--out", str(tmp_path / "run"), *words]) == 1
    assert message.replace("DATA", str(data)) in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("format", ["yolo", "coco"])
def test_a_run_is_not_resumed_with_the_classes_in_another_order(
    format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, folder = write_shapes(tmp_path / "data", {"train": 2, "val": 1}, format=format), tmp_path / "run"
    assert main(["train", *SMALL, "--data", str(data), "--out", str(folder), "--epochs", "1"]) == 0
    assert f"{folder}/, also for TensorBoard: tensorboard --logdir {folder}" in capsys.readouterr().out
    for file in data.glob("*.yaml" if format == "yolo" else "*.json"):
        text = file.read_text()
        if format == "yolo":
            file.write_text(text.replace("circle", "?").replace("square", "circle").replace("?", "square"))
        else:
            content = json.loads(text)
            first, second = (category["id"] for category in content["categories"][:2])
            other = {first: second, second: first}
            for row, key in [(row, "id") for row in content["categories"]] + [
                (row, "category_id") for row in content["annotations"]
            ]:
                row[key] = other.get(row[key], row[key])
            file.write_text(json.dumps(content))
    resume = ["train", "--resume", str(folder), "--device", "cpu"]
    assert main(resume) == 1
    err = " ".join(capsys.readouterr().err.split())
    assert "class names[0] was circle, now square" in err
    moved = "train: 2 images with other boxes, classes or size (images/train/00000.png, images/train/00001.png)"
    assert (moved in err) == (format == "yolo")
    (folder / "data.json").unlink()  # as earlier versions left it
    assert main(["train", "--resume", str(folder), "--device", "cpu"]) == 1
    assert "class names[0] was circle, now square" in " ".join(capsys.readouterr().err.split())


def test_a_run_is_resumed_with_changed_data_only_where_that_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, folder = write_shapes(tmp_path / "data", {"train": 4, "val": 1}, format="yolo"), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(History, "step", lambda self, step: signal.raise_signal(signal.SIGINT))
        assert (
            main(["train", *SMALL, "--data", str(data), "--out", str(folder), "--epochs", "2", "--log-every", "1"])
            == 130
        )
    moved = Path(shutil.move(data, tmp_path / "moved"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "data": str(moved)}))
    for kind, suffix in (("images", ".png"), ("labels", ".txt")):
        for number in range(2):
            file = moved / kind / "train" / f"0000{number}{suffix}"
            shutil.copy(file, file.with_stem(f"new{number}"))
    resume, before = ["train", "--resume", str(folder), "--device", "cpu"], (folder / "data.json").read_bytes()
    assert main(resume) == 1
    err = " ".join(capsys.readouterr().err.split())
    change = "train: 2 images added (images/train/new0.png, images/train/new1.png)"
    assert f"{moved} is not as it was when this run was trained on it: {change}" in err
    assert "Restore the data, go on all the same with --accept-changed-data, or start a new run" in err
    assert (folder / "data.json").read_bytes() == before and main([*resume, "--accept-changed-data"]) == 0
    out, err = capsys.readouterr()
    assert change in " ".join(err.split()) and "epoch 2/2" in out
    assert [row["step"] for row in History(folder).rows("step")] == [1, 2, 3, 4, 5, 6]
    assert main(resume) == 0  # it was told once
    names = (moved / "data.yaml").read_text()
    (moved / "data.yaml").write_text(names.replace("circle", "disc"))
    assert main(resume) == 1
    err = " ".join(capsys.readouterr().err.split())
    assert "class names[0] was circle, now disc; train: 6 images with other boxes" in err
    (moved / "data.yaml").write_text(names.replace("triangle", "triangle, new"))
    assert main([*resume, "--accept-changed-data"]) == 1
    assert "A run keeps the number of its classes" in " ".join(capsys.readouterr().err.split())


def test_no_option_means_two_things() -> None:
    """The options of a detector, of the optimisation and of the command are flags side by side."""
    for config in DETECTORS.values():
        kinds: tuple[Any, ...] = (Train, TrainConfig, config)
        counts = Counter(field.name for kind in kinds for field in fields(kind))
        assert [name for name, count in counts.items() if count > 1] == []
