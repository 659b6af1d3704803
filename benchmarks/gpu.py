"""Our detectors on a GPU: are the results those of a CPU, and how fast are they beside torchvision's?

    python benchmarks/gpu.py --out gpu.json --budget 330
    python benchmarks/gpu.py --device cpu --quick --out build/gpu/gpu.json    # every line of it, without a GPU

Both sides have the same weights (torchvision's builders, converted by `boxwright.zoo.torchvision`) and the same images.
Every section is a process of its own. First all of them start at once: the `check` sections run, the others build and
compile. Then the others measure, one at a time. A row is written to the .jsonl file beside `--out` as soon as it is
there, so a crash or the end of the time loses one section at most. The sections:

    check DETECTOR        loss, gradient, slots, compiled slots and a resumed training against those of the CPU
    check operators       the operators of `boxwright.ops` against those of the CPU, forward and backward
    check voc9            the bundled weights on the bundled photographs
    latency DETECTOR      one image: eager, compiled, as a CUDA graph, torchvision's; host waits, parts, profile
    throughput DETECTOR   the same for a batch of 32
    training DETECTOR     host waits, images per second and peak memory of a step; parts; profile
    nms                   suppression as a fixed point, without a host wait, against `nms_mask` and torchvision's

A ratio is torchvision's time over that of the row in the same round: above 1 the row is faster. "static" are detectors
whose suppression and RoI align are exchanged, here in this file, for versions that need no host wait: an experiment.
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
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch._inductor.config
import torchvision
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import boxwright
from boxwright.detectors import DETECTORS, Detector
from boxwright.detectors.base import Select
from boxwright.device import machine
from boxwright.layers.regions import RegionAlign, numbered
from boxwright.ops import nms_mask
from boxwright.predict.program import Compiled, Eager
from boxwright.train.config import TrainConfig
from boxwright.train.loop import Training
from boxwright.types import Images, Slots, Target
from peers import Repeated, build_sides, make_images, precision, settle, stepper

NAMES = ("faster_rcnn", "retinanet", "fcos", "ssd")
SPEED = ("latency", "training", "throughput")
PASSES = 24  # of the fixed point where nothing is read on the host; the rows say how many were needed
BEST = 5000  # candidates that enter a static suppression, which has a matrix of all pairs; hundreds come out
SECTION_SECONDS = 75.0  # of one measuring section at most


class Rows:
    """The results of a section: each is printed and appended to the file as soon as it is there."""

    def __init__(self, section: str, path: Path, deadline: float) -> None:
        self.section, self.path, self.deadline = section, path, deadline

    def add(self, what: str, side: str = "", **numbers: Any) -> None:
        row = {"section": self.section, "what": what, "side": side, **numbers}
        with open(self.path, "a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps(row) + "\n")
        print(f"{time.strftime('%X')} {line(row)}", flush=True)

    def measure(self, what: str, run: Callable[[], Any], side: str = "", seconds: float = 0.0) -> Any:
        """The result of `run`; where that is a dictionary of numbers, also a row. An exception is a row.

        seconds  it is left out where less time is left
        """
        if time.time() + seconds > self.deadline:
            self.add(what, side, error="left out: the time is over")
            return None
        try:
            result = run()
        except Exception as error:
            trace = traceback.format_exc().splitlines()[-14:]
            self.add(what, side, error=f"{type(error).__name__}: {str(error)[:300]}", trace=trace)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return None
        if isinstance(result, dict) and all(isinstance(key, str) for key in result):
            self.add(what, side, **result)
        return result


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    hidden = ("section", "what", "side", "trace", "places", "kernels", "operators", "rounds")
    numbers = ", ".join(f"{key} {shown(value)}" for key, value in row.items() if key not in hidden)
    return f"{row['section']} | {row['what']} | {row['side']} | {numbers}"


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------------------------------------------------------------
# Clocks and counters


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Milliseconds until the device has done all of it."""
    wait(device)
    started = time.perf_counter()
    run()
    wait(device)
    return 1000 * (time.perf_counter() - started)


def race(
    rows: Rows, what: str, runs: dict[str, Callable[[], object]], images: int, device: torch.device, rounds: int,
    limit: float = 2.0,
) -> None:  # fmt: skip
    """Times all in turn, in a new order each round, for `limit` seconds at most, and adds a row for each.

    The first one is the reference of the ratios. One that fails in its warm-up is left out.
    """
    ready = {}
    for side, run in runs.items():
        if rows.measure(what, lambda run=run: bool([run() for _ in range(min(3, rounds))]), side):
            ready[side] = run
    times: dict[str, list[float]] = {side: [] for side in ready}
    started = time.perf_counter()
    for number in range(rounds):
        sides = list(ready)
        for side in sides[number % len(sides) :] + sides[: number % len(sides)] if sides else []:
            times[side].append(timed(ready[side], device))
        if number >= 4 and time.perf_counter() - started > limit:
            break
    reference = times.get(next(iter(runs)))
    for side, column in times.items():
        low, median, high = statistics.quantiles(column, n=4, method="inclusive")
        ratios = [a / b for a, b in zip(reference or (), column, strict=reference is not None)]
        numbers = {"ratio": statistics.median(ratios)} if ratios else {}
        numbers["images_per_second"] = 1000 * images / median
        rows.add(what, side, median_ms=median, low_ms=low, high_ms=high, **numbers, rounds=len(column))


