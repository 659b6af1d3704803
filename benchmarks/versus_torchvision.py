"""Our detectors on a CPU against torchvision's and Detectron2's: inference and training steps.

    python benchmarks/versus_torchvision.py
    python benchmarks/versus_torchvision.py --rows faster_rcnn --rounds 9 --threads 1 --out build/bench.json

Both sides have the same weights, random ones of torchvision's builders converted to ours, and the same images. Each
side is a process of its own, as its users would run it: ours as `boxwright detect` and `boxwright train` do. In a round
every process runs once, alone, and the order changes from round to round. A ratio is our time over the peer's in the
same round: below 1, ours is faster. It is printed as its median and quartiles. With one thread, times are CPU times of
the process, which other work disturbs less; with two they are elapsed times. The table has the times of one thread.

Rows in bf16 are compared with the peer in fp32, which is how it runs unless told otherwise, and under autocast. "boxes
within" is the largest difference of a coordinate and of a score between all detections of both sides, in fp32.
Detectron2's rows are left out where it is not installed.
"""

from __future__ import annotations

import argparse
import copy
import math
import multiprocessing
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

import boxwright
from boxwright.heap import keep_heap
from boxwright.predict.predictor import Predictor
from boxwright.predict.program import Eager
from boxwright.train.config import TrainConfig
from boxwright.train.loop import Step, Training
from boxwright.types import Detections
from boxwright.zoo.proof import PHOTOS, compare
from peers import Repeated, Sides, build_detectron2, build_sides, precision, stepper
from record import add_out, milliseconds, ratio, save

CPU = torch.device("cpu")
ARITHMETIC: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
Answer = Detections | None
Runs = dict[str, Callable[[], Answer]]
"""What a side can run, by name, such as its arithmetic."""


class Comparison(NamedTuple):
    """A row: run `ours` of the first side against run `theirs` of side `peer`."""

    title: str
    ours: str
    peer: str
    theirs: str
    against: str
    boxes: bool = False


class Task(NamedTuple):
    """Sides, which are timed in turn, and the rows made of them."""

    sides: Mapping[str, Callable[[], Runs]]  # ours is the first
    rows: list[Comparison]


# ---------------------------------------------------------------------------------------------------------------------
# Sides: each function runs in a process of its own


def our_inference(build: Callable[[], Sides]) -> Runs:
    keep_heap()
    sides = build()
    programs = {name: Eager(sides.ours, precision=name) for name in ARITHMETIC}

    def run(arithmetic: str) -> Answer:
        return programs[arithmetic](sides.images[:1]).trim()[0]

    return {name: partial(run, name) for name in ARITHMETIC}


def torchvisions_inference(build: Callable[[], Sides]) -> Runs:
    sides = build()
    first = int(sides.their_targets[0]["labels"][0] - sides.targets[0].labels[0])  # its label of our class 0

    def run(arithmetic: str) -> Answer:
        with torch.inference_mode(), precision(CPU, arithmetic):
            (found,) = sides.theirs(sides.their_images[:1])
        return Detections(found["boxes"], found["scores"], found["labels"] - first)

    return {name: partial(run, name) for name in ARITHMETIC}


def detectron2s_inference(build: Callable[[], Sides]) -> Runs:
    sides = build()

    def run() -> Answer:
        with torch.inference_mode():
            found = sides.theirs(sides.their_images[:1])[0]["instances"]
        return Detections(found.pred_boxes.tensor, found.scores, found.pred_classes)

    return {"fp32": run}


def our_training(build: Callable[[int], Sides], objects: tuple[int, ...] = (8,)) -> Runs:
    """Steps of the library's own loop, without an average of the weights, which torchvision has not either."""
    runs: Runs = {}

    def step(steps: Iterator[Step]) -> None:
        next(steps)

    keep_heap()
    for count in objects:
        sides = build(count)
        for arithmetic in ARITHMETIC:
            config = TrainConfig(epochs=1, precision=arithmetic, lr=1e-6, ema=0)
            batches: Any = Repeated(sides.images, sides.targets, 10_000)
            steps = Training(copy.deepcopy(sides.ours), batches, config).steps(False)
            runs[named(arithmetic, count, objects)] = partial(step, steps)
    return runs


def torchvisions_training(build: Callable[[int], Sides], objects: tuple[int, ...] = (8,)) -> Runs:
    runs: Runs = {}
    for count in objects:
        sides = build(count)
        theirs = sides.theirs.train()

        def losses(sides: Sides = sides) -> dict[str, Tensor]:
            return sides.theirs(sides.their_images, sides.their_targets)

        for arithmetic in ARITHMETIC:
            runs[named(arithmetic, count, objects)] = stepper(theirs, losses, CPU, arithmetic)
    return runs


