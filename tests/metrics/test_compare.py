"""The bootstrap by hand, and against COCO's evaluation of data in which the drawn images really lie twice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import hotcoco
import numpy as np
import pytest
import torch

from boxwright.metrics import bootstrap_ap, compare, evaluate, interval, paired_difference
from boxwright.metrics.compare import rank, resample, resampled_ap
from boxwright.metrics.precision import IOU_THRESHOLDS, match
from boxwright.types import Detections, Target
from boxwright.units import Interval

NAMES = ("often", "crowded", "rare", "never")
NOTHING = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
HERE, THERE = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]


class ApIntervals(NamedTuple):
    ap: Interval
    ap50: Interval


def ap_interval(
    runs: Sequence[Sequence[Detections]], targets: Sequence[Target], names: Sequence[str], **options: int
) -> ApIntervals:
    return ApIntervals(*map(interval, bootstrap_ap(runs, targets, names, **options)))


def detections(boxes: list[list[float]], scores: list[float], labels: list[int] | None = None) -> Detections:
    return Detections(torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels or [0] * len(boxes)))


def target(boxes: list[list[float]], labels: list[int] | None = None, **flags: list[bool]) -> Target:
    columns = {name: torch.tensor(values) for name, values in flags.items()}
    return Target(torch.tensor(boxes), torch.tensor(labels or [0] * len(boxes)), **columns)


def scene(seed: int, n_images: int = 12, tied: bool = False) -> tuple[list[Detections], list[Target]]:
    """Small images with crowds, doubles, boxes on a grid (so that IoUs are equal), and one class 130 times in one.

    Scores are shared by many images; within one they differ, unless `tied`.
    """
    rng = np.random.default_rng(seed)
    found, targets = [], []
    for number in range(n_images):
        n_objects = 0 if number == 3 else int(rng.integers(1, 7))
        corners = rng.integers(0, 12, (n_objects, 2)) * 4.0
        objects = np.concatenate([corners, corners + rng.choice([16.0, 20.0, 40.0], (n_objects, 2))], axis=1)
        labels = rng.choice([0, 0, 0, 1, 1, 2], n_objects)
        crowd = rng.uniform(size=n_objects) < np.where(labels == 1, 0.5, 0.05)
        targets.append(
            Target(torch.tensor(objects).float().reshape(-1, 4), torch.tensor(labels), crowd=torch.tensor(crowd))
        )
        near = np.repeat(np.arange(n_objects), rng.integers(0, 4, n_objects))
        n_chance = 130 if number == 5 else int(rng.integers(0, 8)) * (number != 4)
        corners = rng.integers(0, 12, (n_chance, 2)) * 4.0
        chance = np.concatenate([corners, corners + 20.0], axis=1)
        boxes = np.concatenate([objects[near] + rng.integers(-2, 3, (len(near), 4)), chance])
        chance_labels = np.zeros(n_chance, int) if number == 5 else rng.integers(0, 4, n_chance)
        scores = rng.integers(1, 6, len(boxes)) / 8 if tied else rng.permutation(200)[: len(boxes)] / 256
        found.append(
            Detections(
                torch.tensor(boxes).float().reshape(-1, 4),
                torch.tensor(scores).float(),
                torch.tensor(np.concatenate([labels[near], chance_labels])),
            )
        )
    return found, targets


class TestByHand:
    """Two images with an object each: it is found in the first; in the second nothing is but a surer mistake."""

    found = [detections([HERE], [0.9]), detections([THERE], [0.95])]
    targets = [target([HERE]), target([HERE])]

    @pytest.mark.parametrize(
        ("times", "ap"),
        [
            ((1, 1), 51 / 101 / 2),  # wrong, right: precision 1/2 up to the recall of 1/2
            ((2, 0), 1),
            ((0, 2), 0),
            ((2, 1), 67 / 101 * 2 / 3),  # wrong, right, right: 2/3 up to 2/3
            ((1, 2), 34 / 101 / 3),  # wrong, wrong, right: 1/3 up to 1/3
        ],
    )
    def test_ap_of_what_was_drawn(self, times: tuple[int, int], ap: float):
        ranked = rank(self.found, self.targets, ("a",))
        assert resampled_ap(ranked, np.array([times])).tolist() == [[pytest.approx(ap)], [pytest.approx(ap)]]

    def test_all_that_can_be_drawn(self):
        # (2, 0) and (0, 2) come a quarter of the times each: beyond 2.5 % at both ends.
        for bounds in ap_interval([self.found], self.targets, ("a",), replicates=200):
            assert bounds == (pytest.approx(51 / 202), 0, 1)

    def test_a_looser_box_counts_at_the_thresholds_that_it_reaches(self):
        found = [detections([[0.0, 0.0, 10.0, 7.2]], [0.9])]  # IoU .72: of .50, .55, .60, .65, .70
        assert ap_interval([found], self.targets[:1], ("a",), replicates=5) == (
            pytest.approx((0.5, 0.5, 0.5)),
            pytest.approx((1, 1, 1)),
        )

    def test_a_class_that_was_not_drawn_is_left_out(self):
        targets = [target([HERE], [0]), target([HERE], [1])]
        found = [detections([HERE], [0.9], [0]), NOTHING]
        times = np.array([[1, 1], [2, 0], [0, 2]])
        assert resampled_ap(rank(found, targets, ("a", "b")), times)[0].tolist() == pytest.approx([0.5, 1, 0])

    def test_where_nothing_can_be_found_it_is_not_known(self):
        targets = [target([HERE]), Target.empty()]
        assert resampled_ap(rank(self.found, targets, ("a",)), np.array([[0, 2], [2, 0]]))[0].tolist() == [
            pytest.approx(math.nan, nan_ok=True),
            1,
        ]
        assert ap_interval([self.found], targets, ("a",), replicates=100).ap.high == 1

    def test_seeds_are_drawn_too(self):
        good, bad = [detections([HERE], [0.9])] * 2, [NOTHING] * 2
        assert ap_interval([good, bad], self.targets, ("a",), replicates=200).ap == (0.5, 0, 1)


class TestAgainstCoco:
    @pytest.mark.parametrize("tied", [False, True])
    @pytest.mark.parametrize("seed", range(4))
    def test_the_value_is_cocos(self, seed: int, tied: bool):
        found, targets = scene(seed, tied=tied)
        expected = evaluate(found, targets, NAMES)
        ap, ap50 = ap_interval([found], targets, NAMES, replicates=2)
        assert ap.value == pytest.approx(expected.ap, abs=1e-12)
        assert ap50.value == pytest.approx(expected.ap50, abs=1e-12)

    @pytest.mark.parametrize("seed", range(4))
    def test_drawing_a_image_twice_is_having_it_twice(self, seed: int):
        found, targets = scene(seed)
        draws = resample(len(targets), 1, replicates=8, seed=seed).images
        drawn = resampled_ap(rank(found, targets, NAMES), draws)
        for times, ap, ap50 in zip(draws, *drawn, strict=True):
            there = np.repeat(np.arange(len(targets)), times)
            expected = evaluate([found[i] for i in there], [targets[i] for i in there], NAMES)
            assert (ap, ap50) == pytest.approx((expected.ap, expected.ap50), abs=1e-12)

    def test_the_mean_over_seeds(self):
        targets = scene(0)[1]
        found = [scene(0)[0], scene(1)[0]]
        expected = np.mean([evaluate(of_run, targets, NAMES).ap for of_run in found])
        assert ap_interval(found, targets, NAMES, replicates=2).ap.value == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize(("boxes", "right"), [("ab", 2), ("ba", 1)])
    def test_of_equal_overlaps_the_last(self, boxes: str, right: int):
        # A box in the middle covers two objects equally; a second box lies on the first of them.
        objects = {"a": HERE, "b": [4.0, 0.0, 14.0, 10.0]}
        found, targets = [detections([[2.0, 0.0, 12.0, 10.0], HERE], [0.9, 0.8])], [target([objects[b] for b in boxes])]
        assert rank(found, targets, ("a",))[0].true_positive[0].sum() == right
        ap50 = ap_interval([found], targets, ("a",), replicates=2).ap50.value
        assert ap50 == pytest.approx(evaluate(found, targets, ("a",)).ap50, abs=1e-12)

    def test_in_parts_it_is_the_same(self, monkeypatch):
        found, targets = scene(0)
        whole = ap_interval([found], targets, NAMES, replicates=50)
        monkeypatch.setattr(compare, "WORKING_SET", 100)
        assert ap_interval([found], targets, NAMES, replicates=50) == whole

    def test_matches_are_those_of_precision(self):
        rng = np.random.default_rng(0)  # boxes off any grid: which of two equal overlaps comes first is not defined
        for found, truth in zip(*scene(1), strict=True):
            found = found.replace(boxes=found.boxes + torch.from_numpy(rng.normal(0, 0.1, (len(found), 4))).float())
            found = found[: compare.MAX_DETECTIONS]
            true_positive, counted = compare._match(found, truth)
            for row, threshold in enumerate(IOU_THRESHOLDS):
                expected = match(found, truth, threshold)
                assert true_positive[row].tolist() == expected.true_positive.tolist()
                assert counted[row].tolist() == expected.counted.tolist()


class TestInterval:
    def test_it_narrows_with_the_root_of_the_images(self):
        def width(n_images: int) -> float:
            rng = np.random.default_rng(n_images)
            boxes = [HERE, THERE]
            found = [
                detections(boxes, rng.uniform(size=2).tolist()) if rng.uniform() < 0.7 else NOTHING
                for _ in range(n_images)
            ]
            _, low, high = ap_interval([found], [target(boxes)] * n_images, ("a",), replicates=400).ap
            return high - low

        assert width(50) / width(800) == pytest.approx(4, rel=0.3)

    @pytest.mark.parametrize(("value", "expected"), [(0.5, (0.5, 0.025, 0.975)), (0.01, (0.01, 0.01, 0.975))])
    def test_percentiles(self, value: float, expected: tuple[float, float, float]):
        resampled = np.append(np.linspace(0, 1, 1001), math.nan)
        assert interval(np.append(value, resampled)) == pytest.approx(expected)

    def test_it_is_found_again(self):
        found, targets = scene(0)
        first = ap_interval([found, found], targets, NAMES, replicates=30, seed=5)
        assert ap_interval([found, found], targets, NAMES, replicates=30, seed=5) == first
        assert ap_interval([found, found], targets, NAMES, replicates=30, seed=6) != first

    def test_what_is_perfect_cannot_be_otherwise(self):
        found = [detections([HERE, THERE], [0.9, 0.8])] * 5
        assert ap_interval([found], [target([HERE, THERE])] * 5, ("a",), replicates=20).ap == (1, 1, 1)

    def test_nothing_found(self):
        assert ap_interval([[NOTHING] * 3], [target([HERE])] * 3, ("a",), replicates=20).ap == (0, 0, 0)

    @pytest.mark.parametrize("targets", [[Target.empty()], [target([HERE], crowd=[True])]])
    def test_nothing_to_find(self, targets: list[Target]):
        for bounds in ap_interval([[detections([HERE], [0.9])]], targets, ("a",), replicates=20):
            assert all(math.isnan(number) for number in bounds)

    @pytest.mark.parametrize(
        ("one", "other", "overlap"),
        [
            ((0.5, 0.4, 0.6), (0.55, 0.5, 0.7), True),
            ((0.5, 0.4, 0.6), (0.65, 0.6, 0.7), True),
            ((0.5, 0.4, 0.6), (0.7, 0.61, 0.8), False),
            ((0.5, 0.4, 0.6), (0.5, 0.48, 0.52), True),
            ((0.5, 0.4, 0.6), (math.nan,) * 3, False),
        ],
    )
    def test_overlap(self, one: tuple[float, ...], other: tuple[float, ...], overlap: bool):
        assert Interval(*one).overlaps(Interval(*other)) is overlap
        assert Interval(*other).overlaps(Interval(*one)) is overlap

    @pytest.mark.parametrize(
        ("low", "high", "contains"), [(-1, 1, True), (0, 1, True), (-1, 0, True), (0.1, 1, False), (math.nan, 1, False)]
    )
    def test_contains(self, low: float, high: float, contains: bool):
        assert Interval(0.5, low, high).contains(0) is contains


def world(seed: int, n_images: int = 72) -> tuple[list[Target], list[Detections], list[Detections]]:
    """Test images of which some are harder than others, and two detectors: the first misses less and is more exact."""
    rng = np.random.default_rng(seed)
    targets = []
    for _ in range(n_images):
        count = int(rng.integers(2, 12))
        corners, sizes = rng.uniform(0, 300, (count, 2)), rng.uniform(20, 90, (count, 2))
        boxes = torch.tensor(np.hstack([corners, corners + sizes])).float()
        targets.append(Target(boxes, torch.tensor(rng.integers(0, 3, count))))
    difficulty = rng.uniform(0.3, 1, n_images)

    def detect(noise: float, missed: float) -> list[Detections]:
        found = []
        for objects, hard in zip(targets, 2 * difficulty, strict=True):
            boxes, count = objects.boxes.numpy(), len(objects)
            kept = rng.random(count) > missed * hard
            boxes = boxes + rng.normal(0, noise * hard, (count, 4)) * np.tile(boxes[:, 2:] - boxes[:, :2], 2)
            scores = np.clip(rng.normal(0.7, 0.15, count), 0.05, 1)
            n_wrong = int(rng.integers(0, 4))
            corners = rng.uniform(0, 300, (n_wrong, 2))
            boxes = np.vstack([boxes[kept], np.hstack([corners, corners + 50])])
            scores = np.append(scores[kept], rng.uniform(0.05, 0.6, n_wrong))
            labels = np.append(objects.labels.numpy()[kept], rng.integers(0, 3, n_wrong))
            found.append(Detections(torch.tensor(boxes).float(), torch.tensor(scores).float(), torch.tensor(labels)))
        return found

    return targets, detect(0.045, 0.1), detect(0.05, 0.12)


class TestPairedDifference:
    targets = [target([HERE])] * 2
    both, first, second = [detections([HERE], [0.9])] * 2, [detections([HERE], [0.9]), NOTHING], [NOTHING] * 2

    def bootstrap(self, *runs: list[Detections]) -> np.ndarray:
        return bootstrap_ap(runs, self.targets, ("a",), replicates=200)

    def test_by_hand(self):
        # Of two draws of two images, `first` finds both, one or none: AP 1, 51 / 101 or 0.
        difference = paired_difference(self.bootstrap(self.both), self.bootstrap(self.first))
        assert difference == pytest.approx((50 / 101, 0, 1))

    def test_a_detector_does_not_differ_from_itself(self):
        aps = self.bootstrap(self.first, self.both)
        assert paired_difference(aps, aps) == (0, 0, 0)

    def test_the_other_way_round_it_is_the_negative(self):
        one, other = self.bootstrap(self.both, self.second), self.bootstrap(self.first)
        value, low, high = paired_difference(one, other)
        assert paired_difference(other, one) == pytest.approx((-value, -high, -low))

    def test_seeds_are_drawn_alike(self):
        # Each seed finds everything or nothing, and the other detector's seed does too.
        one, other = self.bootstrap(self.both, self.second), self.bootstrap(self.both, self.second)
        assert paired_difference(one, other) == (0, 0, 0)
        assert paired_difference(one, self.bootstrap(self.second, self.both)) == (0, -1, 1)

    def test_shared_images_tell_apart_what_single_intervals_cannot(self):
        """60 worlds of 72 images with a true difference of .048 AP."""
        overlapping, tied, values = 0, 0, []
        for seed in range(60):
            targets, *detectors = world(seed)
            better, worse = (bootstrap_ap([found], targets, ("a", "b", "c"), replicates=100) for found in detectors)
            difference = paired_difference(better, worse)
            overlapping += interval(better[0]).overlaps(interval(worse[0]))
            tied += difference.contains(0)
            values.append(difference.value)
        assert np.mean(values) == pytest.approx(0.048, abs=0.005)
        assert overlapping >= 55  # the rule of overlapping intervals calls nearly everything a tie
        assert tied <= 10

    def test_hotcoco_compare_has_the_same_value_and_a_narrower_interval(self):
        """The reason why it is not used. Of 100 images one detector finds 100 objects, the other 50: the difference has
        the standard error of a proportion, .05."""
        targets = [target([HERE])] * 100
        hit = detections([HERE], [0.9])
        runs = [[hit] * 100, [hit, NOTHING] * 50]
        aps = [bootstrap_ap([found], targets, ("a",), replicates=2000) for found in runs]
        truth = hotcoco.COCO.from_arrays(
            images=[{"id": index} for index in range(100)], categories=[{"id": 0, "name": "a"}],
            image_ids=np.arange(100.0), category_ids=np.zeros(100), boxes=np.tile([0.0, 0, 10, 10], (100, 1)),
            area=np.full(100, 100.0), iscrowd=np.zeros(100, bool),
        )  # fmt: skip
        evaluators = []
        for found in runs:
            images = [index for index, of_image in enumerate(found) if len(of_image)]
            results = truth.load_res(np.array([[index, 0, 0, 10, 10, 0.9, 0] for index in images]))
            evaluators.append(hotcoco.COCOeval(truth, results, "bbox"))
            evaluators[-1].evaluate()
        compared = hotcoco.compare(evaluators[1], evaluators[0], n_bootstrap=2000)
        assert paired_difference(*aps).value == pytest.approx(compared["deltas"]["AP"], abs=1e-12)
        assert np.std(aps[0][0, 1:] - aps[1][0, 1:]) == pytest.approx(0.05, abs=0.003)
        assert compared["ci"]["AP"]["std_err"] < 0.04


class TestDraws:
    def test_as_many_as_there_are(self):
        draws = resample(7, 3, replicates=40)
        assert draws.images.shape == (40, 7) and draws.seeds.shape == (40, 3)
        assert (draws.images.sum(axis=1) == 7).all() and (draws.seeds.sum(axis=1) == 3).all()
        assert (draws.images.mean(axis=0) < 2).all() and draws.images.max() > 1

    def test_detectors_with_more_seeds_see_the_same_images(self):
        assert (resample(7, 3, 40).images == resample(7, 1, 40).images).all()

    @pytest.mark.parametrize("counts", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
    def test_none_of_something(self, counts: tuple[int, int, int]):
        with pytest.raises(ValueError, match="at least one (image|seed|replicate), got 0"):
            resample(*counts)


class TestBadInput:
    targets = [target([HERE])]

    @pytest.mark.parametrize(
        ("found", "targets", "message"),
        [
            ([], targets, "expected detections for each of 1 images, got 0"),
            ([detections([HERE], [0.5], [1])], targets, r"detections\[0\] has a label outside 0..0"),
            ([NOTHING], [target([HERE], [-1])], r"targets\[0\] has a label outside 0..0"),
            ([detections([HERE], [math.nan])], targets, r"detections\[0\] has a score that is not finite"),
            ([detections([[0.0, 0.0, math.inf, 1.0]], [0.5])], targets, "did training diverge"),
        ],
    )
    def test_is_refused(self, found: list[Detections], targets: list[Target], message: str):
        with pytest.raises(ValueError, match=message):
            ap_interval([found], targets, ("a",))
