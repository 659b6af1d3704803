"""Kill commands at random moments, run them again, and compare what is there with a run that was never killed.

python tests/kills.py [--count 30] [--seed 0] [--keep FOLDER]

This process imports everything, never computes, and forks: a command begins at once in a child, a session of its own.
SIGKILL ends the child at a random time (main), it with all its children (group), or one of its data workers (worker);
or the child kills itself before its n-th os.fsync or os.replace (fsync, replace) or after that (replaced). Then the
same command, or `train --resume`, must end well, with the same weights, detections or boxes, without a lock, and with
the files of a run that was never killed, and at most named partial ones besides.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.numpy import load_file

from bench import tiny_race
from boxwright.bench.plan.budget import Plan
from boxwright.bench.run import state as race_state
from boxwright.cli import main
from boxwright.lock import LOCK
from boxwright.train.history import History
from shapes import write_shapes

MODEL = shlex.split(
    "ssd --no-pretrained --backbone mobilenet_v3_small --size 64 96 --batch 2 --epochs 2 --workers 1 --precision fp32"
    " --device cpu --log-every 1"
)
IMPORTED = (
    "boxwright.cli.training", "boxwright.cli.detecting", "boxwright.cli.propose", "boxwright.draw.plots", "hotcoco",
    "torch.utils.tensorboard", "typeguard",
)  # fmt: skip
"""Here and not in each child, where it takes seconds."""

LIMIT = 300.0  # seconds until a command counts as hanging
PARTIAL = re.compile(r"\.[0-9a-f]{12}\.[0-9]+\.partial$")


@dataclass(frozen=True)
class Case:
    """A command.

    run      the first time, and again where it was killed: a function of the folder, in the child; the exit status
    content  what must be equal afterwards, by name
    points   the ways to kill it
    """

    run: Callable[[Path], int]
    content: Callable[[Path], Mapping[str, Any]]
    points: tuple[str, ...]


class Ending(NamedTuple):
    """Of a child: its exit status, or minus the signal; its seconds; how often it called each function."""

    status: int
    seconds: float
    calls: Mapping[str, int]


class Kill(NamedTuple):
    """At a point: the number of the call, or the seconds from the start."""

    point: str
    moment: float


def cases(data: Path, model: Path) -> dict[str, Case]:
    images = data / "images"

    def train(folder: Path) -> int:
        run = folder / "run"
        if (run / "config.json").exists():
            return main(["train", "--resume", str(run), "--device", "cpu", "--workers", "1"])
        return main(["train", *MODEL, "--data", str(data), "--out", str(run)])

    def bench(folder: Path) -> int:
        with pytest.MonkeyPatch.context() as patch:
            tiny_race.patch(patch)
            patch.setattr(race_state, "make_plan", lambda *_, **__: Plan(1, (), 1.0))
            rules = replace(tiny_race.RULES, workers=1)
            cells: Any = [tiny_race.CELLS[1], tiny_race.CELLS[3]]
            race = tiny_race.run(data, folder / "race", cells, rules=rules, retry=True)
        return int(any(entry.state == "failed" for entry in race.entries))

    def detect(folder: Path) -> int:
        outputs = ["--out", "drawn", "--json-file", "found.jsonl", "--coco", "coco.json", "--yolo", "yolo"]
        outputs = [word if word.startswith("--") else str(folder / word) for word in outputs]
        return main(["detect", str(images), "--model", str(model), "--threshold", "0.01", "--device", "cpu", *outputs])

    def propose(folder: Path) -> int:
        os.environ["BOXWRIGHT_CACHE"] = str(folder / "cache")
        return main(["propose", str(images), "--count", "50", "--out", str(folder / "boxes.safetensors")])

    return {
        "train": Case(train, _of_training, ("main", "group", "worker", "fsync", "replace", "replaced")),
        "bench": Case(bench, _of_race, ("main", "group", "worker", "fsync", "replace", "replaced")),
        "detect": Case(detect, _of_files, ("main", "fsync", "replace", "replaced")),
        "propose": Case(propose, _of_boxes, ("main", "fsync", "replace", "replaced")),
    }


def _of_training(folder: Path) -> dict[str, Any]:
    """Weights, averages, moments of the optimizer, and the numbers of each epoch."""
    run = folder / "run"
    epochs = [(row["epoch"], row["losses"], row.get("val")) for row in History(run).epochs()]
    return {"epochs": epochs, **{name: _tensors(run / f"{name}.safetensors") for name in ("best", "last", "resume")}}


def _of_race(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for job in sorted((folder / "race" / "cells").glob("*/*")):
        name = job.relative_to(folder).as_posix()
        found[f"{name} weights"] = _tensors(job / "best.safetensors")
        with np.load(job / "test.npz") as arrays:
            found[f"{name} detections"] = {key: arrays[key].tobytes() for key in arrays.files}
    results = json.loads((folder / "race" / "results.json").read_text(encoding="utf-8"))
    return found | {"quality": [(entry["name"], entry["quality"]) for entry in results["entries"]]}


def _of_files(folder: Path) -> dict[str, Any]:
    return {name: (folder / name).read_bytes() for name in files_of(folder) if not PARTIAL.search(name)}


def _of_boxes(folder: Path) -> dict[str, Any]:
    return _tensors(folder / "boxes.safetensors")


def _tensors(path: Path) -> dict[str, Any]:
    return {key: (str(value.dtype), value.shape, value.tobytes()) for key, value in load_file(path).items()}


def files_of(folder: Path) -> set[str]:
    """Without the events of TensorBoard, whose names tell the process, the cache, and the list of outputs."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {path for path in paths if "tfevents" not in path and path != "drawn/.boxwright-outputs"
            and not path.endswith("/.boxwright-outputs") and path != ".boxwright-outputs"
            and not path.startswith("cache/")}  # fmt: skip