def named(arithmetic: str, count: int, objects: tuple[int, ...]) -> str:
    return arithmetic if len(objects) == 1 else f"{arithmetic}, {count}"


def voc9(packed: bool) -> Runs:
    """From a file to boxes with the bundled detector. Not `packed`: as PyTorch runs it."""
    predictor = boxwright.load(device="cpu")
    photo = PHOTOS / "astronaut.webp"

    def run(predictor: Predictor, count: int = 1, batch: int = 1) -> Answer:
        result = predictor([photo] * count, batch=batch)[0]
        return Detections(result.boxes, result.scores, result.labels)

    if not packed:
        return {"fp32": partial(run, predictor.with_program(Eager(predictor.detector, packed=False)))}
    keep_heap()
    return {
        "fp32": partial(run, predictor),
        "bf16": partial(run, predictor.with_precision("bf16")),
        "together": partial(run, predictor, 8, 8),
        "singly": partial(run, predictor, 8, 1),
    }


# ---------------------------------------------------------------------------------------------------------------------
# Rows

LARGE, TRAINED = (800, 1088), (320, 416)
MODELS = {
    "faster_rcnn": ("Faster R-CNN, ResNet-50 with FPN", LARGE),
    "retinanet": ("RetinaNet, ResNet-50 with FPN", LARGE),
    "fcos": ("FCOS, ResNet-50 with FPN", LARGE),
    "mobilenet": ("Faster R-CNN, MobileNetV3 at 320", (320, 416)),
    "ssd": ("SSD300, VGG16", (300, 300)),
    "ssdlite": ("SSDlite320, MobileNetV3", (320, 320)),
}


def make_tasks() -> dict[str, Task]:
    """All by the words of `--rows`."""
    tasks: dict[str, Task] = {}
    for name, (title, size) in MODELS.items():
        build = partial(build_sides, name, 2 if "ssd" in name else 1, size, CPU)  # two for norms of a single cell
        sides = {"ours": partial(our_inference, build), "torchvision": partial(torchvisions_inference, build)}
        tasks[f"inference {name}"] = Task(sides, against_torchvision(f"{title}, {size[0]}×{size[1]}", boxes=True))
    photo = "voc9, from a file to boxes"
    tasks["inference voc9"] = Task(
        {"ours": partial(voc9, True), "plain": partial(voc9, False)},
        [
            Comparison(f"{photo}, fp32", "fp32", "plain", "fp32", "plain PyTorch in fp32", boxes=True),
            Comparison(f"{photo}, bf16", "bf16", "plain", "fp32", "plain PyTorch in fp32"),
            Comparison(f"{photo}, eight in a batch", "together", "ours", "singly", "eight one by one", boxes=True),
        ],
    )
    for name in ("faster_rcnn", "retinanet", "fcos"):
        train = partial(sides_with_objects, name)
        sides = {"ours": partial(our_training, train), "torchvision": partial(torchvisions_training, train)}
        title = f"{MODELS[name][0]}, training step, 2 × {TRAINED[0]}×{TRAINED[1]}"
        tasks[f"training {name}"] = Task(sides, against_torchvision(title))
    train, counts = partial(sides_with_objects, "retinanet"), (1, 500)
    title = "RetinaNet, training step, 500 objects an image, fp32"
    tasks["training objects"] = Task(
        {
            "ours": partial(our_training, train, counts),
            "torchvision": partial(torchvisions_training, train, counts),
        },
        [
            Comparison(title, "fp32, 500", "ours", "fp32, 1", "ours with 1 object"),
            Comparison(title, "fp32, 500", "torchvision", "fp32, 500", "torchvision with 500"),
        ],
    )
    for name in ("faster_rcnn", "retinanet"):
        build = partial(build_detectron2, name, 1, LARGE)
        sides = {"ours": partial(our_inference, build), "detectron2": partial(detectron2s_inference, build)}
        title = f"{MODELS[name][0]}, {LARGE[0]}×{LARGE[1]}"
        tasks[f"detectron2 {name}"] = Task(
            sides,
            [
                Comparison(f"{title}, fp32", "fp32", "detectron2", "fp32", "Detectron2 in fp32", boxes=True),
                Comparison(f"{title}, bf16", "bf16", "detectron2", "fp32", "Detectron2 in fp32"),
            ],
        )
    return tasks


def against_torchvision(title: str, boxes: bool = False) -> list[Comparison]:
    pairs = (("fp32", "fp32"), ("bf16", "fp32"), ("bf16", "bf16"))
    return [
        Comparison(
            f"{title}, {ours}",
            ours,
            "torchvision",
            theirs,
            f"torchvision in {theirs}",
            boxes and ours == theirs == "fp32",
        )
        for ours, theirs in pairs
    ]


def sides_with_objects(name: str, objects: int) -> Sides:
    return build_sides(name, 2, TRAINED, CPU, pre_nms_top_k=1000, objects=objects)


