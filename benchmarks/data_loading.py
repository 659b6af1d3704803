"""Data loading: images per second as padded float batches, boxwright against torchvision.

    python benchmarks/data_loading.py --preset standard --workers 0 1 2 --rounds 5
    python benchmarks/data_loading.py --data my_dataset/

Both read the same files, short side 320 and long side at most 512, with the same augmentations: "light" flips,
"standard" flips, varies the size, crops by IoU and changes colours. torchvision is `datasets.CocoDetection` wrapped for
`transforms.v2` on uint8 tensors (or PIL images, --backend pil), with a DataLoader with persistent workers. Both pad
batches as uint8 and convert them to float in the main process. Each round runs both over all images once, in turn. The
ratio is our time over theirs in the same round, below 1 where ours is faster, printed as its median and quartiles.
--cpu-time measures the CPU seconds of this process (workers: 0 only), which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

from boxwright.data.augment import PRESETS
from boxwright.data.batch import Batches
from boxwright.data.dataset import Dataset, Strings
from boxwright.data.formats import open_dataset
from boxwright.data.formats.coco import write_coco
from boxwright.data.preprocess import Preprocess
from record import add_out, milliseconds, ratio, save

BATCH = 8
PREPROCESS = Preprocess(short=320, long=512)


def synthetic(folder: Path, images: int, seed: int = 0) -> Dataset:
    """JPEGs of 500x375 and 375x500 with smooth noise, five objects in each."""
    rng = np.random.default_rng(seed)
    paths, sizes = [], []
    for number in range(images):
        height, width = (375, 500) if rng.random() < 0.75 else (500, 375)
        small = Image.fromarray(rng.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels = np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
        paths.append(str(folder / f"{number}.jpg"))
        Image.fromarray(pixels).save(paths[-1], quality=90)
        sizes.append((height, width))
    corners = rng.uniform(0, 250, (images * 5, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 125, corners.shape)], axis=1).astype(np.float32)
    none = np.zeros(len(boxes), bool)
    return Dataset(
        names=("thing",),
        paths=Strings.pack(paths),
        ids=np.arange(images),
        sizes=np.array(sizes),
        offsets=np.arange(0, len(boxes) + 1, 5),
        boxes=boxes,
        labels=np.zeros(len(boxes), np.int64),
        crowd=none,
        difficult=none,
        area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
    )


def run_boxwright(dataset: Dataset, preset: str, workers: int) -> Callable[[int], int]:
    batches = Batches(dataset, PREPROCESS, PRESETS[preset], BATCH, workers=workers, drop_last=False)
    return lambda epoch: sum(len(batch.images.pixels) for batch in batches.epoch(epoch))


def run_torchvision(annotations: Path, preset: str, workers: int, backend: str) -> Callable[[int], int]:
    standard = preset == "standard"
    steps = [
        v2.ToImage() if backend == "tensor" else v2.Identity(),
        v2.RandomApply([v2.RandomIoUCrop()], p=0.5) if standard else v2.Identity(),
        v2.RandomHorizontalFlip(p=0.5),
        v2.RandomApply([v2.ColorJitter(0.2, 0.2, 0.3, 0.02)], p=0.5) if standard else v2.Identity(),
        v2.RandomShortestSize([256, 288, 320, 352, 384], max_size=614) if standard else v2.Resize(320, max_size=512),
        v2.ToImage(),
        v2.SanitizeBoundingBoxes(),
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        images = CocoDetection(annotations.parent, str(annotations), transforms=v2.Compose(steps))
    images: Any = wrap_dataset_for_transforms_v2(images, target_keys=("boxes", "labels"))
    loader = DataLoader(
        images, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0, collate_fn=pad_together
    )
    return lambda epoch: sum(len(pixels.float()) for pixels, _ in loader)


def pad_together(samples: list[tuple[torch.Tensor, dict[str, Any]]]) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    images, targets = zip(*samples, strict=True)
    height, width = (-(-max(image.shape[side] for image in images) // 32) * 32 for side in (1, 2))
    pixels = torch.full((len(images), 3, height, width), 114, dtype=torch.uint8)
    for padded, image in zip(pixels, images, strict=True):
        padded[:, : image.shape[1], : image.shape[2]] = image
    return pixels, list(targets)


def measure(runs: dict[str, Callable[[int], int]], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds per image of each side in each round, after a warm-up round for workers and file cache."""
    order = list(runs)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for epoch in range(rounds + 1):
        for name in order:
            start = clock()
            images = runs[name](epoch)
            if epoch > 0:
                times[name].append((clock() - start) / images)
        order.reverse()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a dataset; its train split is used. Default: synthetic JPEGs")
    parser.add_argument("--images", type=int, default=400, help="maximum number of images per round")
    parser.add_argument("--preset", choices=("light", "standard"), default="standard")
    parser.add_argument("--backend", choices=("tensor", "pil"), default="tensor", help="torchvision's images")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time instead of wall time")
    add_out(parser)
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    worker_counts = [0] if options.cpu_time else options.workers
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.data is None:
            dataset = synthetic(Path(folder), options.images)
        else:
            dataset = open_dataset(options.data)["train"]
            dataset = dataset.select(range(min(options.images, len(dataset))))
        annotations = Path(folder) / "annotations.json"
        write_coco(dataset, annotations)
        cores = f"{os.cpu_count()} cores, {platform.machine()}"
        print(f"{len(dataset)} images, {options.preset} augmentation, {options.backend} backend, {cores}")
        for workers in worker_counts:
            runs = {
                "boxwright": run_boxwright(dataset, options.preset, workers),
                "torchvision": run_torchvision(annotations, options.preset, workers, options.backend),
            }
            times = measure(runs, options.rounds, clock)
            medians = "   ".join(f"{name} {1 / statistics.median(values):5.0f}/s" for name, values in times.items())
            compared = ratio(times["boxwright"], times["torchvision"])
            print(f"workers {workers}   {medians}   ratio {compared}")
            title = f"an image loaded, {options.preset} augmentation, {workers} workers, against torchvision"
            ours, theirs = (milliseconds(values) for values in times.values())
            save(options.out, {title: {"ours": ours, "theirs": theirs, "ratio 1": compared}})


if __name__ == "__main__":
    main()
