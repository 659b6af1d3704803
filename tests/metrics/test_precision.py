"""Average precision by hand, against pycocotools, and against an independent implementation of VOC's protocol."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from boxwright.metrics.precision import (
    ap_11_point,
    ap_101_point,
    ap_area,
    ap_interpolated_area,
    average_precisions,
    interpolate,
    match,
    mean_average_precision,
    precision_recall,
    precision_recall_curves,
    recall_precision,
)
from boxwright.types import Detections, Target

RANKED = [True, True, False, False, True]
NAMES = ("a", "b", "c", "d")


def detections(boxes: list[list[float]], scores: list[float], labels: list[int] | None = None) -> Detections:
    return Detections(torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels or [0] * len(boxes)))


def target(boxes: list[list[float]], **flags: list[bool]) -> Target:
    columns = {name: torch.tensor(values) for name, values in flags.items()}
    return Target(torch.tensor(boxes), torch.zeros(len(boxes), dtype=torch.int64), **columns)


NOTHING = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))


class TestCurve:
    def test_by_hand(self):
        curve = precision_recall(RANKED, 3)
        assert curve.recall.tolist() == [1 / 3, 2 / 3, 2 / 3, 2 / 3, 1]
        assert curve.precision.tolist() == [1, 1, 2 / 3, 1 / 2, 3 / 5]

    def test_area_of_two_true_two_false_one_true(self):
        assert ap_area(precision_recall(RANKED, 3)) == pytest.approx(13 / 15, abs=1e-15)

    def test_area_when_objects_are_missed(self):
        assert ap_area(precision_recall(RANKED, 6)) == pytest.approx(13 / 30, abs=1e-15)

    def test_interpolation_removes_a_dip(self):
        curve = precision_recall([False, True, True], 2)  # precision 0, 1/2, 2/3
        assert interpolate(curve).precision.tolist() == [2 / 3, 2 / 3, 2 / 3]
        assert ap_area(curve) == pytest.approx(7 / 12)
        assert ap_interpolated_area(curve) == pytest.approx(2 / 3)

    def test_11_points(self):
        # Recall 0, .1 … .6 is reached at precision 1, and .7 … 1 at 3/5.
        assert ap_11_point(precision_recall(RANKED, 3)) == pytest.approx((7 * 1 + 4 * 0.6) / 11, abs=1e-15)

    def test_11_points_reach_a_recall_that_is_met_exactly(self):
        assert ap_11_point(precision_recall([True] * 3, 10)) == pytest.approx(4 / 11)

    def test_101_points(self):
        # 67 recalls up to .66 at precision 1, 34 from .67 on at 3/5.
        assert ap_101_point(precision_recall(RANKED, 3)) == pytest.approx((67 * 1 + 34 * 0.6) / 101, abs=1e-15)

    @pytest.mark.parametrize("measure", [ap_area, ap_interpolated_area, ap_11_point, ap_101_point])
    def test_perfect_and_worst(self, measure):
        assert measure(precision_recall([True] * 7, 7)) == pytest.approx(1, abs=1e-15)
        assert measure(precision_recall([False] * 7, 7)) == 0
        assert measure(precision_recall([], 7)) == 0

    def test_no_object_has_no_recall(self):
        with pytest.raises(ValueError, match="at least one object"):
            precision_recall(RANKED, 0)


class TestMatch:
    OBJECT = [0.0, 0.0, 10.0, 10.0]

    def test_each_object_once_and_best_score_first(self):
        matches = match(detections([self.OBJECT, self.OBJECT], [0.5, 0.9]), target([self.OBJECT]))
        assert matches.true_positive.tolist() == [False, True]
        assert matches.counted.tolist() == [True, True]

    def test_equal_scores_keep_their_order(self):
        assert match(detections([self.OBJECT] * 3, [0.5] * 3), target([self.OBJECT])).true_positive.tolist() == [
            True,
            False,
            False,
        ]

    def test_the_threshold_suffices(self):
        half = detections([[0.0, 0.0, 10.0, 5.0]], [0.9])
        assert match(half, target([self.OBJECT]), 0.5).true_positive.all()
        assert not match(half, target([self.OBJECT]), 0.51).true_positive.any()

    def test_another_label_is_no_match(self):
        assert not match(detections([self.OBJECT], [0.9], [1]), target([self.OBJECT])).true_positive.any()

    def test_a_matched_object_leaves_coco_the_second_best_and_voc_a_false_positive(self):
        objects = target([[0.0, 0.0, 10.0, 10.0], [0.0, 2.0, 10.0, 12.0]])
        found = detections([[0.0, 0.0, 10.0, 10.0], [0.0, 0.5, 10.0, 10.5]], [0.9, 0.8])
        assert match(found, objects, 0.5, "coco").true_positive.tolist() == [True, True]
        assert match(found, objects, 0.5, "voc").true_positive.tolist() == [True, False]

    def test_difficult_objects_count_for_coco_and_not_for_voc(self):
        objects, found = target([self.OBJECT], difficult=[True]), detections([self.OBJECT] * 2, [0.9, 0.8])
        assert match(found, objects, 0.5, "coco").true_positive.tolist() == [True, False]
        voc = match(found, objects, 0.5, "voc")
        assert not voc.true_positive.any() and not voc.counted.any()

    def test_detections_in_a_crowd_are_not_counted(self):
        crowd = target([[0.0, 0.0, 100.0, 100.0]], crowd=[True])
        found = detections([self.OBJECT, [95.0, 0.0, 115.0, 10.0]], [0.9, 0.8])  # inside; a quarter inside
        matches = match(found, crowd)
        assert matches.counted.tolist() == [False, True] and not matches.true_positive.any()

    def test_an_object_takes_precedence_over_the_crowd_around_it(self):
        objects = target([[0.0, 0.0, 100.0, 100.0], [0.0, 0.0, 10.0, 8.0]], crowd=[True, False])
        matches = match(detections([self.OBJECT], [0.9]), objects)
        assert matches.true_positive.all() and matches.counted.all()

    def test_empty_on_either_side(self):
        assert match(detections([self.OBJECT], [0.9]), Target.empty()).true_positive.tolist() == [False]
        assert len(match(NOTHING, target([self.OBJECT])).true_positive) == 0

    def test_an_unknown_protocol(self):
        with pytest.raises(ValueError, match="'imagenet'"):
            match(NOTHING, target([self.OBJECT]), 0.5, "imagenet")  # type: ignore[arg-type]


def random_scene(seed: int, images: int = 25) -> tuple[list[Detections], list[Target]]:
    """Objects, some missed and some detected twice, displaced, among random boxes. No crowds."""
    rng = np.random.default_rng(seed)
    found, targets = [], []
    for _ in range(images):
        corners = rng.uniform(0, 300, (rng.integers(0, 8), 2))
        objects = np.concatenate([corners, corners + rng.uniform(30, 150, corners.shape)], axis=1)
        labels = rng.integers(0, 3, len(objects))  # never the fourth class
        copies = rng.integers(0, 3, len(objects))
        corners = rng.uniform(0, 300, (rng.integers(0, 8), 2))
        chance = np.concatenate([corners, corners + rng.uniform(30, 150, corners.shape)], axis=1)
        near = np.repeat(objects, copies, axis=0) + rng.normal(0, 6, (copies.sum(), 4))
        boxes = np.concatenate([near, chance])
        found.append(
            Detections(
                torch.from_numpy(boxes).float(),
                torch.from_numpy(rng.uniform(0, 1, len(boxes))),
                torch.from_numpy(np.concatenate([np.repeat(labels, copies), rng.integers(0, 4, len(chance))])),
            )
        )
        difficult = torch.from_numpy(rng.uniform(size=len(objects)) < 0.3)
        targets.append(Target(torch.from_numpy(objects).float(), torch.from_numpy(labels), difficult=difficult))
    return found, targets


def pycocotools_precision(found: list[Detections], targets: list[Target]) -> np.ndarray:
    """(10 IoU thresholds, 101 recalls, K) for objects of any size."""
    dataset: Any = {
        "images": [{"id": image} for image in range(len(targets))],
        "categories": [{"id": label, "name": name} for label, name in enumerate(NAMES)],
        "annotations": [
            {"image_id": image, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": 1.0, "iscrowd": 0}
            for image, target in enumerate(targets)
            for (x1, y1, x2, y2), label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True)
        ],
    }
    for number, annotation in enumerate(dataset["annotations"], start=1):
        annotation["id"] = number
    truth = COCO()
    truth.dataset = dataset
    truth.createIndex()
    results: Any = [
        {"image_id": image, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for image, d in enumerate(found)
        for (x1, y1, x2, y2), score, label in zip(d.boxes.tolist(), d.scores.tolist(), d.labels.tolist(), strict=True)
    ]
    evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator.eval["precision"][:, :, :, 0, -1]


@pytest.mark.parametrize("seed", range(3))
def test_101_points_are_pycocotools(seed):
    found, targets = random_scene(seed)
    expected = pycocotools_precision(found, targets)
    ap50 = average_precisions(found, targets, NAMES, 0.5)
    for k, name in enumerate(NAMES[:3]):
        assert ap50[name] == pytest.approx(expected[0, :, k].mean(), abs=1e-9)
    assert math.isnan(ap50["d"])
    assert mean_average_precision(found, targets, NAMES) == pytest.approx(expected[expected > -1].mean(), abs=1e-9)


def reference_voc(found: list[Detections], targets: list[Target], label: int) -> float:
    """VOC's protocol with plain lists and loops, and the area summed from the highest recall down."""
    rows = [
        (float(detections.scores[d]), image, detections.boxes[d].tolist())
        for image, detections in enumerate(found)
        for d in range(len(detections))
        if detections.labels[d] == label
    ]
    rows.sort(key=lambda row: -row[0])
    objects = {
        image: [
            {"box": target.boxes[g].tolist(), "difficult": bool(target.difficult[g]), "used": False}
            for g in range(len(target))
            if target.labels[g] == label
        ]
        for image, target in enumerate(targets)
    }
    n_objects = sum(not entry["difficult"] for entries in objects.values() for entry in entries)
    right = wrong = 0
    points = []
    for _, image, box in rows:
        best, best_overlap = None, 0.5
        for entry in objects[image]:
            width = min(box[2], entry["box"][2]) - max(box[0], entry["box"][0])
            height = min(box[3], entry["box"][3]) - max(box[1], entry["box"][1])
            shared = max(width, 0) * max(height, 0)
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, entry["box"])]
            overlap = shared / (sum(areas) - shared)
            if overlap >= best_overlap:
                best, best_overlap = entry, overlap
        if best is not None and best["difficult"]:
            continue
        if best is not None and not best["used"]:
            best["used"] = True
            right += 1
        else:
            wrong += 1
        points.append((right / n_objects, right / (right + wrong)))
    ap, ceiling = 0.0, 0.0
    for (recall, precision), (before, _) in reversed(list(zip(points, [(0.0, 0.0), *points], strict=False))):
        ceiling = max(ceiling, precision)
        ap += ceiling * (recall - before)
    return ap


