"""Our detectors on a GPU beside torchvision's: host waits, one image, a batch, a training step, memory.

    python benchmarks/gpu.py --out build/gpu/gpu.json
    python benchmarks/gpu.py --device cpu --quick     # every line of it that needs no GPU; its times say nothing

It takes less than six minutes. Both sides have the same weights (torchvision's builders, converted by
`boxwright.zoo.torchvision`) and the same images, and run in the same process, in turn. Each detector has a process: all
of them build and compile at once, then they measure, one at a time. Rows are in the .jsonl file beside `--out` as soon
as they are there; the tables come last. Sides:

    torchvision   its detector, eager
    eager         `predict.program.Eager`
    compiled      `predict.program.Compiled`
    captured      `predict.program.Captured`: the compiled one as a CUDA graph
    training      the library's own loop, `train.loop.Training`, with its moving average of the weights

A ratio is torchvision's time over that of the row in the same round: above 1 the row is faster. Whether results are
those of a CPU is checked by `gpu_check.py`.
"""

from __future__ import annotations

import argparse
import copy
import fcntl
import functools
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from boxwright.device import machine
from boxwright.predict.program import Captured, Compiled, Eager
from boxwright.train.config import TrainConfig
from boxwright.train.loop import Training
from boxwright.types import Images, Slots
from peers import Repeated, Sides, build_sides, precision, stepper

NAMES = ("faster_rcnn", "retinanet", "fcos", "ssd")
SIDES = ("torchvision", "eager", "compiled", "captured", "training")

Run = Callable[[], object]


class Rows:
    """The results of one detector: each is printed and appended to the file as soon as it is there."""

    def __init__(self, detector: str, options: argparse.Namespace) -> None:
        self.detector, self.path, self.until = detector, rows_file(options), options.until

    def add(self, what: str, side: str = "", **numbers: Any) -> None:
        row = {"detector": self.detector, "what": what, "side": side, **numbers}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(
            f"{time.strftime('%X')} {self.detector}, {what}, {side}: " + ", ".join(map(shown, numbers.items())),
            flush=True,
        )

    def measure(self, what: str, run: Callable[[], dict[str, Any]], side: str = "") -> bool:
        """A row of what `run` returns, or of its exception; False for the latter, and where the time is over."""
        try:
            if time.time() > self.until:
                raise TimeoutError("the time is over")
            self.add(what, side, **run())
        except Exception as error:
            trace = traceback.format_exc().splitlines()[-12:]
            self.add(what, side, error=f"{type(error).__name__}: {str(error)[:300]}", trace=trace)
            return False
        return True


def shown(number: tuple[str, Any]) -> str:
    name, value = number
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


# ---------------------------------------------------------------------------------------------------------------------
# Clocks and counters


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Run, device: torch.device) -> float:
    """Milliseconds until the device has done all of it."""
    wait(device)
    started = time.perf_counter()
    run()
    wait(device)
    return 1000 * (time.perf_counter() - started)


def race(rows: Rows, what: str, runs: dict[str, Run], images: int, device: torch.device, rounds: int) -> None:
    """Times all in turn, in a new order each round, for two seconds at most, and adds a row for each.

    The first one is the reference of the ratios. One that fails in its warm-up is left out.
    """

    def warm_up(run: Run) -> dict[str, Any]:
        for _ in range(min(3, rounds)):
            run()
        return {}

    ready = [side for side, run in runs.items() if rows.measure(f"{what}, warm-up", lambda run=run: warm_up(run), side)]
    times: dict[str, list[float]] = {side: [] for side in ready}
    started = time.perf_counter()
    for number in range(rounds):
        first = number % max(len(ready), 1)
        for side in ready[first:] + ready[:first]:
            times[side].append(timed(runs[side], device))
        if number >= 4 and time.perf_counter() - started > 2:
            break
    reference = times.get(next(iter(runs)), [])
    for side, column in times.items():
        low, median, high = statistics.quantiles(column, n=4, method="inclusive")
        ratios = [theirs / ours for theirs, ours in zip(reference, column, strict=False)]
        ratio = {"ratio": statistics.median(ratios)} if ratios else {}
        rows.add(what, side, ms=median, low=low, high=high, images_per_second=1000 * images / median, **ratio)