# ---------------------------------------------------------------------------------------------------------------------
# Processes and rounds


def serve(task: str, side: str, pipe: Connection) -> None:
    """What the process of a side does: it runs what it is asked to, and sends the seconds and the detections."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        runs = make_tasks()[task].sides[side]()
        pipe.send(None)  # it is ready
        while True:
            pipe.send(timed(runs, *pipe.recv()))
    except ImportError as error:
        pipe.send(error)
    except Exception:
        pipe.send(RuntimeError(f"{task}, {side}:\n{traceback.format_exc()}"))


def timed(runs: Runs, name: str, threads: int, repeats: int) -> tuple[float, list[np.ndarray] | None]:
    """Seconds of a run, and the boxes, scores and labels that it found."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    started, answer = clock(), None
    for _ in range(repeats):
        answer = runs[name]()
    seconds = (clock() - started) / repeats
    if answer is None:
        return seconds, None
    return seconds, [answer.boxes.float().numpy(), answer.scores.float().numpy(), answer.labels.numpy()]


def detections(found: list[np.ndarray] | None) -> Answer:
    return None if found is None else Detections(*map(torch.from_numpy, found))


class Side:
    """The process of a side."""

    def __init__(self, task: str, side: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=serve, args=(task, side, end), daemon=True)
        self.process.start()
        end.close()

    def receive(self) -> Any:
        answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def run(self, name: str, threads: int, repeats: int = 1) -> tuple[float, Answer]:
        """Seconds of a run, and what it has found."""
        self.pipe.send((name, threads, repeats))
        seconds, found = self.receive()
        return seconds, detections(found)

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()


def measure(
    sides: Mapping[str, Side], runs: list[tuple[str, str]], threads: int, rounds: int
) -> tuple[dict[tuple[str, str], list[float]], dict[tuple[str, str], Answer]]:
    """The seconds of each run in each round, and what it found. A short one is repeated within its turn."""
    answers, repeats = {}, {}
    for side, name in runs:
        seconds, answers[side, name] = sides[side].run(name, threads)  # a warm-up
        if seconds < 1:
            seconds, _ = sides[side].run(name, threads)
        repeats[side, name] = min(10, math.ceil(0.1 / max(seconds, 1e-3)))
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for number in range(rounds):
        for side, name in runs[number % len(runs) :] + runs[: number % len(runs)]:
            times[side, name].append(sides[side].run(name, threads, repeats[side, name])[0])
    return times, answers


def difference(ours: Answer, theirs: Answer) -> str:
    """The largest between the detections of both, and how many have no counterpart."""
    assert ours is not None and theirs is not None
    found = compare("", 1, theirs, ours)
    lost = max(found.unmatched, abs(found.original - found.converted))
    missing = f", {lost} of {found.original} without a counterpart" if lost else ""
    return f"{found.box:.1e} px, {found.score:.1e}{missing}"


def race(task: str, options: argparse.Namespace) -> dict[str, dict[str, str]]:
    """The rows of a task; none, with a line that says why, where a library is missing."""
    kinds = make_tasks()[task]
    sides = {name: Side(task, name) for name in kinds.sides}
    try:
        for side in sides.values():
            side.receive()
        firsts = [("ours", row.ours) for row in kinds.rows] + [(row.peer, row.theirs) for row in kinds.rows]
        rows: dict[str, dict[str, str]] = {}
        for threads in options.threads:
            times, answers = measure(sides, list(dict.fromkeys(firsts)), threads, options.rounds)
            for row in kinds.rows:
                ours, theirs = times["ours", row.ours], times[row.peer, row.theirs]
                cells = rows.setdefault(f"{row.title}, against {row.against}", {})
                cells[f"ratio {threads}"] = ratio(ours, theirs)
                if threads == options.threads[0]:
                    cells |= {"ours": milliseconds(ours), "theirs": milliseconds(theirs)}
                    if row.boxes:
                        cells["boxes"] = difference(answers["ours", row.ours], answers[row.peer, row.theirs])
                shown = f"{milliseconds(ours):>9} {milliseconds(theirs):>9}   {cells[f'ratio {threads}']}"
                print(f"{row.title:62} {row.against:25} {threads} {shown}  {cells.get('boxes', '')}", flush=True)
        return rows
    except ImportError as error:
        print(f"{task}: left out ({error})")
        return {}
    finally:
        for side in sides.values():
            side.stop()


def main() -> None:
    tasks = list(make_tasks())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=[""], help=f"those with one of these words: {', '.join(tasks)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], choices=(1, 2))
    add_out(parser)
    options = parser.parse_args()
    for task in tasks:
        if any(word in task for word in options.rows):
            save(options.out, race(task, options))


if __name__ == "__main__":
    main()