@pytest.mark.parametrize("seed", range(3))
def test_voc_equals_an_independent_implementation(seed):
    found, targets = random_scene(seed)
    ap = average_precisions(found, targets, NAMES, 0.5, protocol="voc", measure=ap_interpolated_area)
    for label, name in enumerate(NAMES[:3]):
        assert ap[name] == pytest.approx(reference_voc(found, targets, label), abs=1e-12)
        assert 0 < ap[name] < 1


def test_curves_are_over_all_images_and_omit_classes_without_an_object():
    box = [0.0, 0.0, 10.0, 10.0]
    far = [50.0, 50.0, 60.0, 60.0]
    found = [detections([box, far], [0.9, 0.3]), detections([far, box], [0.7, 0.6])]
    curves = precision_recall_curves(found, [target([box]), target([box])], ("a", "b"))
    assert curves["b"] is None
    assert curves["a"] is not None
    assert curves["a"].recall.tolist() == [0.5, 0.5, 1, 1]
    assert curves["a"].precision.tolist() == [1, 0.5, 2 / 3, 0.5]


def test_no_objects_and_no_detections():
    assert math.isnan(mean_average_precision([NOTHING], [Target.empty()], NAMES))
    assert mean_average_precision([NOTHING], [target([[0.0, 0.0, 10.0, 10.0]])], NAMES) == 0
    assert math.isnan(mean_average_precision([], [], NAMES))