def run(case: Case, folder: Path, log: Path, kill: Kill | None = None) -> Ending:
    """Run the command in a child, and kill it."""
    calls = log.with_suffix(".calls")
    started = time.monotonic()
    child = os.fork()
    if not child:
        _in_child(case, folder, log, calls, kill)
    if kill is not None and kill.point in ("main", "group", "worker"):
        _kill_from_outside(child, kill)
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        if time.monotonic() - started > LIMIT:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"it hangs after {kill}; {log}")
        time.sleep(0.01)
    seconds = time.monotonic() - started
    counted = json.loads(calls.read_text()) if calls.exists() else {}
    return Ending(os.waitstatus_to_exitcode(status), seconds, counted)


def _in_child(case: Case, folder: Path, log: Path, calls: Path, kill: Kill | None) -> NoReturn:
    status = 70  # of an error in this script
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(output, stream)
        torch.set_num_threads(1)
        count = _arm(kill)
        folder.mkdir(exist_ok=True)
        status = case.run(folder)
        calls.write_text(json.dumps(count))
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _arm(kill: Kill | None) -> dict[str, int]:
    """Count the calls, and end this process at that of `kill`; not its children."""
    count, process, lock = {"fsync": 0, "replace": 0, "replaced": 0}, os.getpid(), threading.Lock()

    def reach(point: str) -> None:
        if os.getpid() == process:
            with lock:
                count[point] += 1
                if kill is not None and (point, count[point]) == tuple(kill):
                    os.kill(process, signal.SIGKILL)

    fsync, replace = os.fsync, os.replace

    def counted_fsync(file: Any) -> None:
        reach("fsync")
        fsync(file)

    def counted_replace(*paths: Any, **options: Any) -> None:
        reach("replace")
        replace(*paths, **options)
        reach("replaced")

    os.fsync, os.replace = counted_fsync, counted_replace
    return count


