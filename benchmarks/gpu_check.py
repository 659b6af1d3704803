"""Are the results on a GPU those of a CPU? Every detector and operator, on both, with the same weights and numbers.

    python benchmarks/gpu_check.py
    python benchmarks/gpu_check.py --device cpu --quick    # every line of it that needs no GPU

It prints a row for each check, and ends with status 1 where one of them is not good: where a loss is apart by more than
a thousandth of its value, or a box of one side has none within a tenth of a pixel on the other. Detectors have small
backbones and images here.

    training step          the losses and the norm of the gradient
    detections             eager, compiled and captured
    resumed training       as near to the uninterrupted one as that is to another run of itself
    operators              those of `boxwright.ops`, forward and backward
    voc9                   the bundled weights on the bundled photographs, also in bf16
"""

from __future__ import annotations

import argparse
import copy
import functools
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import boxwright
from boxwright.detectors import DETECTORS, Detector
from boxwright.layers.regions import numbered
from boxwright.ops import nms_mask
from boxwright.predict.program import Captured, Compiled, Eager
from boxwright.train.config import TrainConfig
from boxwright.train.loop import Training
from boxwright.types import Detections, Images, Target
from peers import Repeated, make_images, precision, settle

Row = tuple[str, dict[str, Any]]
"""What was checked, and its numbers, "good" among them."""

CPU = torch.device("cpu")


def check(name: str, device: str, quick: bool) -> list[Row]:
    """The rows of a detector, "operators" or "voc9"; an exception is a row that is not good."""
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    checks = {"operators": operators, "voc9": voc9}
    function: Callable[[torch.device, bool], Iterator[Row]] = checks.get(name, functools.partial(detector, name))
    rows: list[Row] = []
    try:
        rows.extend(function(torch.device(device), quick))
    except Exception as error:
        rows.append((name, {"good": False, "error": f"{type(error).__name__}: {error}"}))
    return rows


def small(name: str) -> Any:
    """The config of a detector on a small backbone that learns as a whole."""
    known = {field.name for field in fields(DETECTORS[name])}
    shared = {"backbone": "resnet18", "frozen_stages": 0, "proposals": 60, "max_detections": 50, "pre_nms_top_k": 300}
    return DETECTORS[name](**{key: value for key, value in shared.items() if key in known})


def detector(name: str, device: torch.device, quick: bool) -> Iterator[Row]:
    size = (96, 128) if quick else (256, 320)
    images, targets = make_images(2, size, CPU, classes=3)
    torch.manual_seed(0)
    here = small(name).build(3)
    settle(here, lambda: Eager(here, packed=False)(images))
    if here.propose is None:
        images = images.replace(proposals=images.proposals[:, :0])
    there, their_images = copy.deepcopy(here).to(device), images.to(device)
    their_targets = [target.to(device) for target in targets]
    (ours, our_norm), (others, norm) = learn(there, their_images, their_targets), learn(here, images, targets)
    apart = max(abs(ours[key] - value) / max(abs(value), 1e-3) for key, value in others.items())
    gradient = abs(our_norm - norm) / norm
    good = apart < 1e-3 and gradient < 1e-2 and sum(ours.values()) < float("inf")
    yield f"{name}, training step", {"good": good, "loss": apart, "gradient": gradient}

    expected = Eager(here, packed=False)(images).trim()
    yield f"{name}, detections", compared(Eager(there)(their_images).to("cpu").trim(), expected)
    yield f"{name}, resumed training", resumed(there, their_images, their_targets)
    program = Compiled(there, "aot_eager" if quick else "inductor")
    yield f"{name}, compiled", compared(program(their_images).to("cpu").trim(), expected)
    if device.type == "cuda":
        graph = Captured(there, program)
        for run in ("captured", "captured, replayed"):
            yield f"{name}, {run}", compared(graph(their_images).to("cpu").trim(), expected)


def learn(detector: Detector, images: Images, targets: list[Target]) -> tuple[dict[str, float], float]:
    """The losses and the norm of the gradient; random numbers come from the CPU."""
    numbers, draw = torch.Generator().manual_seed(0), torch.rand
    detector.train()
    detector.zero_grad(set_to_none=True)
    with mock.patch.object(torch, "rand", lambda *shape, device=None: draw(*shape, generator=numbers).to(device)):
        losses = detector.loss(images, targets)
    torch.stack(list(losses.values())).sum().backward()
    gradients = [parameter.grad.norm() for parameter in detector.parameters() if parameter.grad is not None]
    return {key: float(value.detach()) for key, value in losses.items()}, float(torch.stack(gradients).norm())


def resumed(detector: Detector, images: Images, targets: list[Target]) -> dict[str, Any]:
    """Whole, whole again, and stopped half way: how far apart the weights are."""

    def train(stop: int | None, start: str | None = None, file: str = "") -> dict[str, Tensor]:
        config = TrainConfig(epochs=1, precision="fp32", lr=1e-4)
        training = Training(copy.deepcopy(detector).train(), Repeated(images, targets, 4), config)  # type: ignore[arg-type]
        if start:
            training.resume(start)
        for step in training.steps(progress=False):
            if step.number == stop:
                training.save(file)
                break
        return dict(training.detector.state_dict())

    def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
        return max(float((a[key].double() - value.double()).abs().max()) for key, value in b.items())

    with tempfile.TemporaryDirectory() as folder:
        whole, again = train(None), train(None)
        train(2, file=f"{folder}/state.safetensors")
        rest = train(None, start=f"{folder}/state.safetensors")
    found, repeated = apart(rest, whole), apart(again, whole)
    return {"good": found <= 2 * repeated + 1e-4, "apart": found, "repeated_apart": repeated}


