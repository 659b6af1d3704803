"""Results as files that other tools read: COCO and YOLO."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from boxwright.boxes.geometry import xyxy_to_cxcywh
from boxwright.files import Lines, is_stream, write_atomically
from boxwright.predict.predictor import Result


class CocoFile:
    """A COCO JSON that collects results and is written at the end of a `with`.

    It opens as a dataset to correct by hand. Each annotation has its score, so "annotations" is a COCO results list.

    Until then each image with its annotations is a line of JSON in the file's `partial_of`. After an error that file is
    a COCO JSON of the results so far, or has these lines where the disk is full; the error has a note that names it. An
    older file of that name stays as it is.
    """

    def __init__(self, path: str | Path, names: Sequence[str]) -> None:
        self.path = Path(path)
        self.names = tuple(names)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self._lines = Lines(self.path)

    def __enter__(self) -> CocoFile:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            if error is None:
                write_atomically(self.path, self._content())
                self._lines.discard()
        except BaseException as failed:
            self._lines.keep(failed)
            raise
        if error is not None and self._lines.keep(error):
            with suppress(OSError):
                write_atomically(self._lines.partial, self._content())

    def _content(self) -> str:
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(self.names)]
        return json.dumps({"images": self.images, "annotations": self.annotations, "categories": categories})

    def add(self, result: Result) -> None:
        """The image's file name is relative to the JSON's folder."""
        if result.path is None:
            raise ValueError("a COCO file names its images, but this result has no path; save the image first")
        image_id = len(self.images) + 1
        name = Path(os.path.relpath(result.path.resolve(), self.path.resolve().parent)).as_posix()
        height, width = result.size
        image = {"id": image_id, "file_name": name, "width": width, "height": height}
        entries = result.to_coco(image_id)
        annotations = [
            {"id": number, **entry, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
            for number, entry in enumerate(entries, len(self.annotations) + 1)
        ]
        if not is_stream(self.path):
            self._lines.add(json.dumps({"image": image, "annotations": annotations}))
        self.images.append(image)
        self.annotations += annotations


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
