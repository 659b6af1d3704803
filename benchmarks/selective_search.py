"""Selective search against OpenCV contrib's: recall by number of proposals, and time per image on one thread.

    python benchmarks/selective_search.py --data VOC_FOLDER --images 200
    python benchmarks/selective_search.py --data VOC_FOLDER --images 100 --modes quality --cpu-time

Needs opencv-contrib-python-headless. Both search the same images of the dataset's test split in the same mode, in turn.
Without --data the images are scikit-image's photographs, which have no annotations: only times are printed. Recall is
the share of the objects (without crowds and difficult ones) that one of an image's first 100, 500 ... proposals
overlaps with an IoU of .5 or .7; "all" takes every box of a method, without ranking. OpenCV ranks by the inverse of the
paper's formula: small regions come first. The ratio is our time over OpenCV's for one image, below 1 where ours is
faster, printed as its median and quartiles over the images. --cpu-time measures the CPU time of the thread, which a
busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import cv2
import numba
import numpy as np
import torch

from boxwright.data.formats import open_dataset
from boxwright.data.image import read_image
from boxwright.predict.propose import best_overlaps
from boxwright.proposals import SelectiveSearch
from record import add_out, milliseconds, ratio, save

COUNTS = (100, 500, 1000, 2000, 10**9)
THRESHOLDS = (0.5, 0.7)
Search = Callable[[np.ndarray], np.ndarray]


def opencv_search(mode: Literal["fast", "quality"]) -> Search:
    """OpenCV's boxes (P, 4) xyxy of an RGB image, in OpenCV's order."""

    def search(image: np.ndarray) -> np.ndarray:
        finder = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        finder.setBaseImage(np.ascontiguousarray(image[..., ::-1]))
        if mode == "fast":
            finder.switchToSelectiveSearchFast()
        else:
            finder.switchToSelectiveSearchQuality()
        x, y, width, height = np.asarray(finder.process()).T
        return np.stack([x, y, x + width, y + height], axis=1)

    return search


def make_images(folder: Path | None, most: int, seed: int) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Images, each with the boxes (G, 4) of its objects."""
    if folder is None:
        from skimage import data

        for photo in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())[:most]:
            yield photo, torch.zeros(0, 4)
        return
    dataset = open_dataset(folder)["test"]
    for index in np.random.default_rng(seed).permutation(len(dataset))[:most].tolist():
        target = dataset.target(index)
        yield read_image(dataset.path(index)), target.boxes[~(target.crowd | target.difficult)]


def covered(boxes: np.ndarray, objects: torch.Tensor) -> torch.Tensor:
    """Whether each object is covered, by number of boxes and IoU threshold: (len(COUNTS), len(THRESHOLDS), G) bool."""
    return best_overlaps(boxes, objects, COUNTS)[:, None] >= torch.tensor(THRESHOLDS)[:, None]


def compare(mode: Literal["fast", "quality"], options: argparse.Namespace) -> None:
    clock = time.thread_time if options.cpu_time else time.perf_counter
    longest = 500
    methods: dict[str, Search] = {
        "boxwright": SelectiveSearch(mode, count=10**9, longest=longest),
        "OpenCV": opencv_search(mode),
    }
    order = list(methods)
    warm_up = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for search in methods.values():
        search(warm_up)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    hits: dict[str, list[torch.Tensor]] = {name: [] for name in methods}
    boxes_of: dict[str, list[int]] = {name: [] for name in methods}
    for image, objects in make_images(options.data, options.images, options.seed):
        shrink = min(1.0, longest / max(image.shape[:2]))
        if shrink < 1:  # so that both search the same pixels, and neither time includes the resizing
            image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
            objects = objects * shrink
        for name in order:
            start = clock()
            boxes = methods[name](image)
            seconds[name].append(clock() - start)
            boxes_of[name].append(len(boxes))
            hits[name].append(covered(boxes, objects))
        order.reverse()
    report(mode, seconds, boxes_of, {name: torch.cat(images, dim=-1) for name, images in hits.items()})
    ours, theirs = seconds["boxwright"], seconds["OpenCV"]
    cells = {"ours": milliseconds(ours), "theirs": milliseconds(theirs), "ratio 1": ratio(ours, theirs)}
    save(options.out, {f"selective search, {mode} mode, one image, against OpenCV contrib's": cells})


def report(
    mode: str, seconds: dict[str, list[float]], boxes_of: dict[str, list[int]], hits: dict[str, torch.Tensor]
) -> None:
    objects = hits["OpenCV"].shape[-1]
    print(f"\n{mode}: {len(seconds['OpenCV'])} images, {objects} objects")
    for name in seconds:
        low, middle, high = np.quantile(seconds[name], (0.25, 0.5, 0.75)) * 1000
        print(f"  {name:10} {middle:7.0f} ms per image ({low:.0f} to {high:.0f}), {np.mean(boxes_of[name]):.0f} boxes")
    print(f"  ratio      {ratio(seconds['boxwright'], seconds['OpenCV'])}, ours over OpenCV's")
    if objects:
        heads = ["all" if count == COUNTS[-1] else str(count) for count in COUNTS]
        print("  recall" + " " * 11 + "".join(f"{head:>8}" for head in heads))
        for index, threshold in enumerate(THRESHOLDS):
            for name, covered_objects in hits.items():
                values = covered_objects[:, index].float().mean(dim=-1).tolist()
                print(f"  IoU {threshold} {name:10}" + "".join(f"{100 * value:8.1f}" for value in values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a dataset; its test split is searched")
    parser.add_argument("--images", type=int, default=100, help="maximum number of images")
    parser.add_argument("--modes", nargs="+", choices=("fast", "quality"), default=["fast", "quality"])
    parser.add_argument("--seed", type=int, default=0, help="selects the images")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time of the thread instead of wall time")
    add_out(parser)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(f"{vars(options)}")
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"OpenCV {cv2.__version__}, numba {numba.__version__}; one thread each"
    )
    for mode in options.modes:
        compare(mode, options)


if __name__ == "__main__":
    main()