def compared(found: list[Any], expected: list[Any], pixels: float = 0.1) -> dict[str, Any]:
    """Detections of two runs.

    lost      boxes of the second that none of the first of the same class comes as near to
    tied      the same, where one has the very same score: regions that are pooled from the same cells
    box_px    the largest distance of the others, score likewise
    """
    lost, tied, box, score = 0, 0, 0.0, 0.0
    for a, b in zip(found, expected, strict=True):
        if not len(a) or not len(b):
            lost += len(b)
            continue
        distance = (b.boxes[:, None] - a.boxes[None]).abs().amax(-1)
        nearest = torch.where(b.labels[:, None] == a.labels[None], distance, torch.inf).min(1)
        close = nearest.values <= pixels
        equal = ~close & (b.scores[:, None] - a.scores[None]).abs().le(1e-5).any(1)
        lost, tied = lost + int((~close & ~equal).sum()), tied + int(equal.sum())
        if close.any():
            box = max(box, float(nearest.values[close].max()))
            score = max(score, float((b.scores - a.scores[nearest.indices])[close].abs().max()))
    count = sum(map(len, expected))
    good = not lost and count > 0 and sum(map(len, found)) == count
    return {"good": good, "boxes": count, "lost": lost, "tied": tied, "box_px": box, "score": score}


def operators(device: torch.device, quick: bool) -> Iterator[Row]:
    noise = torch.Generator().manual_seed(0)
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

    options = {"roi_align": (2, True), "roi_pool": (), "ps_roi_align": (2,), "ps_roi_pool": ()}
    for name, numbers in [*options.items(), ("roi_align", (0, False))]:
        pairs = zip(pooled(name, numbers, device), pooled(name, numbers, CPU), strict=True)
        forward, *backward = [float((a.cpu() - b).abs().max() / b.abs().max()) for a, b in pairs]
        good = max(forward, *backward) < 1e-4
        yield f"{name}{numbers or ''}", {"good": good, "forward": forward, "backward": max(backward)}

    pixels = 255 * torch.rand(2, 3, 256, 320, generator=noise)
    a, b = (torch.ops.boxwright.warp(pixels.to(d), regions.to(d), 32, 32).cpu() for d in (device, CPU))
    yield "warp", {"good": bool((a - b).abs().max() < 1e-2), "forward": float((a - b).abs().max())}

    for most in (None, 20):
        inputs = suppression(2, 200 if quick else 4800, 4)
        boxes, scores, groups, valid = (column.to(device) for column in inputs)
        a, b = nms_mask(boxes, scores, groups, valid, 0.5, most).cpu(), nms_mask(*inputs, 0.5, most)
        differing = int((a != b).sum())
        yield f"nms_mask, most {most}", {"good": not differing, "differing": differing, "kept": int(b.sum())}


def suppression(images: int, count: int, groups: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes (N, K, 4) in clusters of about ten, scores, groups and validity."""
    noise = torch.Generator().manual_seed(count)
    centers = torch.rand(images, max(1, count // 10), 2, generator=noise) * torch.tensor([1088.0, 800.0])
    extents = 20 + 180 * torch.rand(images, max(1, count // 10), 2, generator=noise) ** 2
    chosen = torch.randint(centers.shape[1], (images, count), generator=noise)[..., None].expand(-1, -1, 2)
    extent = extents.gather(1, chosen) * (0.7 + 0.6 * torch.rand(images, count, 2, generator=noise))
    center = centers.gather(1, chosen) + 0.4 * extent * (torch.rand(images, count, 2, generator=noise) - 0.5)
    boxes, scores = (
        torch.cat([center - extent / 2, center + extent / 2], -1),
        torch.rand(images, count, generator=noise),
    )
    group = torch.randint(groups, (images, count), generator=noise)
    return boxes, scores, group, torch.ones(images, count, dtype=torch.bool)


def voc9(device: torch.device, quick: bool) -> Iterator[Row]:
    photos = sorted((Path(boxwright.__file__).parent / "zoo" / "photos").glob("*.webp"))[: 1 if quick else None]
    here, there = boxwright.load("voc9", "cpu"), boxwright.load("voc9", device)

    def detections(**options: Any) -> list[Any]:
        return [Detections(r.boxes, r.scores, r.labels) for r in there(photos, threshold=0.1, **options)]

    expected = here(photos, threshold=0.1)
    yield "voc9, fp32", compared(detections(), expected)
    yield "voc9, fp32, a batch", compared(detections(batch=4), expected)
    with precision(device, "bf16"):
        yield "voc9, bf16", compared(detections(), expected, pixels=5.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", default=[*DETECTORS, "operators", "voc9"], help="detectors, or the others")
    parser.add_argument("--jobs", type=int, default=4, help="processes at a time")
    parser.add_argument("--quick", action="store_true", help="small images; no C++ compiler is needed")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("left out: no CUDA device here; `--device cpu --quick` runs every line that needs none")
        return 0
    started, bad = time.time(), 0
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        checks = functools.partial(check, device=options.device, quick=options.quick)
        for rows in pool.map(checks, options.only):
            for what, numbers in rows:
                bad += not numbers["good"]
                print(f"{what}: " + ", ".join(f"{key} {value}" for key, value in numbers.items()), flush=True)
    print(f"{bad} not good, {time.time() - started:.0f} s")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