def _kill_from_outside(child: int, kill: Kill) -> None:
    time.sleep(kill.moment)
    try:
        if kill.point == "worker":
            workers = _wait_for_workers(child)
            os.kill(workers[0], signal.SIGKILL) if workers else None
        elif kill.point == "group":
            os.killpg(child, signal.SIGKILL)
        else:
            os.kill(child, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it was faster


def _wait_for_workers(child: int) -> list[int]:
    """The processes that a child has started; [] where it ends without."""
    while True:
        try:
            listed = Path(f"/proc/{child}/task/{child}/children").read_text().split()
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return []
        if listed or state == "Z":
            return list(map(int, listed))
        time.sleep(0.002)


class Outcome(NamedTuple):
    """A row of the table; `fault` is "" where all is as it must be."""

    command: str
    point: str
    moment: str
    died: str
    again: str
    partial: int
    fault: str


def attempt(name: str, case: Case, whole: Path, first: Ending, kill: Kill, folder: Path) -> Outcome:
    """Kill, run again, compare. `whole` is the folder of a run that was not killed, which ended as `first`."""
    log = folder.with_suffix(".log")
    killed = run(case, folder, log, kill)
    again = run(case, folder, log)
    left = files_of(folder) - files_of(whole)
    named = {file for file in left if PARTIAL.search(file)}
    faults = list(_faults(case, whole, folder, kill, killed, again, left - named, log))
    by_call = kill.point in first.calls
    moment = f"{kill.moment:.0f} of {first.calls[kill.point]}" if by_call else f"{kill.moment:.2f} s"
    died = f"signal {-killed.status}" if killed.status < 0 else f"status {killed.status}"
    return Outcome(name, kill.point, moment, died, f"status {again.status}", len(named), "; ".join(faults))


def _faults(
    case: Case, whole: Path, folder: Path, kill: Kill, killed: Ending, again: Ending, left: set[str], log: Path
) -> Iterator[str]:
    allowed = {0, 1} if kill.point == "worker" else {0, -signal.SIGKILL}
    if killed.status not in allowed or "Traceback" in log.read_text(errors="replace"):
        yield f"ended with {killed.status}, see {log}"
    if again.status:
        yield f"again: status {again.status}, see {log}"
        return
    expected, found = case.content(whole), case.content(folder)
    yield from (f"{key} differs" for key in {**expected, **found} if expected.get(key) != found.get(key))
    yield from (f"{file} is left over" for file in sorted(left))
    yield from (f"{path} is locked" for path in folder.rglob(f"*{LOCK}"))


def kill_many(count: int, seed: int, folder: Path, only: Mapping[str, tuple[str, ...]] | None = None) -> list[Outcome]:
    """So many kills, in turn of each command and point, or of `only` these; at moments drawn with the seed."""
    for module in IMPORTED:
        import_module(module)
    PIL.Image.init()
    drawn = random.Random(seed)
    data = write_shapes(folder / "data", {"train": 8, "val": 2, "test": 2})
    known = cases(data, folder / "train-whole" / "run" / "best.safetensors")
    wholes = {"train": _whole(known["train"], folder / "train-whole")}
    points = only or {name: case.points for name, case in known.items()}
    order = [(name, point) for name, of in points.items() for point in of]
    drawn.shuffle(order)
    outcomes: list[Outcome] = []
    while len(outcomes) < count:
        name, point = order[len(outcomes) % len(order)]
        if name not in wholes:
            if name == "propose":
                _whole(known[name], folder / "propose-first")  # which compiles its kernels and keeps them
            wholes[name] = _whole(known[name], folder / f"{name}-whole")
        whole, first = wholes[name]
        calls = first.calls.get(point)
        if calls == 0:
            raise RuntimeError(f"{name} never comes to the point {point}")
        moment = drawn.randint(1, calls) if calls else drawn.uniform(0, first.seconds)
        kill = Kill(point, moment / 4 if point == "worker" else moment)
        outcomes.append(attempt(name, known[name], whole, first, kill, folder / f"{name}-{len(outcomes)}"))
        print(*outcomes[-1], sep=" | ", flush=True)
    return outcomes


def _whole(case: Case, folder: Path) -> tuple[Path, Ending]:
    """The folder of a run that is not killed, and how it ended."""
    ending = run(case, folder, folder.with_suffix(".log"))
    if ending.status:
        raise RuntimeError(f"it fails without being killed, see {folder.with_suffix('.log')}")
    return folder, ending


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a new folder for all files, which stay there")
    parser.add_argument("--only", nargs="*", default=[], metavar="COMMAND:POINT")
    options = parser.parse_args()
    only: dict[str, tuple[str, ...]] = {}
    for word in options.only:
        name, _, point = word.partition(":")
        only[name] = (*only.get(name, ()), point)
    with tempfile.TemporaryDirectory() as made:
        folder = options.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        print(*Outcome._fields, sep=" | ", flush=True)
        outcomes = kill_many(options.count, options.seed, folder, only)
    faults = sum(bool(outcome.fault) for outcome in outcomes)
    print(f"{len(outcomes)} kills, {faults} with a fault")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(_main())