def host_waits(run: Run, device: torch.device) -> dict[str, Any]:
    """How often the host waits for the device in a run, and in which lines; not counted without CUDA.

    A wait inside of an operator in C++, as in the backward pass, has no line: torch's warning goes to stderr.
    """
    run()
    if device.type != "cuda":
        return {"waits": "not counted"}
    places: list[str] = []

    def note(message: Any, category: Any, file: str, line: int, *_: Any) -> None:
        if "called a synchronizing" in str(message):
            outside = ("/torch/", "/warnings.py")
            frames = [f for f in traceback.extract_stack()[:-1] if not any(part in f.filename for part in outside)]
            places.append(f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else f"{file}:{line}")

    sys.stderr.flush()
    kept = os.dup(2)
    with warnings.catch_warnings(), tempfile.TemporaryFile() as unseen:
        warnings.simplefilter("always")
        warnings.showwarning = note
        os.dup2(unseen.fileno(), 2)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
            os.dup2(kept, 2)
            os.close(kept)
        unseen.seek(0)
        places += ["C++"] * unseen.read().count(b"called a synchronizing")
    return {"waits": len(places), "places": sorted(places)}


def peak(run: Run, device: torch.device) -> dict[str, float]:
    """Memory of a run above what was allocated before, in GiB; nothing without CUDA."""
    run()
    if device.type != "cuda":
        return {}
    wait(device)
    release()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    wait(device)
    return {"peak_gib": (torch.cuda.max_memory_allocated(device) - before) / 2**30}


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# ---------------------------------------------------------------------------------------------------------------------
# What is measured


def measure(name: str, rows: Rows, options: argparse.Namespace) -> None:
    """Everything of one detector: it is built and compiled beside the others, and then measured alone."""
    torch.set_num_threads(1 if options.quick else 4)
    device = torch.device(options.device)
    size = (300, 300) if name == "ssd" else tuple(options.size)
    sides = build_sides(name, max(2, options.batch), size, device, pre_nms_top_k=1000)
    compiled = Compiled(sides.ours, "aot_eager" if options.quick else "inductor")
    batches = {count: sides.images[:count] for count in (1, options.batch)}
    for count, images in batches.items():
        if time.time() < options.prepared_by:
            rows.measure(f"compile, batch {count}", lambda images=images: compile(compiled, images, device), "compiled")
    release()
    fcntl.flock(options.lock, fcntl.LOCK_EX)  # when the last one is prepared, and no other measures
    for images in batches.values():
        detecting(sides, images, compiled, rows, options)
    release()
    training(name, sides, rows, options)


def compile(program: Compiled, images: Images, device: torch.device) -> dict[str, float]:
    started = time.perf_counter()
    with precision(device, "bf16"):
        program(images)
    return {"seconds": time.perf_counter() - started}


def detecting(sides: Sides, images: Images, compiled: Compiled, rows: Rows, options: argparse.Namespace) -> None:
    """Inference in bf16 of one image, which is bound by launches, or of a batch."""
    device, count = torch.device(options.device), len(images)
    their_images, what = sides.their_images[:count], f"batch {count}"

    def their() -> Any:
        with torch.inference_mode(), precision(device, "bf16"):
            return sides.theirs.eval()(their_images)

    def run_of(program: Callable[[Images], Slots]) -> Run:
        def run() -> Any:
            with precision(device, "bf16"):
                return program(images).to("cpu").trim()

        return run

    programs: dict[str, Callable[[Images], Slots]] = {"eager": Eager(sides.ours)}
    if compiled.compiled and (images.pixels.shape, images.proposals.shape) in compiled.compiled:
        programs["compiled"] = compiled
        if device.type == "cuda":
            programs["captured"] = Captured(sides.ours, compiled)
    runs: dict[str, Run] = {"torchvision": their, **{side: run_of(program) for side, program in programs.items()}}
    for side, run in runs.items():
        if side in ("torchvision", "eager") or count == 1:
            rows.measure(f"{what}, host waits", lambda run=run: host_waits(run, device), side)
        if side in programs:
            rows.measure(f"{what}, boxes", lambda run=run: compared(run(), runs["eager"]()), side)
    race(rows, what, runs, count, device, options.rounds)
    for side in ("torchvision", "eager", "compiled"):
        if side in runs:
            rows.measure(f"{what}, memory", lambda run=runs[side]: peak(run, device), side)


