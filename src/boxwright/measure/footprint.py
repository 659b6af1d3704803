"""The memory of a process that only detects, and its time to the first detections.

python -m boxwright.measure.footprint CHECKPOINT DEVICE STARTED IMAGE ...    prints a `Footprint` as a line of JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from boxwright import plugins
from boxwright.checkpoint import load_detector
from boxwright.device import choose_device
from boxwright.predict.predictor import Predictor


class Footprint(NamedTuple):
    """Of a process that loads a detector and detects in images one by one."""

    memory: int | None  # peak bytes in main memory; None where the system does not report it
    device_memory: int | None  # peak bytes of tensors on a CUDA GPU, without CUDA's own; None elsewhere
    first: float  # seconds from the start of the process to the first image's boxes, with files in the system's cache


def footprint(
    checkpoint: Path, paths: Sequence[Path], device: str | torch.device = "cpu", timeout: float = 600.0
) -> Footprint:
    """Measured in a new process. A detector that takes proposals has them computed anew for every image.

    Raises RuntimeError with the last line of the process if it fails, TimeoutError after `timeout` seconds.
    """
    if not paths:
        raise ValueError("a footprint takes one image at least, got none")
    arguments = [str(checkpoint), str(device), repr(time.time()), *map(str, paths)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment[plugins.VARIABLE] = plugins.for_new_process()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "boxwright.measure.footprint", *arguments],
            env=environment, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{checkpoint} took more than {timeout:g} s for {len(paths)} images") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode} (-9: out of memory?)"]
        raise RuntimeError(f"detecting with {checkpoint} failed in a process of its own: {lines[-1]}")
    return Footprint(**json.loads(done.stdout.splitlines()[-1]))


def _measure(checkpoint: Path, device: torch.device, started: float, paths: Sequence[Path]) -> Footprint:
    """Of this process, which started at `started` by the clock `time.time`."""
    loaded = load_detector(checkpoint, device)
    predictor = Predictor(loaded.detector, loaded.names, loaded.preprocess, device=device).uncached()
    first = 0.0
    for path in paths:
        predictor(path)
        first = first or time.time() - started
    gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Footprint(peak_memory(), gpu, first)


def peak_memory() -> int | None:
    """Peak bytes of this process in main memory."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux ru_maxrss starts at the parent's
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    checkpoint, device, started, *paths = sys.argv[1:]
    measured = _measure(Path(checkpoint), choose_device(device), float(started), [Path(path) for path in paths])
    print(json.dumps(measured._asdict()))
