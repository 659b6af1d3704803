"""Killed at any moment, a command that is run again ends as if it had not been; `make kill` tries many moments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_command_that_is_killed_and_run_again_loses_nothing(tmp_path: Path) -> None:
    """In a process of its own, which forks: this one may have threads."""
    script = Path(__file__).with_name("kills.py")
    points = ["train:replace", "detect:fsync"]
    command = [sys.executable, str(script), "--count", "2", "--keep", str(tmp_path), "--only", *points]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kills, 0 with a fault" in done.stdout
    assert done.stdout.count("| signal 9 | status 0 |") == 2