def compared(found: Any, expected: Any) -> dict[str, int]:
    """Boxes of each, and those of the second that no box of the first of its class overlaps by nine tenths."""
    lost = 0
    for a, b in zip(found, expected, strict=True):
        overlaps = torchvision.ops.box_iou(b.boxes, a.boxes) * (b.labels[:, None] == a.labels)
        lost += int((overlaps.amax(1) < 0.9).sum()) if len(a) else len(b)
    return {"boxes": sum(map(len, found)), "eager": sum(map(len, expected)), "lost": lost}


def training(name: str, sides: Sides, rows: Rows, options: argparse.Namespace) -> None:
    """A training step, ours as `boxwright train` runs it, with the moving average of the weights."""
    device = torch.device(options.device)
    batch = options.training_batch * (4 if name == "ssd" and not options.quick else 1)
    images, targets = sides.images[:batch], sides.targets[:batch]
    theirs = sides.theirs.train()
    detector = copy.deepcopy(sides.ours)

    def their_losses() -> dict[str, Any]:
        return theirs(sides.their_images[:batch], sides.their_targets[:batch])

    rows.add("learnable numbers", "training", count=learnable(detector))
    rows.add("learnable numbers", "torchvision", count=learnable(theirs))
    for arithmetic in ("bf16", "fp32"):
        config = TrainConfig(epochs=1, precision=arithmetic, lr=1e-6)
        steps = Training(detector, Repeated(images, targets, 10_000), config).steps(False)  # type: ignore[arg-type]
        runs: dict[str, Run] = {"torchvision": stepper(theirs, their_losses, device, arithmetic)}
        runs["training"] = functools.partial(next, steps)
        what = f"training, batch {batch}, {arithmetic}"
        for side, run in runs.items():
            rows.measure(f"{what}, host waits", lambda run=run: host_waits(run, device), side)
        race(rows, what, runs, batch, device, options.rounds)
        for side, run in runs.items():
            rows.measure(f"{what}, memory", lambda run=run: peak(run, device), side)


def learnable(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


# ---------------------------------------------------------------------------------------------------------------------
# A process for each detector, and the tables


def rows_file(options: argparse.Namespace) -> Path:
    return Path(options.out).with_suffix(".jsonl")


def start(name: str, options: argparse.Namespace, lock: Path) -> subprocess.Popen[bytes]:
    """The process of a detector. It holds a shared lock until all is compiled, then an exclusive one to measure."""
    file = os.open(lock, os.O_RDWR)
    fcntl.flock(file, fcntl.LOCK_SH)
    command = [sys.executable, __file__, *sys.argv[1:], "--detector", name, "--lock", str(file)]
    command += ["--until", str(options.until), "--prepared-by", str(options.prepared_by)]
    threads = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "4"}
    with open(Path(options.out).with_suffix(".log"), "ab") as log:
        process = subprocess.Popen(command, stderr=log, env={**os.environ, **threads}, pass_fds=[file])
    os.close(file)
    return process


