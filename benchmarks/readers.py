"""Time and memory to open large datasets: COCO JSON against pycocotools and hotcoco, YOLO and VOC by themselves.

    python benchmarks/readers.py --images 118287 --rounds 5

The files are synthetic and for each image as large as COCO's train2017 with its polygons (118,287 images, 861,000
boxes, 430 MB); every image is the same small JPEG. Each run is a process of its own. Each round runs all in turn, so
that a busy machine slows all of them down. Printed are medians of CPU seconds and of the peak memory of the process,
and a ratio of CPU times within a round, ours over the peer's (below 1: ours is faster), as its median and quartiles.
The peers read the JSON alone; ours also reads the size of every image from its file.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from boxwright.data.formats import open_dataset, voc, yolo
from record import add_out, milliseconds, ratio, save

_CLASSES = 80
_MOST_LINKS = 20_000
_JSON = "annotations/instances_train.json"


def link_images(folder: Path, names: list[str]) -> None:
    """The same JPEG under every name."""
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        if number % _MOST_LINKS == 0:
            Image.new("RGB", (640, 480), (90, 120, 60)).save(source := folder / name)
        else:
            os.link(source, folder / name)


def write_coco(folder: Path, count: int) -> None:
    """Images with 7.28 boxes on average, each with a polygon of 19 points; one of a hundred is a crowd with an RLE."""
    rng = np.random.default_rng(0)
    ids = np.sort(rng.choice(6 * count, count, replace=False)).tolist()
    names = [f"{key:012d}.jpg" for key in ids]
    link_images(folder / "train", names)
    images = [
        {
            "license": 3, "file_name": name, "coco_url": f"http://images.cocodataset.org/train2017/{name}",
            "height": 480, "width": 640, "date_captured": "2013-11-14 11:18:45",
            "flickr_url": f"http://farm9.staticflickr.com/8186/{key}_fc3b5be3a5_z.jpg", "id": key,
        }
        for key, name in zip(ids, names, strict=True)
    ]  # fmt: skip
    annotations = []
    for number, owner in enumerate(np.repeat(ids, rng.poisson(7.28, count)).tolist()):
        x, y, width, height = np.round(rng.uniform((0, 0, 5, 5), (490, 390, 150, 90)), 2).tolist()
        crowd = rng.random() < 0.01
        points = np.round(rng.uniform((x, y), (x + width, y + height), (5 + int(rng.exponential(16)), 2)), 2)
        annotations.append(json.dumps({
            "segmentation": {"counts": list(range(150)), "size": [480, 640]} if crowd else [points.ravel().tolist()],
            "area": round(0.7 * width * height, 4), "iscrowd": int(crowd), "image_id": owner,
            "bbox": [x, y, width, height], "category_id": int(rng.integers(1, _CLASSES + 1)), "id": number,
        }))  # fmt: skip
    categories = [{"supercategory": "thing", "id": k, "name": f"class {k}"} for k in range(1, _CLASSES + 1)]
    parts = {"images": json.dumps(images), "annotations": f"[{', '.join(annotations)}]"}
    parts["categories"] = json.dumps(categories)
    path = folder / _JSON
    path.parent.mkdir()
    path.write_text("{" + ", ".join(f'"{key}": {text}' for key, text in parts.items()) + "}")


def write_all(folder: Path, count: int) -> None:
    """The dataset as COCO, YOLO and VOC."""
    write_coco(folder / "coco", count)
    opened = open_dataset(folder / "coco", draw=False)
    for name, module in (("yolo", yolo), ("voc", voc)):
        names = [opened["train"].path(index).name for index in range(len(opened["train"]))]
        link_images(folder / name / module.image_folder("train"), names)
        module.write(opened, folder / name)


def _pycocotools(folder: Path) -> object:
    import pycocotools.coco

    with contextlib.redirect_stdout(io.StringIO()):
        return pycocotools.coco.COCO(str(folder / "coco" / _JSON))


def _hotcoco(folder: Path) -> object:
    import hotcoco

    return hotcoco.COCO(str(folder / "coco" / _JSON))


RUNS: dict[str, Callable[[Path], object]] = {
    "coco": lambda folder: open_dataset(folder / "coco", draw=False),
    "pycocotools": _pycocotools,
    "hotcoco": _hotcoco,
    "yolo": lambda folder: open_dataset(folder / "yolo", draw=False),
    "voc": lambda folder: open_dataset(folder / "voc", draw=False),
}
"""What is timed, by its name in the table."""


def run_in_process(name: str, folder: Path, *options: str) -> dict[str, Any]:
    """CPU seconds and peak megabytes. A process inherits the peak of its parent, which therefore stays small."""
    command = [sys.executable, __file__, "--run", name, "--folder", str(folder), *options]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3, help="at least 2")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--folder", type=Path, help="keeps the files there, or reads those that are there")
    add_out(parser)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        started = time.process_time()
        if options.run == "write":
            write_all(options.folder, options.images)
        else:
            RUNS[options.run](options.folder)
        unit = 1 if sys.platform == "darwin" else 1024
        peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"seconds": time.process_time() - started, "megabytes": peak / 1e6}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "coco").exists():
            run_in_process("write", folder, "--images", str(options.images))
        size = (folder / "coco" / _JSON).stat().st_size / 1e6
        print(f"COCO JSON of {size:.0f} MB, {os.cpu_count()} cores, {platform.machine()}")
        rounds = [{name: run_in_process(name, folder) for name in options.only} for _ in range(options.rounds)]
        seconds = {name: [round[name]["seconds"] for round in rounds] for name in options.only}
        for name in options.only:
            megabytes, compared = statistics.median(round[name]["megabytes"] for round in rounds), ""
            if name in ("pycocotools", "hotcoco") and "coco" in options.only:
                compared = ratio(seconds["coco"], seconds[name])
                cells = {"ours": milliseconds(seconds["coco"]), "theirs": milliseconds(seconds[name])}
                save(options.out, {f"COCO JSON of {size:.0f} MB opened, against {name}": cells | {"ratio 1": compared}})
                compared = f"   ours over it {compared}"
            print(f"{name:12} {statistics.median(seconds[name]):7.2f} s {megabytes:7.0f} MB{compared}")


if __name__ == "__main__":
    main()
