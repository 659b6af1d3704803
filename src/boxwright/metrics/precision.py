"""Average precision by its definition: match, rank, trace the precision-recall curve, integrate it.

Sources: PASCAL VOC (Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010, section 4.2) and
COCO (https://cocodataset.org/#detection-eval). This file is for reading and for small datasets; `metrics.coco`
computes the same numbers, with all of COCO's rules (100 detections per image and class, object sizes), much faster.

    VOC 2007     average_precisions(…, protocol="voc", measure=ap_11_point)
    VOC 2010-12  average_precisions(…, protocol="voc", measure=ap_interpolated_area)
    COCO's AP50  average_precisions(…, protocol="coco", measure=ap_101_point)
    COCO's AP    mean_average_precision(…)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from boxwright.boxes.geometry import area, intersection, pairwise_iou
from boxwright.types import Detections, Target

IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""COCO's .50, .55 … .95."""

Protocol = Literal["coco", "voc"]


class Matches(NamedTuple):
    """Whether each detection of an image is a true positive, a false positive, or not counted.

    true_positive  (D,) bool
    counted        (D,) bool; False for a detection that is neither
    """

    true_positive: Tensor
    counted: Tensor


class Curve(NamedTuple):
    """Precision and recall of the best detection, the best two, the best three …

    recall     (D,) float64, non-decreasing
    precision  (D,) float64
    """

    recall: np.ndarray
    precision: np.ndarray


class OperatingPoint(NamedTuple):
    """The share of objects that are detected, and the share of detections that are correct."""

    recall: float
    precision: float


def match(detections: Detections, target: Target, iou_threshold: float = 0.5, protocol: Protocol = "coco") -> Matches:
    """Match the detections of one image to its objects of the same label, best score first, each object at most once.

    "coco": a detection matches the unmatched object with the highest IoU. Without one, a detection that lies in a
    crowd (intersection over the *detection's* area) is not counted.
    "voc": a detection is compared with the object of highest IoU only. If that object is already matched, the
    detection is a false positive; if it is difficult (or a crowd), the detection is not counted. The VOC devkit
    measures boxes in whole pixels, both ends included; here coordinates are continuous, so results can differ slightly.

    An IoU equal to the threshold suffices. The rows of the result are those of `detections`.
    """
    if protocol not in ("coco", "voc"):
        raise ValueError(f'expected the protocol "coco" or "voc", got {protocol!r}')
    true_positive = torch.zeros(len(detections), dtype=torch.bool)
    counted = torch.ones(len(detections), dtype=torch.bool)
    if len(target) == 0:
        return Matches(true_positive, counted)
    overlaps = pairwise_overlaps(detections, target, protocol)  # (D, G)
    ignored = _ignored(target, protocol)  # (G,)
    matched = torch.zeros_like(ignored)
    for row in torch.argsort(detections.scores.cpu(), descending=True, stable=True):
        overlap = overlaps[row]  # (G,)
        eligible = ~matched & ~ignored if protocol == "coco" else torch.ones_like(matched)
        best = torch.where(eligible, overlap, -1).argmax()
        if not eligible[best] or overlap[best] < iou_threshold:
            counted[row] = not (ignored & (overlap >= iou_threshold)).any()
        elif ignored[best]:
            counted[row] = False
        elif not matched[best]:
            true_positive[row] = matched[best] = True
    return Matches(true_positive, counted)


def pairwise_overlaps(detections: Detections, target: Target, protocol: Protocol = "coco") -> Tensor:
    """IoU of each detection and object, COCO's crowds excepted; -1 where the labels differ: (D, G) float64."""
    boxes, objects = detections.boxes.cpu().double(), target.boxes.cpu().double()
    overlaps = pairwise_iou(boxes, objects)
    if protocol == "coco":  # in a crowd, over the area of the detection
        inside = intersection(boxes[:, None], objects) / area(boxes)[:, None].clamp(min=torch.finfo(boxes.dtype).tiny)
        overlaps = torch.where(target.crowd.cpu(), inside, overlaps)
    same = detections.labels.cpu()[:, None] == target.labels.cpu()
    return torch.where(same, overlaps, -1)


def _ignored(target: Target, protocol: Protocol) -> Tensor:
    """The objects that do not count: (G,) bool."""
    return (target.crowd | target.difficult if protocol == "voc" else target.crowd).cpu()


def precision_recall(true_positive: Tensor | np.ndarray | Sequence[bool], n_objects: int) -> Curve:
    """The curve of detections ranked best first: `true_positive` (D,) bool, for `n_objects` >= 1."""
    if n_objects < 1:
        raise ValueError(f"recall needs at least one object, got n_objects = {n_objects}")
    hits = np.cumsum(np.asarray(true_positive, dtype=bool), dtype=np.int64)  # (D,)
    return Curve(recall=hits / n_objects, precision=hits / np.arange(1, len(hits) + 1))


