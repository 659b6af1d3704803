"""COCO's detection metrics, computed by hotcoco with the numbers of pycocotools.

Source: the COCO detection evaluation, https://cocodataset.org/#detection-eval, whose reference is `pycocotools`.
A detection matches an object if their IoU reaches a threshold. A class's average precision (AP) is its precision
averaged over 101 recalls; AP without a number is also averaged over the IoU thresholds .50, .55 … .95. The average
recalls AR1, AR10 and AR100 allow that many detections per image and class. Small, medium and large are by area: up to
32², 32² to 96², 96² and over. Where COCO writes -1, for "no such object", an `Evaluation` has nan.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from boxwright.data.formats.reading import without_collector
from boxwright.metrics.coco_files import read_annotations, read_results
from boxwright.terminal import shorten
from boxwright.types import Detections, Target
from boxwright.units import counted, printable

RECALLS = tuple(np.linspace(0.0, 1.0, 101).tolist())
"""The recalls at which COCO samples the precision."""

METRICS = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)
"""The twelve numbers, in COCO's order."""


@dataclass(frozen=True)
class ClassEvaluation:
    """One class: its counts, AP, and its precision and score at each of `RECALLS`, for IoU .5 and objects of any size.

    precision  interpolated (the best at this or a higher recall); 0 if the recall is not reached
    scores     the detector's score at that recall; 0 if it is not reached
    Without an object the metrics are nan and both curves are empty.
    """

    objects: int
    ap: float
    ap50: float
    precision: tuple[float, ...]
    scores: tuple[float, ...]

    @property
    def f1(self) -> tuple[float, ...]:
        """The harmonic mean of precision and recall at each of `RECALLS`."""
        return tuple(2 * p * r / (p + r) if p > 0 else 0.0 for p, r in zip(self.precision, RECALLS, strict=False))

    @property
    def threshold(self) -> float:
        """The score at which F1 at IoU .5 is best; nan if nothing was detected correctly."""
        best = max(self.f1, default=0.0)
        return self.scores[self.f1.index(best)] if best > 0 else math.nan


@dataclass(frozen=True)
class Evaluation:
    """COCO's twelve metrics (0..1, nan without such objects), and the metrics of each class.

    `objects` counts annotated objects without crowds.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    images: int
    objects: int
    detections: int
    classes: dict[str, ClassEvaluation]

    @property
    def thresholds(self) -> dict[str, float]:
        """By class name, the score at which F1 at IoU .5 is best; nan if nothing was detected correctly."""
        return {name: quality.threshold for name, quality in self.classes.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with None for nan."""
        return _without_nan(asdict(self))

    def _repr_html_(self) -> str:
        """What a notebook shows: the table."""
        return f"<pre>{escape(self.table())}</pre>"

    def table(self, width: int | None = None) -> str:
        """The evaluation as plain text: overall, by size, and a row per class, whose names are shortened to fit `width`
        columns.
        """
        rows = [
            ("", "AP", "AP50", "AP75", "AR1", "AR10", "AR100"),
            ("all sizes", *map(_cell, (self.ap, self.ap50, self.ap75, self.ar1, self.ar10, self.ar100))),
            ("", "small", "medium", "large", "", "", ""),
            ("AP", *map(_cell, (self.ap_small, self.ap_medium, self.ap_large)), "", "", ""),
            ("AR100", *map(_cell, (self.ar_small, self.ar_medium, self.ar_large)), "", "", ""),
            ("class", "AP", "AP50", "best F1", "at score", "objects", ""),
        ]
        for name, quality in self.classes.items():
            best = max(quality.f1, default=math.nan)
            numbers = (quality.ap, quality.ap50, best, quality.threshold)
            short = printable(name) if width is None else shorten(printable(name), max(9, width - 9 * 6))
            rows.append((short, *map(_cell, numbers), str(quality.objects), ""))
        longest = max(len(row[0]) for row in rows)
        lines = [(row[0].ljust(longest) + "".join(cell.rjust(9) for cell in row[1:])).rstrip() for row in rows]
        counts = {"image": self.images, "object": self.objects, "detection": self.detections}
        return "\n".join([", ".join(counted(number, noun) for noun, number in counts.items()), *lines])


class Columns(NamedTuple):
    """The rows of all images: image index (R,), label (R,), box xyxy (R, 4) and, of detections, score (R,)."""

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


def evaluate(detections: Sequence[Detections], targets: Sequence[Target], names: Sequence[str]) -> Evaluation:
    """Detections against annotations by COCO's protocol: crowds are ignored, difficult objects count like others.

    Both sequences are over the same images in the same order; labels are indices into `names`. Raises ValueError,
    naming the image, if a label is out of range, or a box or score is not finite.
    """
    import hotcoco

    rows, objects = columns(detections, targets, names)
    truth = hotcoco.COCO.from_arrays(
        images=[{"id": image} for image in range(len(targets))],
        categories=[{"id": label, "name": name} for label, name in enumerate(names)],
        image_ids=objects.images,
        category_ids=objects.labels,
        boxes=_xywh(objects.boxes),
        area=_concatenate([target.area for target in targets]),
        iscrowd=_concatenate([target.crowd for target in targets]).astype(bool),
    )
    return _evaluate(truth, np.column_stack([rows.images, _xywh(rows.boxes), rows.scores, rows.labels]))