def place() -> str:
    """The innermost line of the stack in boxwright, torchvision or this file."""
    packages = {"boxwright": Path(boxwright.__file__).parent, "torchvision": Path(torchvision.__file__).parent}
    for frame in reversed(traceback.extract_stack()[:-2]):
        for name, folder in packages.items():
            if Path(frame.filename).is_relative_to(folder):
                return f"{name}/{Path(frame.filename).relative_to(folder)}:{frame.lineno} {frame.line}"
        if Path(frame.filename).name == Path(__file__).name and "host_waits" not in frame.name:
            return f"gpu.py:{frame.lineno} {frame.line}"
    return "?"


class HostReads(TorchDispatchMode):
    """Counts operators that would wait for a GPU; what happens inside of our own operators is not seen."""

    READ = ("nms", "_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "item")

    def __init__(self, places: Counter[str]) -> None:
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indices = args[1] if func.overloadpacket.__name__ in ("index", "index_put_") else ()
        masks = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices)
        where = func.overloadpacket.__name__ == "where" and len(args) == 1
        if masks or where or func.overloadpacket.__name__ in self.READ:
            self.places[place()] += 1
        return func(*args, **(kwargs or {}))


def host_waits(run: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """How often the host waits for the device in a run, and in which lines.

    A wait inside of an operator in C++ has no line of its own: the one that calls it, or "in C++" where torch's warning
    goes to stderr.
    """
    run()
    places: Counter[str] = Counter()
    if device.type != "cuda":
        with HostReads(places):
            run()
        return {"waits": places.total(), "places": dict(places.most_common())}

    def note(message: Any, *_: Any) -> None:
        if "called a synchronizing" in str(message):
            places[place()] += 1

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
        if in_cpp := unseen.read().count(b"called a synchronizing"):
            places["in C++"] += in_cpp
    return {"waits": places.total(), "places": dict(places.most_common())}


def peak(run: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Memory of a run above what was allocated before, in GiB."""
    run()
    if device.type != "cuda":
        return {}
    wait(device)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    wait(device)
    return {"peak_gib": (torch.cuda.max_memory_allocated(device) - before) / 2**30}


def profiled(run: Callable[[], object], device: torch.device, steps: int = 3) -> dict[str, Any]:
    """Milliseconds of the CPU and the GPU a run, the fifteen longest kernels and operators, and launches."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    run()
    wait(device)
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            run()
        wait(device)
    events = profiler.key_averages()
    kernels = [event for event in events if "CUDA" in str(event.device_type)]
    operators = [event for event in events if "CUDA" not in str(event.device_type)]

    def longest(some: list[Any], clock: str) -> list[list[Any]]:
        ranked = sorted(some, key=lambda event: -getattr(event, clock))[:15]
        return [[e.key[:120], round(getattr(e, clock) / 1000 / steps, 4), e.count / steps] for e in ranked]

    launches = sum(event.count for event in operators if "LaunchKernel" in event.key)
    return {
        "cpu_ms": sum(event.self_cpu_time_total for event in operators) / 1000 / steps,
        "gpu_ms": sum(event.self_device_time_total for event in kernels) / 1000 / steps,
        "launches": launches / steps,
        "kernels": longest(kernels, "self_device_time_total"),
        "operators": longest(operators, "self_cpu_time_total"),
    }


def image_size(name: str, options: argparse.Namespace) -> tuple[int, int]:
    return (300, 300) if name == "ssd" else tuple(options.size)


def learnable(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def within(device: torch.device, name: str, run: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """`run` in an arithmetic."""

    def call() -> Any:
        with precision(device, name):
            return run(*arguments)

    return call


def difference(found: Slots, expected: Slots, pixels: float = 0.1) -> dict[str, Any]:
    """Slots of two runs compared.

    slots     valid ones of the second
    differing slots in another order, or of another class or box (apart by more than `pixels`)
    lost      boxes of the second that none of the first of the same class comes as near to
    tied      the same, where one has the very same score: regions that are pooled from the same cells
    box_px    the largest distance of the others, score likewise
    """
    found, expected = found.to("cpu"), expected.to("cpu")
    apart = (found.boxes - expected.boxes).abs().amax(-1)  # (N, S)
    same = (found.valid == expected.valid) & (found.labels == expected.labels) & (apart <= pixels)
    lost, tied, box, score = 0, 0, 0.0, 0.0
    for a, b in zip(found.trim(), expected.trim(), strict=True):
        if not len(b):
            continue
        if not len(a):
            lost += len(b)
            continue
        pairs = (b.boxes[:, None] - a.boxes[None]).abs().amax(-1)
        pairs = torch.where(b.labels[:, None] == a.labels[None], pairs, torch.inf)
        nearest = pairs.min(1)
        close = nearest.values <= pixels
        equal = ~close & (b.scores[:, None] - a.scores[None]).abs().le(1e-6).any(1)
        lost, tied = lost + int((~close & ~equal).sum()), tied + int(equal.sum())
        if close.any():
            box = max(box, float(nearest.values[close].max()))
            score = max(score, float((b.scores - a.scores[nearest.indices])[close].abs().max()))
    counts = {"slots": int(expected.valid.sum()), "differing": int((~same).sum()), "lost": lost, "tied": tied}
    return {**counts, "box_px": box, "score": score}


# ---------------------------------------------------------------------------------------------------------------------
# Experiments: operators without a host wait, and a captured program


def fixed_point(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, most: int | None = None,
    passes: int | None = None, count: list[int] | None = None, best: int | None = None,
) -> Tensor:  # fmt: skip
    """`nms_mask` by a fixed point: a box survives if no surviving better box of its group overlaps it too much.

    Starting from all boxes, repeating that settles after as many passes as the longest chain of suppressions has links.

    passes  so many, without reading on the host whether it has settled; it is a guess that they suffice
    count   gets the number of passes
    best    only so many of the best boxes take part
    """
    boxes = boxes.double()
    valid = valid & boxes.isfinite().all(-1) & ~scores.isnan()
    order = torch.where(valid, scores, -1.0).argsort(dim=1, descending=True, stable=True)[:, :best]  # (N, K)
    x1, y1, x2, y2 = boxes.gather(1, order[..., None].expand(-1, -1, 4)).nan_to_num().unbind(-1)
    group, alive = groups.gather(1, order), valid.gather(1, order)

    def pairs(a: Tensor, b: Tensor, how: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return how(a[:, :, None], b[:, None, :])

    width = pairs(x2, x2, torch.minimum) - pairs(x1, x1, torch.maximum)
    height = pairs(y2, y2, torch.minimum) - pairs(y1, y1, torch.maximum)
    overlap, area = width.clamp(min=0) * height.clamp(min=0), (x2 - x1) * (y2 - y1)
    rank = torch.arange(order.shape[1], device=boxes.device)
    suppresses = (
        (overlap > iou_threshold * (area[:, :, None] + area[:, None, :] - overlap))
        & pairs(group, group, torch.eq)
        & (rank[:, None] < rank)
    ).to(torch.bfloat16)  # (N, K, K): row suppresses column
    first = alive.to(torch.bfloat16)
    kept = first
    for number in range(1, 1 + (passes or boxes.shape[1])):
        hit = torch.bmm(kept[:, None], suppresses)[:, 0]
        after = torch.where(hit > 0, 0.0, first)
        if passes is None:
            if torch.equal(after, kept):
                break
            if count is not None:
                count[:] = [number]
        kept = after
    survives = kept > 0
    if most is not None:
        survives = survives & (survives.cumsum(1) <= most)
    return torch.zeros_like(valid).scatter(1, order, survives)


def pool_from_every_level(
    pooler: RegionAlign, operator: Callable[..., Tensor], maps: list[Tensor], boxes: Tensor, size: int, *numbers: Any
) -> Tensor:
    """RoI align that reads every region from every level and keeps one: four times the work, but static shapes."""
    regions, level = numbered(boxes.float()), pooler.level(boxes).flatten()
    result = None
    for index, stride in enumerate(pooler.strides):
        part = operator([maps[index].float()], regions, level, [1 / stride], size, *numbers)
        result = part if result is None else torch.where((level == index)[:, None, None, None], part, result)
    assert result is not None
    return result


def make_static(detector: Detector) -> Detector:
    """A copy in channels-last whose `slots` never waits for the device."""
    detector = copy.deepcopy(detector).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in detector.modules():
        if isinstance(module, Select):
            module.suppress = functools.partial(fixed_point, passes=PASSES, best=BEST)
        elif isinstance(module, RegionAlign):
            module.pool = functools.partial(pool_from_every_level, module)  # type: ignore[method-assign]
    return detector


def captured(run: Callable[[Images], Slots], images: Images) -> Callable[[], Slots]:
    """`run` as a CUDA graph, replayed on a copy of the pixels; on a CPU as it is."""
    still = images.replace(pixels=images.pixels.clone())
    if images.pixels.device.type != "cuda":
        return lambda: run(still)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run(still)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        slots = run(still)

    def replay() -> Slots:
        still.pixels.copy_(images.pixels)
        graph.replay()
        return slots

    return replay


# ---------------------------------------------------------------------------------------------------------------------
# Sections that check


def small(name: str) -> Any:
    """The config of a detector on a small backbone that learns as a whole."""
    known = {field.name for field in fields(DETECTORS[name])}
    shared = {"backbone": "resnet18", "frozen_stages": 0, "proposals": 60, "max_detections": 50, "pre_nms_top_k": 300}
    shared = {key: value for key, value in shared.items() if key in known}
    return DETECTORS[name](**shared)


def check_detector(name: str, rows: Rows, options: argparse.Namespace) -> None:
    """One detector against itself on the CPU, with the same weights and the same random numbers."""
    device = torch.device(options.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    size = (96, 128) if options.quick else (256, 320)
    images, targets = make_images(2, size, torch.device("cpu"), classes=3)
    torch.manual_seed(0)
    here = small(name).build(3)
    settle(here, lambda: Eager(here)(images))
    if here.propose is None:
        images = images.replace(proposals=images.proposals[:, :0])
    there, their_images = copy.deepcopy(here).to(device), images.to(device)
    their_targets = [target.to(device) for target in targets]
    draw = torch.rand

    def learn(detector: Detector, images: Images, targets: list[Target]) -> tuple[dict[str, float], float]:
        """The losses and the norm of the gradient; random numbers come from the CPU."""
        numbers = torch.Generator().manual_seed(0)
        detector.train()
        detector.zero_grad(set_to_none=True)
        with mock.patch.object(torch, "rand", lambda *shape, device=None: draw(*shape, generator=numbers).to(device)):
            losses = detector.loss(images, targets)
        torch.stack(list(losses.values())).sum().backward()
        gradients = [p.grad.norm() for p in detector.parameters() if p.grad is not None]
        return {key: float(value) for key, value in losses.items()}, float(torch.stack(gradients).norm())

    def loss() -> dict[str, Any]:
        (ours, our_norm), (others, norm) = learn(there, their_images, their_targets), learn(here, images, targets)
        apart = max(abs(ours[key] - value) / max(abs(value), 1e-3) for key, value in others.items())
        total, gradient = sum(ours.values()), abs(our_norm - norm) / norm
        good = apart < 1e-3 and total < float("inf")
        return {"good": good, "loss": total, "relative": apart, "gradient": gradient}

    def slots() -> dict[str, Any]:
        compared = difference(Eager(there)(their_images), Eager(here)(images))
        return {"good": not compared["lost"] and compared["slots"] > 0, **compared}

    def compiled() -> dict[str, Any]:
        compared = difference(program(their_images), Eager(there)(their_images))
        return {"good": not compared["lost"] and compared["slots"] > 0, **compared}

    def resumed() -> dict[str, Any]:
        """Whole, whole again, and stopped half way: how far apart the weights are."""

        def train(stop: int | None, start: str | None = None, file: str | None = None) -> dict[str, Tensor]:
            training = Training(
                copy.deepcopy(there).train(), Repeated(their_images, their_targets, 4),  # type: ignore[arg-type]
                TrainConfig(epochs=1, precision="fp32", lr=1e-4),
            )  # fmt: skip
            if start:
                training.resume(start)
            for step in training.steps(progress=False):
                if step.number == stop:
                    training.save(str(file))
                    break
            return dict(training.detector.state_dict())

        def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
            return max(float((a[key].double() - value.double()).abs().max()) for key, value in b.items())

        with tempfile.TemporaryDirectory() as folder:
            whole, again = train(None), train(None)
            train(2, file=f"{folder}/state.safetensors")
            rest = train(None, start=f"{folder}/state.safetensors")
        return {"good": apart(rest, whole) <= 2 * apart(again, whole), "apart": apart(rest, whole),
                "repeated_apart": apart(again, whole)}  # fmt: skip

    rows.measure("training step", loss)
    rows.measure("detections", slots)
    rows.measure("resumed training", resumed)
    program = Compiled(there, "aot_eager" if options.quick else "inductor")
    rows.measure("compiled detections", compiled)


def check_operators(rows: Rows, options: argparse.Namespace) -> None:
    """Every operator of `boxwright.ops` on the device and on the CPU."""
    device, noise = torch.device(options.device), torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 49, 256 // stride, 320 // stride, generator=noise) for stride in (4, 8, 16)]
    corners = (torch.rand(2, 100, 2, 2, generator=noise) * torch.tensor([320, 256])).sort(dim=2).values.flatten(2)
    regions, level = numbered(corners), torch.randint(3, (200,), generator=noise)
    scales = [1 / 4, 1 / 8, 1 / 16]

    def pooled(name: str, numbers: tuple[Any, ...], device: torch.device) -> list[Tensor]:
        inputs = [features.to(device, copy=True).requires_grad_() for features in maps]
        operator = getattr(torch.ops.boxwright, name)
        result = operator(inputs, regions.to(device), level.to(device), scales, 7, *numbers)
        result = result if isinstance(result, Tensor) else result[0]
        weights = torch.linspace(-1, 1, result.numel(), device=device).view_as(result)
        (result * weights).sum().backward()
        return [result, *(features.grad for features in inputs if features.grad is not None)]

    def compare(name: str, numbers: tuple[Any, ...]) -> dict[str, Any]:
        pairs = zip(pooled(name, numbers, device), pooled(name, numbers, torch.device("cpu")), strict=True)
        forward, *backward = [float((a.cpu() - b).abs().max() / b.abs().max()) for a, b in pairs]
        return {"good": max(forward, *backward) < 1e-4, "forward": forward, "backward": max(backward)}

    operators = {"roi_align": (2, True), "roi_pool": (), "ps_roi_align": (2,), "ps_roi_pool": ()}
    for name, numbers in operators.items():
        rows.measure(name, lambda name=name, numbers=numbers: compare(name, numbers))
    rows.measure("roi_align, aligned off, adaptive", lambda: compare("roi_align", (0, False)))

    def warp() -> dict[str, Any]:
        pixels = 255 * torch.rand(2, 3, 256, 320, generator=noise)
        a, b = (torch.ops.boxwright.warp(pixels.to(d), regions.to(d), 32, 32).cpu() for d in (device, "cpu"))
        return {"good": bool((a - b).abs().max() < 1e-2), "forward": float((a - b).abs().max())}

    def suppressed() -> dict[str, Any]:
        differing, kept = 0, 0
        for most in (None, 20):
            inputs, on_device = suppression(2, 2000, 4, torch.device("cpu")), suppression(2, 2000, 4, device)
            a, b = nms_mask(*on_device, 0.5, most).cpu(), nms_mask(*inputs, 0.5, most)
            differing, kept = differing + int((a != b).sum()), kept + int(b.sum())
        return {"good": not differing, "differing": differing, "kept": kept}

    rows.measure("warp", warp)
    rows.measure("nms_mask", suppressed)


def check_voc9(rows: Rows, options: argparse.Namespace) -> None:
    """Real weights on real photographs: fp32 on the device, bf16, and compiled, against fp32 on the CPU."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = torch.device(options.device)
    photos = sorted((Path(boxwright.__file__).parent / "zoo" / "photos").glob("*.webp"))[: 1 if options.quick else None]
    here, there = boxwright.load("voc9", "cpu"), boxwright.load("voc9", device)
    expected = here(photos, threshold=0.1)

    def compare(found: list[Any], pixels: float) -> dict[str, Any]:
        lost, box, score = 0, 0.0, 0.0
        for a, b in zip(found, expected, strict=True):
            if not len(a):
                lost += len(b)
                continue
            pairs = (b.boxes[:, None] - a.boxes[None]).abs().amax(-1)
            nearest = torch.where(b.labels[:, None] == a.labels[None], pairs, torch.inf).min(1)
            close = nearest.values <= pixels
            lost += int((~close).sum())
            if close.any():
                box = max(box, float(nearest.values[close].max()))
                score = max(score, float((b.scores - a.scores[nearest.indices])[close].abs().max()))
        found_count, count = sum(map(len, found)), sum(map(len, expected))
        good = not lost and found_count == count
        return {"good": good, "boxes": count, "found": found_count, "lost": lost, "box_px": box, "score": score}

    rows.measure("fp32", lambda: compare(there(photos, threshold=0.1), 0.1))
    rows.measure("fp32, a batch", lambda: compare(there(photos, threshold=0.1, batch=4), 0.1))
    rows.measure("bf16", lambda: compare(within(device, "bf16", lambda: there(photos, threshold=0.1))(), 5.0))
    program = Compiled(there.detector, "aot_eager" if options.quick else "inductor")
    rows.measure(
        "compiled", lambda: compare(there.with_program(program)(photos[:2], threshold=0.1) + expected[2:], 0.1)
    )


# ---------------------------------------------------------------------------------------------------------------------
# Sections that time


def detecting(kind: str, name: str, rows: Rows, options: argparse.Namespace, turn: Callable[[], None]) -> None:
    """Inference of one image ("latency") or of a batch ("throughput")."""
    device, batch = torch.device(options.device), 1 if kind == "latency" else options.batch
    backend: Any = "aot_eager" if options.quick else "inductor"
    sides = build_sides(name, max(2, batch), image_size(name, options), device, 1000)
    images, theirs = sides.images[:batch], sides.theirs
    last = copy.deepcopy(sides.ours).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    eager, static, what = Eager(sides.ours), make_static(sides.ours), f"batch {batch}"

    def their() -> Any:
        with torch.inference_mode():
            return theirs(sides.their_images[:batch])

    def answer(program: Callable[[Images], Slots]) -> Callable[[], Any]:
        return lambda: program(images).trim()

    programs = {"compiled": Compiled(sides.ours, backend), "static, compiled": Compiled(static, backend)}
    for side, program in programs.items():
        freezing = "static" in side and not options.quick

        def compile(program: Callable[[Images], Slots] = program, freezing: bool = freezing) -> dict[str, float]:
            started = time.perf_counter()
            with torch._inductor.config.patch(freezing=freezing):
                within(device, "bf16", program, images)()
            return {"seconds": time.perf_counter() - started}

        left = options.prepared_by - time.time()
        if left < 0 or rows.measure(f"{what} compile", compile, side) is None:
            programs[side] = None  # type: ignore[assignment]
            if left < 0:
                rows.add(f"{what} compile", side, error="left out: the time is over")
    turn()

    def same() -> dict[str, Any]:
        """Equal to torchvision's in number, and static to eager, in fp32."""
        found, others = [len(d) for d in eager(images).trim()], [len(d["boxes"]) for d in their()]
        return {"ours": sum(found), "torchvision": sum(others)}

    rows.measure(f"{what} boxes", same)
    rows.measure(f"{what} equals eager fp32", lambda: difference(Eager(static)(images), eager(images)), "static")
    runs: dict[str, Callable[[], object]] = {
        "torchvision": their, "eager": answer(eager), "eager, channels-last": answer(Eager(last))
    }  # fmt: skip
    if batch == 1:
        rows.measure("host waits", lambda: host_waits(answer(eager), device), "eager")
        rows.measure("host waits", lambda: host_waits(their, device), "torchvision")
        race(rows, f"{what} fp32", runs, batch, device, options.rounds)
    bf16 = {side: within(device, "bf16", run) for side, run in runs.items()}
    if programs["compiled"]:
        bf16["compiled"] = within(device, "bf16", answer(programs["compiled"]))
    race(rows, f"{what} bf16", bf16, batch, device, options.rounds)
    for side in ("eager", "torchvision"):
        rows.measure(f"{what} bf16 memory", lambda side=side: peak(bf16[side], device), side)
        if side == "eager" or name == "faster_rcnn":
            rows.measure(f"{what} bf16 profile", lambda side=side: profiled(bf16[side], device), side)
    rows.measure(f"{what} bf16 parts", lambda: parts(sides.ours, bf16["eager"], device, 3 if options.quick else 10))

    def race_captured(candidates: dict[str, Callable[[Images], Slots]]) -> bool:
        """Captures and times all that can be captured; the rows have the reasons why the others cannot."""
        graphs = {}
        for side, program in candidates.items():
            run = within_images(device, program)
            graph = rows.measure(f"{what} bf16 capture", lambda run=run: captured(run, images), side)
            if graph is not None:
                graphs[side] = lambda graph=graph: graph().trim()
                compare = functools.partial(lambda graph: difference(graph(), bf16_slots(), 2.0), graph)
                rows.measure(f"{what} bf16 against eager", compare, side)
        if graphs:
            both = {side: bf16[side] for side in ("torchvision", "eager")}
            race(rows, f"{what} bf16 captured", both | graphs, batch, device, options.rounds)
        return bool(graphs)

    bf16_slots = within(device, "bf16", eager, images)
    still: dict[str, Callable[[Images], Slots]] = {"static, captured": Eager(static)}
    if programs["static, compiled"]:
        still["static, compiled, captured"] = programs["static, compiled"]
    race_captured(still)
    # What cannot be captured can leave the process unable to go on, so it comes last.
    if race_captured({"captured": eager}) and programs["compiled"]:
        race_captured({"compiled, captured": programs["compiled"]})


def within_images(device: torch.device, program: Callable[[Images], Slots]) -> Callable[[Images], Slots]:
    return lambda images: within(device, "bf16", program, images)()


def parts(detector: Detector, run: Callable[[], object], device: torch.device, repeats: int) -> dict[str, float]:
    """Milliseconds of each part of a detector in a run, waiting for the device before and after each."""
    names = ("features.backbone", "features.neck", "proposer.head", "proposer.select", "regions.pool", "regions.head",
             "regions.select", "anchors.head", "anchors.select")  # fmt: skip
    spent: dict[str, float] = {}
    started: dict[str, float] = {}

    def now() -> float:
        wait(device)
        return 1000 * time.perf_counter()

    def begin(name: str) -> None:
        started[name] = now()

    def end(name: str) -> None:
        spent[name] = spent.get(name, 0.0) + now() - started[name]

    def clocked(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*arguments: Any, **options: Any) -> Tensor:
            begin(name)
            result = function(*arguments, **options)
            end(name)
            return result

        return call

    run()
    undo: list[Callable[[], object]] = []
    modules = dict(detector.named_modules())
    for name in names:
        if (module := modules.get(name)) is not None:
            undo.append(module.register_forward_pre_hook(lambda *_, name=name: begin(name)).remove)
            undo.append(module.register_forward_hook(lambda *_, name=name: end(name)).remove)
            if isinstance(module, Select):
                undo.append(functools.partial(setattr, module, "suppress", module.suppress))
                module.suppress = clocked(f"{name}: nms_mask", module.suppress)
    try:
        whole = statistics.median(timed(run, device) for _ in range(repeats))
    finally:
        for take_back in undo:
            take_back()
    return {**{name: milliseconds / repeats for name, milliseconds in spent.items()}, "whole": whole}


def training(name: str, rows: Rows, options: argparse.Namespace, turn: Callable[[], None]) -> None:
    """A training step: forward, backward, the gradient's norm limited, AdamW; for ours also the library's own loop."""
    device, few = torch.device(options.device), options.few
    batch = few if options.quick else 32 if name == "ssd" else options.training_batch
    sides = build_sides(name, batch, image_size(name, options), device, 1000)
    ours, theirs = sides.ours.train(), sides.theirs.train()
    last = copy.deepcopy(ours).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, targets = sides.images, sides.targets

    def our_losses(model: Any = ours, count: int = batch) -> dict[str, Tensor]:
        return model.loss(images[:count], targets[:count])

    def their_losses(count: int = batch) -> dict[str, Tensor]:
        return theirs(sides.their_images[:count], sides.their_targets[:count])

    def backward(losses: dict[str, Tensor]) -> None:
        torch.stack(list(losses.values())).sum().backward()

    config = TrainConfig(epochs=1, precision="bf16", lr=1e-6)
    loop = Training(copy.deepcopy(ours), Repeated(images, targets, 10_000), config).steps(False)  # type: ignore[arg-type]
    waits = Repeated(images[:few], targets[:few], 10_000)
    few_steps = Training(copy.deepcopy(ours), waits, config).steps(False)  # type: ignore[arg-type]
    turn()

    rows.add("learnable numbers", ours=learnable(ours), torchvision=learnable(theirs))
    rows.measure(
        f"host waits, batch {few}", lambda: host_waits(lambda: backward(our_losses(count=few)), device), "ours"
    )
    rows.measure(
        f"host waits, batch {few}", lambda: host_waits(lambda: backward(their_losses(few)), device), "torchvision"
    )
    rows.measure(f"host waits, batch {few}", lambda: host_waits(lambda: next(few_steps), device), "the library's loop")
    for arithmetic in ("bf16", "fp32"):
        what, steps = f"batch {batch} {arithmetic}", {}
        steps["torchvision"] = stepper(theirs, their_losses, device, arithmetic)
        steps["ours"] = stepper(ours, our_losses, device, arithmetic)
        steps["ours, channels-last"] = stepper(last, lambda: our_losses(last), device, arithmetic)
        if arithmetic == "bf16":
            steps["the library's loop"] = lambda: next(loop)
        race(rows, what, steps, batch, device, options.rounds)
        for side in ("torchvision", "ours", "ours, channels-last"):
            rows.measure(f"{what} memory", lambda run=steps[side]: peak(run, device), side)
        if arithmetic == "bf16":
            rows.measure(f"{what} parts", lambda run=steps["ours"]: parts(ours, run, device, 3), "ours")
            for side in ("ours", "torchvision")[: 1 + (name == "faster_rcnn")]:
                rows.measure(f"{what} profile", lambda run=steps[side]: profiled(run, device), side)

    def halves() -> dict[str, float]:
        """Of our step: forward, backward."""
        with precision(device, "bf16"):
            forward = [timed(our_losses, device) for _ in range(3)][-1]
            kept = our_losses()
        return {"forward": forward, "backward": timed(lambda: backward(kept), device)}

    rows.measure(f"batch {batch} bf16 halves", halves, "ours")


def suppression(images: int, count: int, groups: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes (N, K, 4) in clusters of about ten, scores, groups and validity."""
    noise = torch.Generator().manual_seed(count)
    centers = torch.rand(images, max(1, count // 10), 2, generator=noise) * torch.tensor([1088.0, 800.0])
    extents = 20 + 180 * torch.rand(images, max(1, count // 10), 2, generator=noise) ** 2
    chosen = torch.randint(centers.shape[1], (images, count), generator=noise)[..., None].expand(-1, -1, 2)
    extent = extents.gather(1, chosen) * (0.7 + 0.6 * torch.rand(images, count, 2, generator=noise))
    center = centers.gather(1, chosen) + 0.4 * extent * (torch.rand(images, count, 2, generator=noise) - 0.5)
    boxes = torch.cat([center - extent / 2, center + extent / 2], -1)
    scores = torch.rand(images, count, generator=noise)
    group = torch.randint(groups, (images, count), generator=noise)
    valid = torch.ones(images, count, dtype=torch.bool)
    return boxes.to(device), scores.to(device), group.to(device), valid.to(device)


def nms(rows: Rows, options: argparse.Namespace, turn: Callable[[], None]) -> None:
    """Suppression of K boxes of N images: all kept boxes equal those of `nms_mask`, and the times."""
    device = torch.device(options.device)
    backend: Any = "aot_eager" if options.quick else "inductor"
    sizes = ((1, 200), (2, 100)) if options.quick else ((1, 1000), (1, 4000), (1, 12000), (32, 4800))
    compiled = torch.compile(functools.partial(fixed_point, passes=PASSES), backend=backend, dynamic=False)
    compiles = {}
    for size in sizes:
        inputs = suppression(*size, 1, device)
        compiles[size] = rows.measure(
            f"{size[0]} x {size[1]} compile", lambda inputs=inputs: compiled(*inputs, 0.5) is not None
        )
    turn()
    for size in sizes:
        images, count = size
        what, inputs = f"{images} x {count}", suppression(images, count, 1, device)
        boxes, scores, *_ = inputs
        expected = nms_mask(*inputs, 0.5)
        needed: list[int] = []

        def equals(run: Callable[[], Tensor], expected: Tensor = expected) -> dict[str, Any]:
            mask = run()
            return {"good": bool((mask == expected).all()), "kept": int(expected.sum())}

        runs: dict[str, Callable[[], Any]] = {
            "torchvision.ops.nms": lambda boxes=boxes, scores=scores: [
                torchvision.ops.nms(b, s, 0.5) for b, s in zip(boxes, scores, strict=True)
            ],
            "nms_mask": lambda inputs=inputs: nms_mask(*inputs, 0.5),
            "nms_mask, best 1000": lambda inputs=inputs: nms_mask(*inputs, 0.5, 1000),
            "fixed point": lambda inputs=inputs, needed=needed: fixed_point(*inputs, 0.5, count=needed),
            f"fixed point, {PASSES} passes": lambda inputs=inputs: fixed_point(*inputs, 0.5, passes=PASSES),
        }
        if compiles[size]:
            runs[f"fixed point, {PASSES} passes, compiled"] = lambda inputs=inputs: compiled(*inputs, 0.5)
        for side, run in runs.items():
            if side.startswith("fixed"):
                rows.measure(f"{what} equals nms_mask", lambda run=run: equals(run), side)
        rows.add(f"{what} passes needed", passes=needed[-1] if needed else 0)
        if images == 1 or options.quick:
            rows.measure(f"{what} host waits", lambda run=runs["nms_mask"]: host_waits(run, device), "nms_mask")
        race(rows, what, runs, images, device, options.rounds, limit=1.5)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


# ---------------------------------------------------------------------------------------------------------------------
# Sections as processes


def sections(options: argparse.Namespace) -> list[str]:
    """All of them, in the order in which they are measured."""
    names = [f"check {name}" for name in (*DETECTORS, "operators", "voc9")]
    for number, name in enumerate(NAMES):
        names += [f"{kind} {name}" for kind in SPEED] + ["nms"] * (number == 0)
    return [name for name in names if not options.only or any(part in name for part in options.only)]


def run_section(section: str, options: argparse.Namespace) -> None:
    """What the process of a section does."""
    torch.set_num_threads(1 if options.quick or section.startswith("check") else 4)
    turns, kind, name = Path(options.turns), *section.partition(" ")[::2]
    rows = Rows(section, rows_file(options), options.until)

    def turn() -> None:
        """Wait until no other section runs."""
        gc.collect()
        if options.device.startswith("cuda"):
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        turn_file(turns, section, "ready").touch()
        while not turn_file(turns, section, "go").exists() and time.time() < options.until:
            time.sleep(0.02)

    started = time.time()
    if kind == "check":
        checks = {"operators": check_operators, "voc9": check_voc9}
        check: Callable[..., None] = checks.get(name, functools.partial(check_detector, name))
        rows.measure("section", lambda: check(rows, options))
    elif kind == "nms":
        rows.measure("section", lambda: nms(rows, options, turn))
    elif kind == "training":
        rows.measure("section", lambda: training(name, rows, options, turn))
    else:
        rows.measure("section", lambda: detecting(kind, name, rows, options, turn))
    rows.add("done", seconds=round(time.time() - started, 1))


def rows_file(options: argparse.Namespace) -> Path:
    return Path(options.out).with_suffix(".jsonl")


def turn_file(turns: Path, section: str, kind: str) -> Path:
    return turns / f"{section.replace(' ', '_')}.{kind}"


class Child:
    """A section in a process of its own; its stderr goes to a file."""

    def __init__(self, section: str, options: argparse.Namespace, arguments: list[str], turns: Path) -> None:
        self.section, self.options, self.turns = section, options, turns
        self.log = turn_file(turns, section, "log")
        command = [sys.executable, __file__, *arguments, "--section", section, "--turns", str(turns)]
        threads = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "2", "PYTHONUNBUFFERED": "1"}
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, stderr=log, env={**os.environ, **threads})

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def ready(self) -> bool:
        return self.ended or turn_file(self.turns, self.section, "ready").exists()

    def go(self) -> None:
        turn_file(self.turns, self.section, "go").touch()

    def finish(self, until: float) -> None:
        """Wait for its end, until then; a process that did not end well gives a row."""
        while not self.ended and time.time() < until:
            time.sleep(0.05)
        stopped = not self.ended
        if stopped:
            self.process.kill()
        code = self.process.wait()
        text = self.log.read_text(encoding="utf-8", errors="replace")
        with open(Path(self.options.out).with_suffix(".log"), "a", encoding="utf-8") as log:
            log.write(f"===== {self.section}: exit status {code}\n{text[-20_000:]}\n")
        if code:
            reason = "stopped: the time is over" if stopped else f"exit status {code}"
            rows = Rows(self.section, rows_file(self.options), until)
            rows.add("section", error=reason, trace=text.splitlines()[-14:])


def run_all(options: argparse.Namespace) -> None:
    """Check and prepare all at once, measure one after another."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the sections end too
    started, out = time.time(), Path(options.out)
    options.until, options.prepared_by = started + options.budget, started + options.prepare
    out.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".jsonl", ".log"):
        out.with_suffix(suffix).unlink(missing_ok=True)
    if options.jobs < 2:
        options.prepared_by = options.until
    arguments = [*sys.argv[1:], "--until", str(options.until), "--prepared-by", str(options.prepared_by)]
    describe = Rows("machine", rows_file(options), options.until)
    describe.add("", **machine(torch.device(options.device)), torchvision=torchvision.__version__)
    with tempfile.TemporaryDirectory() as folder:
        turns, names = Path(folder), sections(options)
        if options.jobs < 2:  # one after another
            for name in names:
                if time.time() < options.until:
                    child = Child(name, options, arguments, turns)
                    child.go()
                    child.finish(options.until)
        else:
            children = [Child(name, options, arguments, turns) for name in names]
            try:
                checks = [child for child in children if child.section.startswith("check")]
                others = [child for child in children if child not in checks]
                while time.time() < options.prepared_by:
                    if all(child.ended for child in checks) and all(child.ready for child in others):
                        break
                    time.sleep(0.1)
                for child in checks:
                    child.finish(time.time())
                describe.add("prepared", seconds=round(time.time() - started, 1))
                while others:  # those that are ready first
                    child = next((child for child in others if child.ready), others[0])
                    others.remove(child)
                    child.go()
                    child.finish(min(options.until, time.time() + SECTION_SECONDS))
            finally:
                for child in children:
                    if not child.ended:
                        child.process.kill()
                        child.process.wait()
    describe.add("done", seconds=round(time.time() - started, 1))
    report(options)


def report(options: argparse.Namespace) -> None:
    """All rows as JSON, and the table."""
    rows = [json.loads(text) for text in rows_file(options).read_text(encoding="utf-8").splitlines()]
    order = {name: index for index, name in enumerate(["machine", *sections(options)])}
    rows.sort(key=lambda row: order.get(row["section"], len(order)))
    Path(options.out).write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for row in rows:
        if row["what"] not in ("done", "section") or "error" in row:
            print(line(row))


def parse(arguments: Iterable[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", default="build/gpu/gpu.json")
    parser.add_argument("--budget", type=float, default=330.0, help="seconds for everything")
    parser.add_argument("--prepare", type=float, default=150.0, help="of these, seconds for checks and compilation")
    parser.add_argument("--jobs", type=int, default=0, help="1: sections one after another; else all at once")
    parser.add_argument("--only", nargs="+", default=[], help="sections whose name contains one of these")
    parser.add_argument("--quick", action="store_true", help="tiny images and few rounds; no C++ compiler is needed")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of all but SSD: 800 1088")
    parser.add_argument("--batch", type=int, help="of throughput: 32")
    parser.add_argument("--training-batch", type=int, help="of all but SSD, which has 32: 8")
    parser.add_argument("--rounds", type=int, help="of each race, at most: 30")
    for name in ("--section", "--turns"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--until", "--prepared-by"):
        parser.add_argument(name, type=float, default=float("inf"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments if arguments is None else list(arguments))
    options.few = 2 if options.quick else 4
    options.jobs = options.jobs or (1 if options.quick else 2)
    options.size = options.size or ([64, 64] if options.quick else [800, 1088])
    options.batch = options.batch or (2 if options.quick else 32)
    options.training_batch = options.training_batch or (2 if options.quick else 8)
    options.rounds = options.rounds or (2 if options.quick else 30)
    return options


def main() -> None:
    options = parse()
    if options.section:
        run_section(options.section, options)
    elif options.device.startswith("cuda") and not torch.cuda.is_available():
        print("left out: no CUDA device here; `--device cpu --quick` runs every line without one")
    else:
        run_all(options)


if __name__ == "__main__":
    main()
