"""Time to compute COCO's twelve numbers: boxwright against pycocotools, faster-coco-eval and hotcoco alone.

    python benchmarks/evaluator.py --images 2000 --rounds 5

Two tasks. "files": an annotation file and a results file, as `evaluate_files` takes them. "memory": detections and
targets as tensors, as after an epoch of training. The peers' annotations are indexed beforehand (ours are indexed each
time), and the peers get the detections as an (N, 7) array. Each round runs every evaluator once, in rotating order. A
ratio is our time over the peer's in the same round, below 1 where ours is faster, printed as its median and quartiles.
All must compute the same twelve numbers (faster-coco-eval: to 1e-9), or nothing is printed. Ours are hotcoco's: its row
shows what checking the files and the curves of each class cost.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faster_coco_eval
import hotcoco
import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
import torch

from boxwright.metrics.coco import METRICS, Evaluation, evaluate, evaluate_files
from boxwright.types import Detections, Target
from record import add_out, milliseconds, ratio, save

CLASSES = 20


def synthetic(images: int, seed: int = 0) -> tuple[list[Detections], list[Target]]:
    """Eight objects per image on average, each detected three times with noise, and as many random boxes."""
    rng = np.random.default_rng(seed)
    detections, targets = [], []
    for _ in range(images):
        n = int(rng.integers(1, 16))
        corners = rng.uniform(0, 400, (n, 2))
        objects = np.concatenate([corners, corners + rng.uniform(8, 200, (n, 2))], axis=1)
        labels = rng.integers(0, CLASSES, n)
        near = np.repeat(objects, 3, axis=0) * rng.normal(1, 0.03, (3 * n, 4))
        corners = rng.uniform(0, 400, (3 * n, 2))
        random = np.concatenate([corners, corners + rng.uniform(8, 200, (3 * n, 2))], axis=1)
        boxes = np.concatenate([near, random])
        scores = np.concatenate([rng.beta(4, 2, 3 * n), rng.beta(1, 4, 3 * n)])
        detected = np.concatenate([np.repeat(labels, 3), rng.integers(0, CLASSES, 3 * n)])
        detections.append(
            Detections(torch.from_numpy(boxes).float(), torch.from_numpy(scores), torch.from_numpy(detected))
        )
        targets.append(Target(torch.from_numpy(objects).float(), torch.from_numpy(labels)))
    return detections, targets


def results_array(detections: list[Detections]) -> np.ndarray:
    """(N, 7) image id, x, y, width, height, score, category id."""
    images = np.repeat(np.arange(1, len(detections) + 1), [len(image) for image in detections])
    boxes = torch.cat([image.boxes for image in detections]).double().numpy()
    scores = torch.cat([image.scores for image in detections]).numpy()
    labels = torch.cat([image.labels for image in detections]).numpy()
    return np.column_stack([images, boxes[:, :2], boxes[:, 2:] - boxes[:, :2], scores, labels + 1])


def write_files(folder: Path, detections: list[Detections], targets: list[Target]) -> tuple[Path, Path]:
    boxes = torch.cat([target.boxes for target in targets]).double().numpy()
    images = np.repeat(np.arange(1, len(targets) + 1), [len(target) for target in targets]).tolist()
    labels = (torch.cat([target.labels for target in targets]) + 1).tolist()
    areas = torch.cat([target.area for target in targets]).tolist()
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    annotations = [
        {"id": number, "image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": 0}
        for number, (image, label, box, area) in enumerate(zip(images, labels, xywh, areas, strict=True), start=1)
    ]
    truth, results = folder / "annotations.json", folder / "results.json"
    truth.write_text(
        json.dumps(
            {
                "images": [{"id": image, "width": 600, "height": 600} for image in range(1, len(targets) + 1)],
                "categories": [{"id": label, "name": f"class {label}"} for label in range(1, CLASSES + 1)],
                "annotations": annotations,
            }
        )
    )
    rows = results_array(detections).tolist()
    results.write_text(
        json.dumps([{"image_id": int(r[0]), "category_id": int(r[6]), "bbox": r[1:5], "score": r[5]} for r in rows])
    )
    return truth, results


def twelve(evaluation: Evaluation) -> list[float]:
    return [getattr(evaluation, metric) for metric in METRICS]


def run_evaluator(evaluator: Any) -> list[float]:
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return list(evaluator.stats[:12])


def by_pycocotools(truth: Any, results: Any) -> list[float]:
    return run_evaluator(pycocotools.cocoeval.COCOeval(truth, truth.loadRes(results), "bbox"))


def by_faster_coco_eval(truth: Any, results: Any) -> list[float]:
    return run_evaluator(faster_coco_eval.COCOeval_faster(truth, truth.loadRes(results), "bbox"))


def by_hotcoco(truth: Any, results: Any) -> list[float]:
    return run_evaluator(hotcoco.COCOeval(truth, truth.load_res(results), "bbox"))


def evaluators(folder: Path, images: int) -> dict[str, dict[str, Callable[[], list[float]]]]:
    detections, targets = synthetic(images)
    names = [f"class {label}" for label in range(1, CLASSES + 1)]
    truth, results = write_files(folder, detections, targets)
    slow_index, fast_index = pycocotools.coco.COCO(str(truth)), faster_coco_eval.COCO(str(truth))
    raw_index = hotcoco.COCO(str(truth))
    return {
        "files": {
            "boxwright": lambda: twelve(evaluate_files(truth, results)),
            "pycocotools": lambda: by_pycocotools(pycocotools.coco.COCO(str(truth)), str(results)),
            "faster-coco-eval": lambda: by_faster_coco_eval(faster_coco_eval.COCO(str(truth)), str(results)),
            "hotcoco": lambda: by_hotcoco(hotcoco.COCO(str(truth)), str(results)),
        },
        "memory": {
            "boxwright": lambda: twelve(evaluate(detections, targets, names)),
            "pycocotools": lambda: by_pycocotools(slow_index, results_array(detections)),
            "faster-coco-eval": lambda: by_faster_coco_eval(fast_index, results_array(detections)),
            "hotcoco": lambda: by_hotcoco(raw_index, results_array(detections)),
        },
    }


def measure(runs: dict[str, Callable[[], list[float]]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each evaluator in each round, after a warm-up round that compares the numbers."""
    with contextlib.redirect_stdout(io.StringIO()):
        numbers = {name: run() for name, run in runs.items()}
        for name, values in numbers.items():
            tolerance = 1e-9 if name == "faster-coco-eval" else 0
            np.testing.assert_allclose(values, numbers["boxwright"], rtol=0, atol=tolerance, err_msg=name)
        order = list(runs)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name in order:
                start = time.perf_counter()
                runs[name]()
                seconds[name].append(time.perf_counter() - start)
            order.append(order.pop(0))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    add_out(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            tasks = evaluators(Path(folder), options.images)
        print(f"{options.images} images, {CLASSES} classes, {os.cpu_count()} cores, {platform.machine()}")
        for task, runs in tasks.items():
            seconds = measure(runs, options.rounds)
            for name, times in seconds.items():
                compared = ratio(seconds["boxwright"], times)
                print(f"{task:8}{name:18}{milliseconds(times):>10}   ours over it {compared}")
                if name != "boxwright":
                    title = f"COCO's twelve numbers of {options.images} images, from {task}, against {name}"
                    ours, theirs = milliseconds(seconds["boxwright"]), milliseconds(times)
                    save(options.out, {title: {"ours": ours, "theirs": theirs, "ratio 1": compared}})


if __name__ == "__main__":
    main()