@without_collector()
def evaluate_files(ground_truth_json: str | Path, detections_json: str | Path) -> Evaluation:
    """A COCO results file (image_id, category_id, bbox xywh, score) against a COCO annotation file.

    Ids are numbers of any size or text. Of the annotation file only "images", "categories" and "annotations" are read;
    as in pycocotools, an annotation of another image or category does not count. A second category of the same name is
    called `dog (2)`.

    Raises OSError or ValueError, naming the file and the entry, for anything that is not in COCO's format.
    """
    for path in (ground_truth_json, detections_json):
        os.stat(path)  # raises FileNotFoundError
    import hotcoco

    annotations = read_annotations(Path(ground_truth_json))
    results = read_results(Path(detections_json), annotations)
    columns = annotations.objects.T
    truth = hotcoco.COCO.from_arrays(
        images=[{"id": image} for image in annotations.images.values()],
        categories=[{"id": category, "name": name} for category, name in enumerate(annotations.names)],
        image_ids=columns[0].astype(np.int64),
        category_ids=columns[1].astype(np.int64),
        boxes=columns[2:6].T.copy(),
        area=columns[6].copy(),
        iscrowd=columns[7].astype(bool),
    )
    return _evaluate(truth, results)


def _evaluate(truth: Any, results: np.ndarray) -> Evaluation:
    """`truth` is a hotcoco.COCO; `results` (D, 7) float64: image id, x, y, width, height, score, category id."""
    import hotcoco

    evaluator = hotcoco.COCOeval(truth, truth.load_res(results), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    assert evaluator.eval is not None
    precision = evaluator.eval["precision"]  # (10 IoU thresholds, 101 recalls, K, 4 sizes, 3 detection limits)
    recall = evaluator.eval["recall"]  # (10, K, 4, 3)
    scores = evaluator.eval["scores"]  # like precision
    sizes = range(1, 4)  # small, medium, large; 0 is all
    numbers = [
        *(_mean(values[..., 0, -1]) for values in (precision, precision[0], precision[5])),
        *(_mean(precision[..., size, -1]) for size in sizes),
        *(_mean(recall[..., 0, limit]) for limit in range(3)),
        *(_mean(recall[..., size, -1]) for size in sizes),
    ]
    classes: dict[str, ClassEvaluation] = {}
    for k, category in enumerate(truth.load_cats(truth.get_cat_ids())):  # by id, as in the arrays
        if category["name"] in classes:
            raise ValueError(f'expected every class to have its own name, but two are called "{category["name"]}"')
        objects = len(truth.get_ann_ids(cat_ids=[category["id"]], iscrowd=False))
        classes[category["name"]] = ClassEvaluation(
            objects=objects,
            ap=_mean(precision[:, :, k, 0, -1]),
            ap50=_mean(precision[0, :, k, 0, -1]),
            precision=tuple(precision[0, :, k, 0, -1].tolist()) if objects else (),
            scores=tuple(scores[0, :, k, 0, -1].tolist()) if objects else (),
        )
    return Evaluation(
        **dict(zip(METRICS, numbers, strict=True)),
        images=len(truth.get_img_ids()),
        objects=sum(quality.objects for quality in classes.values()),
        detections=len(results),
        classes=classes,
    )


def _mean(values: np.ndarray) -> float:
    """The mean without COCO's -1, which marks "no object"; nan if nothing else is left."""
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else math.nan


def columns(
    detections: Sequence[Detections], targets: Sequence[Target], names: Sequence[str]
) -> tuple[Columns, Columns]:
    """The columns of the detections and of the targets of the same images, checked as in `evaluate`."""
    if len(detections) != len(targets):
        raise ValueError(f"expected detections for each of {len(targets)} images, got {len(detections)}")
    scores = _concatenate([of_image.scores for of_image in detections])
    checked = []
    for what, records, scored in (("detections", detections, scores), ("targets", targets, np.zeros(0))):
        images = np.repeat(np.arange(len(records)), [record.boxes.shape[0] for record in records])
        labels = _concatenate([record.labels for record in records]).astype(np.int64)
        boxes = _concatenate([record.boxes for record in records]).reshape(-1, 4)
        for wrong, fault in (
            ((labels < 0) | (labels >= len(names)), f"has a label outside 0..{len(names) - 1}"),
            (~np.isfinite(boxes.sum(axis=1)), "has a box that is not finite; did training diverge?"),
            (~np.isfinite(scored), "has a score that is not finite; did training diverge?"),
        ):
            if wrong.any():
                raise ValueError(f"{what}[{images[np.argmax(wrong)]}] {fault}")
        checked.append(Columns(images, labels, boxes, scored))
    return checked[0], checked[1]


def _concatenate(columns: Sequence[torch.Tensor]) -> np.ndarray:
    """One float64 column, which represents every float32 and int32 exactly."""
    if not columns:
        return np.zeros(0)
    if len({column.dtype for column in columns}) > 1 or len({column.get_device() for column in columns}) > 1:
        columns = [column.cpu().double() for column in columns]
    with torch.no_grad():
        return torch.cat(list(columns)).cpu().double().numpy()


def _xywh(boxes: np.ndarray) -> np.ndarray:
    boxes = boxes.copy()
    boxes[:, 2:] -= boxes[:, :2]
    return boxes  # (R, 4)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _cell(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