def run_all(options: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the other processes end too
    started, out = time.time(), Path(options.out)
    options.until, options.prepared_by = started + options.budget, started + options.prepare
    out.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".jsonl", ".log"):
        out.with_suffix(suffix).unlink(missing_ok=True)
    Rows("all", options).add("machine", **machine(torch.device(options.device)), torchvision=torchvision.__version__)
    with tempfile.NamedTemporaryFile() as lock:
        children: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for name in options.only or NAMES:
                children[name] = start(name, options, Path(lock.name))
                if options.quick:  # few cores: one after another
                    children[name].wait()
            for name, child in children.items():
                try:
                    child.wait(max(0.1, options.until - time.time()))
                    reason = (
                        f"exit status {child.returncode}; see {out.with_suffix('.log')}" if child.returncode else ""
                    )
                except subprocess.TimeoutExpired:
                    reason = "stopped: the time is over"
                if reason:
                    Rows(name, options).add("process", error=reason)
        finally:
            for child in children.values():
                child.kill()
                child.wait()
    Rows("all", options).add("done", seconds=time.time() - started)
    rows = [json.loads(text) for text in rows_file(options).read_text(encoding="utf-8").splitlines()]
    out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(tables(rows))


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: a table for each thing measured, a row for each detector, a column for each side; then what failed."""
    whats = dict.fromkeys(row["what"] for row in rows if row["side"] and "error" not in row and len(row) > 3)
    parts = [", ".join(map(shown, rows[0].items()))]
    for what in whats:
        cells = {(row["detector"], row["side"]): row for row in rows if row["what"] == what and "error" not in row}
        sides = [side for side in SIDES if any(key[1] == side for key in cells)]
        lines = [f"| {what} | {' | '.join(sides)} |", f"| --- |{' ---: |' * len(sides)}"]
        for name in dict.fromkeys(detector for detector, _ in cells):
            lines.append(f"| {name} | {' | '.join(cell(cells.get((name, side))) for side in sides)} |")
        parts.append("\n".join(lines))
    failed = [row for row in rows if "error" in row]
    parts += [f"failed: {row['detector']}, {row['what']}, {row['side']}: {row['error']}" for row in failed]
    return "\n\n".join(parts)


def cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if "ms" in row:
        ratio = f", × {row['ratio']:.2f}" if "ratio" in row else ""
        return f"{row['ms']:.1f} ms ({row['low']:.1f} to {row['high']:.1f}), {row['images_per_second']:.0f}/s{ratio}"
    hidden = ("detector", "what", "side", "places")
    return ", ".join(shown(number) for number in row.items() if number[0] not in hidden)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", default="build/gpu/gpu.json")
    parser.add_argument("--budget", type=float, help="seconds for everything: 330, and an hour with --quick")
    parser.add_argument("--prepare", type=float, default=150.0, help="of these, after which no compilation begins")
    parser.add_argument("--only", nargs="+", default=[], choices=NAMES, help="detectors")
    parser.add_argument("--quick", action="store_true", help="tiny images and few rounds; no C++ compiler is needed")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of all but SSD: 800 1088")
    parser.add_argument("--batch", type=int, help="images of a batch: 32")
    parser.add_argument("--training-batch", type=int, help="the same in training: 8, and SSD four times as many")
    parser.add_argument("--rounds", type=int, help="of each race, at most: 30")
    parser.add_argument("--detector", help=argparse.SUPPRESS)
    parser.add_argument("--lock", type=int, help=argparse.SUPPRESS)
    for name in ("--until", "--prepared-by"):
        parser.add_argument(name, type=float, default=float("inf"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.size = options.size or ([64, 64] if options.quick else [800, 1088])
    options.batch = options.batch or (2 if options.quick else 32)
    options.training_batch = options.training_batch or (2 if options.quick else 8)
    options.budget = options.budget or (3600.0 if options.quick else 330.0)
    options.prepare = options.budget if options.quick else options.prepare
    options.rounds = options.rounds or (2 if options.quick else 30)
    return options


def main() -> None:
    options = parse()
    if options.detector:
        measure(options.detector, Rows(options.detector, options), options)
    elif options.device.startswith("cuda") and not torch.cuda.is_available():
        print("left out: no CUDA device here; `--device cpu --quick` runs every line that needs none")
    else:
        run_all(options)


if __name__ == "__main__":
    main()