def test_as_many_detections_as_images():
    with pytest.raises(ValueError, match="each of 2 images, got 1"):
        mean_average_precision([NOTHING], [Target.empty()] * 2, NAMES)


class TestRecallPrecision:
    """Three objects; in the order of their scores: right, right, wrong, right and a second box for the same object."""

    first, second, third = [0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [0.0, 20.0, 10.0, 30.0]
    found = [
        detections([first, second, [40.0, 0.0, 50.0, 10.0]], [0.9, 0.5, 0.4]),
        detections([third, third], [0.3, 0.2]),
    ]
    targets = [target([first, second]), target([third])]

    @pytest.mark.parametrize(
        ("threshold", "expected"),
        [
            (0.91, (0, math.nan)),
            (0.9, (1 / 3, 1)),
            (0.5, (2 / 3, 1)),
            (0.4, (2 / 3, 2 / 3)),
            (0.3, (1, 3 / 4)),
            (0, (1, 3 / 5)),
            (math.nan, (0, math.nan)),
        ],
    )
    def test_by_hand(self, threshold: float, expected: tuple[float, float]):
        # A detection at exactly the threshold counts; thresholds are float32, like the scores they are chosen from.
        threshold = float(torch.tensor(threshold))
        found = recall_precision(self.found, self.targets, ("a",), {"a": threshold})
        assert found["a"] == pytest.approx(expected, nan_ok=True)

    def test_each_class_has_its_threshold(self):
        found = [detections([self.first, self.second], [0.6, 0.6], [0, 1])]
        targets = [Target(torch.tensor([self.first, self.second]), torch.tensor([0, 1]))]
        points = recall_precision(found, targets, ("a", "b"), {"a": 0.5, "b": 0.7})
        assert (points["a"].recall, points["b"].recall) == (1, 0)

    def test_a_class_without_objects(self):
        points = recall_precision(self.found, self.targets, ("a", "b"), {"a": 0, "b": 0})
        assert points["b"] == pytest.approx((math.nan, math.nan), nan_ok=True)

    def test_a_detection_in_a_crowd_is_no_false_positive(self):
        targets = [target([self.first, [40.0, 0.0, 60.0, 20.0]], crowd=[False, True]), self.targets[1]]
        assert recall_precision(self.found, targets, ("a",), {"a": 0.25})["a"] == pytest.approx((1, 2 / 3))

    def test_a_looser_box_at_a_lower_iou(self):
        found = [detections([[0.0, 0.0, 10.0, 4.0]], [0.9])]
        points = recall_precision(found, [target([self.first])], ("a",), {"a": 0.5}, iou_threshold=0.4)
        assert points["a"] == (1, 1)
