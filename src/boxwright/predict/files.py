"""Results as files that other tools read: COCO and YOLO."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from boxwright.boxes.geometry import xyxy_to_cxcywh
from boxwright.files import write_atomically
from boxwright.predict.predictor import Result


class CocoFile:
    """A COCO JSON that collects results and is written at the end of a `with`.

    It opens as a dataset to correct by hand. Each annotation has its score, so "annotations" is a COCO results list.
    """

    def __init__(self, path: str | Path, names: Sequence[str]) -> None:
        self.path = Path(path)
        self.names = tuple(names)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def __enter__(self) -> CocoFile:
        return self

    def __exit__(self, *exception: object) -> None:
        """The file is written after an error too, unless there is no result yet."""
        if exception[0] is not None and not self.images:
            return
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(self.names)]
        content = {"images": self.images, "annotations": self.annotations, "categories": categories}
        write_atomically(self.path, json.dumps(content))

    def add(self, result: Result) -> None:
        """The image's file name is relative to the JSON's folder."""
        if result.path is None:
            raise ValueError("a COCO file names its images, but this result has no path; save the image first")
        image_id = len(self.images) + 1
        name = Path(os.path.relpath(result.path.resolve(), self.path.resolve().parent)).as_posix()
        height, width = result.size
        self.images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for entry in result.to_coco(image_id):
            area = entry["bbox"][2] * entry["bbox"][3]
            self.annotations.append({"id": len(self.annotations) + 1, **entry, "area": area, "iscrowd": 0})


def yolo_lines(result: Result, scores: bool = False) -> str:
    """A line per detection: label, then center and size of the box as fractions of the image's width and height.

    With `scores` the score is a sixth column. Such a file is a prediction, and no annotation.
    """
    height, width = result.size
    scale = result.boxes.new_tensor([width, height, width, height])
    columns = xyxy_to_cxcywh(result.boxes) / scale
    columns = torch.cat([columns, result.scores[:, None]], 1) if scores else columns
    rows = zip(result.labels.tolist(), columns.tolist(), strict=True)
    return "".join(f"{label} {' '.join(f'{value:.6f}' for value in row)}\n" for label, row in rows)