def interpolate(curve: Curve) -> Curve:
    """The monotone envelope: the best precision at this or any higher recall."""
    return Curve(curve.recall, np.maximum.accumulate(curve.precision[::-1])[::-1])


def ap_area(curve: Curve) -> float:
    """The area under the curve as it is: each true positive adds its precision times its step in recall."""
    return float(np.sum(np.diff(curve.recall, prepend=0.0) * curve.precision))


def ap_interpolated_area(curve: Curve) -> float:
    """The area under the monotone envelope: VOC from 2010 on. Never less than `ap_area`."""
    return ap_area(interpolate(curve))


def ap_11_point(curve: Curve) -> float:
    """The mean of the interpolated precision at the recalls 0, .1 … 1: VOC until 2009."""
    return _mean_precision_at(np.arange(11) / 10, curve)


def ap_101_point(curve: Curve) -> float:
    """The mean of the interpolated precision at the recalls 0, .01 … 1: COCO."""
    # linspace, not arange / 100: they differ in the last bit, which changes comparisons with the recall.
    return _mean_precision_at(np.linspace(0.0, 1.0, 101), curve)


def _mean_precision_at(recalls: np.ndarray, curve: Curve) -> float:
    """With precision 0 at recalls that the detections do not reach."""
    precision = np.append(interpolate(curve).precision, 0.0)
    return float(np.mean(precision[np.searchsorted(curve.recall, recalls, side="left")]))


def average_precisions(
    detections: Sequence[Detections],
    targets: Sequence[Target],
    names: Sequence[str],
    iou_threshold: float = 0.5,
    protocol: Protocol = "coco",
    measure: Callable[[Curve], float] = ap_101_point,
) -> dict[str, float]:
    """AP by class name at one IoU threshold; nan for a class without an object."""
    curves = precision_recall_curves(detections, targets, names, iou_threshold, protocol)
    return {name: math.nan if curve is None else measure(curve) for name, curve in curves.items()}


def mean_average_precision(
    detections: Sequence[Detections],
    targets: Sequence[Target],
    names: Sequence[str],
    iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
    protocol: Protocol = "coco",
    measure: Callable[[Curve], float] = ap_101_point,
) -> float:
    """The mean of AP over the IoU thresholds and the classes that have an object; nan if none has."""
    values = [
        ap
        for iou_threshold in iou_thresholds
        for ap in average_precisions(detections, targets, names, iou_threshold, protocol, measure).values()
        if not math.isnan(ap)
    ]
    return float(np.mean(values)) if values else math.nan


def precision_recall_curves(
    detections: Sequence[Detections],
    targets: Sequence[Target],
    names: Sequence[str],
    iou_threshold: float = 0.5,
    protocol: Protocol = "coco",
) -> dict[str, Curve | None]:
    """The curve of each class over all images; None for a class without an object."""
    if len(detections) != len(targets):
        raise ValueError(f"expected detections for each of {len(targets)} images, got {len(detections)}")
    matches = [match(*pair, iou_threshold, protocol) for pair in zip(detections, targets, strict=True)]
    counted = _join([of_image.counted for of_image in matches], torch.bool)
    true_positive = _join([of_image.true_positive for of_image in matches], torch.bool)
    scores = _join([of_image.scores for of_image in detections], torch.float64)
    labels = _join([of_image.labels for of_image in detections], torch.int64)
    object_labels = _join([target.labels.cpu()[~_ignored(target, protocol)] for target in targets], torch.int64)
    ranked = torch.argsort(scores, descending=True, stable=True)
    curves: dict[str, Curve | None] = {}
    for label, name in enumerate(names):
        n_objects = int((object_labels == label).sum())
        rows = ranked[(counted & (labels == label))[ranked]]
        curves[name] = precision_recall(true_positive[rows], n_objects) if n_objects else None
    return curves


def recall_precision(
    detections: Sequence[Detections],
    targets: Sequence[Target],
    names: Sequence[str],
    thresholds: Mapping[str, float],
    iou_threshold: float = 0.5,
    protocol: Protocol = "coco",
) -> dict[str, OperatingPoint]:
    """By class name, recall and precision of the detections that reach the class's score threshold (nan: none do).

    The precision of no detections is nan; both are nan for a class without an object.
    """
    by_label = torch.tensor([thresholds[name] for name in names], dtype=torch.float64)
    kept = []
    for of_image in detections:
        confident = of_image.scores.cpu().double() >= by_label[of_image.labels.cpu()]
        kept.append(of_image[confident.to(of_image.scores.device)])
    points = {}
    for name, curve in precision_recall_curves(kept, targets, names, iou_threshold, protocol).items():
        recall = math.nan if curve is None else [0.0, *curve.recall][-1]
        precision = math.nan if curve is None else [math.nan, *curve.precision][-1]
        points[name] = OperatingPoint(float(recall), float(precision))
    return points


def _join(columns: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat([torch.zeros(0, dtype=dtype), *(column.cpu().to(dtype) for column in columns)])
