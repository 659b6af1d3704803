"""Two processes under torchrun (gloo) train as one; neither waits for the other in vain."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("tiny_run.py")
TINY = runpy.run_path(str(SCRIPT))
Counter, one_epoch_and_a_step = TINY["Counter"], TINY["one_epoch_and_a_step"]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes reports of its trainings; all images of process 1 are without objects."""
    folder = tmp_path_factory.mktemp("pair")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, *torchrun, str(SCRIPT), "pair", str(folder)],
        env=environment,
        timeout=600,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet", "counter"])
def test_both_end_with_the_same_weights_after_the_same_steps(reports: list[dict[str, Any]], name: str) -> None:
    first, second = (report[name] for report in reports)
    assert first == second
    assert first["steps"] == 4  # three of the first epoch, and the one in which they agree to stop
    assert first["losses"]["total"] > 0


@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 1), (2, 2), (1, 4)])
def test_processes_and_accumulation_equal_one_larger_batch(
    reports: list[dict[str, Any]], batch_size: int, accumulate: int
) -> None:
    """For a loss that is a mean over images."""
    alone = one_epoch_and_a_step(Counter, batch_size=batch_size, accumulate=accumulate)
    assert alone["steps"] == reports[0]["counter"]["steps"]
    for name in ("weights", "averages"):
        assert alone[name] == pytest.approx(reports[0]["counter"][name], rel=1e-6)
    assert alone["losses"] == pytest.approx(reports[0]["counter"]["losses"], rel=1e-6)


def test_a_loss_that_is_not_finite_ends_both(reports: list[dict[str, Any]]) -> None:
    assert "the loss of another process is no longer a finite number" in reports[0]["diverged"]
    assert "the loss count is no longer a finite number in epoch 1, batch 1" in reports[1]["diverged"]
