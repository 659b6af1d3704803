"""Killed and resumed equals never stopped, bit for bit."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from boxwright import checkpoint
from boxwright.checkpoint import CheckpointError
from boxwright.train.config import EARLIER
from shapes import write_shapes

SCRIPT = Path(__file__).with_name("tiny_run.py")
training = runpy.run_path(str(SCRIPT))["training"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), {"train": 16, "val": 2})


@pytest.fixture(scope="module")
def never_stopped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state after the last step of a run in one go."""
    run = training(data)
    assert [step.number for step in run.steps(progress=False)] == list(range(1, 9))
    run.save(tmp_path_factory.mktemp("whole") / "end.safetensors")
    return tmp_path_factory.getbasetemp() / "whole0" / "end.safetensors"


def assert_same(one: Path, other: Path) -> None:
    """All numbers of two states are equal: weights, average, both moments and counts of the optimiser, place, sums."""
    (first, said), (second, also_said) = checkpoint.read(one), checkpoint.read(other)
    assert first.keys() == second.keys()
    assert {key.split(".")[0] for key in first} == {"model", "average", "optimizer"}
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    assert said == also_said


def test_a_killed_run_goes_on_as_if_it_had_not_been(data: Path, never_stopped: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "slow", str(data), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "step 3\n":  # of four in the epoch: its losses are half summed up
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL

    run = training(data)
    run.resume(tmp_path / "resume.safetensors")
    assert (run.epoch, run.step) in {(0, 3), (1, 4), (1, 5)}  # it may have got a step further before the signal came
    losses = [epoch.losses for epoch in run.epochs(progress=False)]
    run.save(tmp_path / "end.safetensors")
    assert_same(tmp_path / "end.safetensors", never_stopped)
    assert losses[-1]["total"] > 0


def test_epoch_means_do_not_depend_on_resuming(data: Path, tmp_path: Path) -> None:
    whole = next(iter(training(data).epochs(progress=False)))
    half = training(data)
    for step in half.steps(progress=False):
        if step.number == 2:
            half.save(tmp_path / "half.safetensors")
            break
    other = training(data)
    other.resume(tmp_path / "half.safetensors")
    assert next(iter(other.epochs(progress=False))).losses == whole.losses


def test_stop_ends_the_loop_after_a_whole_step(data: Path) -> None:
    run = training(data)
    run.stop = True
    assert [step.number for step in run.steps(progress=False)] == [1]
    assert run.batch == 2 and not run.finished


def test_another_run_is_refused_and_nothing_has_changed(data: Path, never_stopped: Path) -> None:
    run = training(data, lr=1e-3, epochs=3)
    before = {key: value.clone() for key, value in run.detector.state_dict().items()}
    with pytest.raises(CheckpointError, match="epochs was 2, now 3; lr was 0.0005, now 0.001"):
        run.resume(never_stopped)
    assert all(torch.equal(before[key], value) for key, value in run.detector.state_dict().items())


def test_other_class_names_are_refused(data: Path, tmp_path: Path) -> None:
    """In another order, the rows of the heads would go on with crossed classes."""
    run = training(data)
    run.save(tmp_path / "resume.safetensors")
    names = run.batches.dataset.names  # type: ignore[attr-defined]
    first, second, third = names
    for others, difference in [
        ((first, third, second), rf"class names\[1\] was {second}, now {third}\)"),
        ((first, second), rf"class names\[2\] was {third}, now missing\)"),
    ]:
        run.batches.dataset = run.batches.dataset.restrict(others)  # type: ignore[attr-defined]
        with pytest.raises(CheckpointError, match=difference):
            run.resume(tmp_path / "resume.safetensors")
        run = training(data)
    tensors, described = checkpoint.read(tmp_path / "resume.safetensors")
    assert described["run"].pop("class names") == list(names)
    checkpoint.write(tmp_path / "old.safetensors", tensors, described)  # as earlier versions wrote it
    run.resume(tmp_path / "old.safetensors")


def test_a_state_from_before_there_were_some_options_goes_on(data: Path, tmp_path: Path) -> None:
    run = training(data, **EARLIER)
    run.save(tmp_path / "resume.safetensors")
    tensors, described = checkpoint.read(tmp_path / "resume.safetensors")
    for option, value in EARLIER.items():
        assert described["run"].pop(option) == value
    checkpoint.write(tmp_path / "old.safetensors", tensors, described)
    run.resume(tmp_path / "old.safetensors")
    with pytest.raises(CheckpointError, match=r"flat was 0\.0, now 0\.5"):
        training(data, **EARLIER | {"flat": 0.5}).resume(tmp_path / "old.safetensors")


def test_what_is_no_state_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        training(data).resume(tmp_path / "resume.safetensors")
    checkpoint.write(tmp_path / "best.safetensors", {"a": torch.zeros(1)}, {"detector": "faster_rcnn"})
    with pytest.raises(CheckpointError, match="no state of a training"):
        training(data).resume(tmp_path / "best.safetensors")
