"""How far a number would move with other test images and other seeds: the bootstrap (Efron 1979)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from boxwright.metrics.coco import RECALLS
from boxwright.metrics.precision import IOU_THRESHOLDS, pairwise_overlaps
from boxwright.types import Detections, Target

MAX_DETECTIONS = 100
"""Of an image and class, as COCO counts them."""

WORKING_SET = 8_000_000
"""Numbers that one array of the computation holds at most: 64 MB."""


class Interval(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """Whether the two cannot be told apart by their intervals; unknown ones (nan) overlap nothing."""
        return self.low <= other.high and other.low <= self.high


class ApIntervals(NamedTuple):
    """COCO's AP and AP50, each with its interval."""

    ap: Interval
    ap50: Interval


class Draws(NamedTuple):
    """How often each replicate draws each image and each seed.

    images  (R, N) int64, rows that sum to N
    seeds     (R, S) int64, rows that sum to S
    """

    images: np.ndarray
    seeds: np.ndarray


class Ranked(NamedTuple):
    """The detections of one class over N images, best first, and what became of each at COCO's IoU thresholds (T).

    images       (D,) int64, where each is
    true_positive  (T, D) bool
    counted        (T, D) bool; False for a detection in a crowd, which is neither right nor wrong
    objects        (N,) int64, to be found in each image
    """

    images: np.ndarray
    true_positive: np.ndarray
    counted: np.ndarray
    objects: np.ndarray


def ap_interval(
    found: Sequence[Sequence[Detections]],
    targets: Sequence[Target],
    names: Sequence[str],
    replicates: int = 1000,
    seed: int = 0,
) -> ApIntervals:
    """AP as the mean over trainings with different seeds, and where it might be for other images and other seeds.

    `found` has for each seed the detections of every image. Each replicate draws the images and the seeds with
    replacement and evaluates what it drew; the interval reaches from the 2.5th to the 97.5th percentile (B. Efron,
    "Bootstrap Methods: Another Look at the Jackknife", The Annals of Statistics 7, 1979). Detectors that are asked with
    the same `seed` see the same draws of the same images. nan where there is no object.

    The interval is for another test set of the same size. It presumes images that were taken independently: frames of
    one video tell less than their number. AP over few objects of a class is a little too high, for COCO reads the best
    precision from each recall on; more so in a replicate, so that the interval may reach further up than down. And two
    or three seeds show too little of how much seeds differ.
    """
    draws = resample(len(targets), len(found), replicates, seed)
    everything = np.ones((1, len(targets)), dtype=np.int64)
    images = np.concatenate([everything, draws.images])  # (1 + R, N)
    aps = np.stack([resampled_ap(rank(one, targets, names), images) for one in found])  # (S, 2, 1 + R)
    values = aps[:, :, 0].mean(axis=0)  # (2,)
    resampled = np.einsum("rs,snr->nr", draws.seeds / len(found), aps[:, :, 1:])  # (2, R)
    return ApIntervals(*(_interval(*one) for one in zip(values, resampled, strict=True)))


def resample(n_images: int, n_seeds: int, replicates: int = 1000, seed: int = 0) -> Draws:
    """Draws with replacement; those of the images do not depend on how many seeds there are."""
    for count, what in ((n_images, "image"), (n_seeds, "seed"), (replicates, "replicate")):
        if count < 1:
            raise ValueError(f"a bootstrap needs at least one {what}, got {count}")
    for_images, for_seeds = (np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(2))
    return Draws(
        for_images.multinomial(n_images, np.full(n_images, 1 / n_images), size=replicates),
        for_seeds.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=replicates),
    )


def rank(detections: Sequence[Detections], targets: Sequence[Target], names: Sequence[str]) -> list[Ranked]:
    """What COCO's evaluation knows of each class before it looks at precision and recall."""
    _look_over(detections, targets, names)
    kept = [_best_of_each_class(one) for one in detections]
    matches = [_match(*pair) for pair in zip(kept, targets, strict=True)]
    true_positive, counted = (np.concatenate(part, axis=1) for part in zip(*matches, strict=True))  # (T, D)
    images = np.repeat(np.arange(len(kept)), [len(one) for one in kept])
    labels = np.concatenate([one.labels.cpu().numpy() for one in kept])
    scores = np.concatenate([one.scores.detach().cpu().numpy() for one in kept])
    wanted = [target.labels.cpu().numpy()[~target.crowd.cpu().numpy()] for target in targets]
    objects = np.stack([np.bincount(one, minlength=len(names)) for one in wanted])  # (N, K)
    ranked = []
    for label in range(len(names)):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        ranked.append(Ranked(images[rows], true_positive[:, rows], counted[:, rows], objects[:, label]))
    return ranked


def _look_over(detections: Sequence[Detections], targets: Sequence[Target], names: Sequence[str]) -> None:
    if len(detections) != len(targets):
        raise ValueError(f"expected detections for each of {len(targets)} images, got {len(detections)}")
    for what, records in (("detections", detections), ("targets", targets)):
        for number, one in enumerate(records):
            if ((one.labels < 0) | (one.labels >= len(names))).any():
                raise ValueError(f"{what}[{number}] has a label outside 0..{len(names) - 1}")
    for number, one in enumerate(detections):
        if not (one.boxes.isfinite().all() and one.scores.isfinite().all()):
            raise ValueError(f"detections[{number}] has a box or score that is not finite; did training diverge?")


def _best_of_each_class(found: Detections) -> Detections:
    """At most 100 detections of each class; those of a class best first, tied ones in their order."""
    labels, scores = found.labels.cpu().numpy(), found.scores.detach().cpu().numpy()
    order = np.lexsort((-scores, labels))
    labels = labels[order]
    place = np.arange(len(labels)) - np.searchsorted(labels, labels)
    return found[torch.from_numpy(order[place < MAX_DETECTIONS])]


def _match(found: Detections, target: Target) -> tuple[np.ndarray, np.ndarray]:
    """`precision.match` at all thresholds at once: which are true positives, and which count, both (T, D) bool."""
    thresholds = np.array(IOU_THRESHOLDS)[:, None]  # (T, 1)
    true_positive = np.zeros((len(thresholds), len(found)), dtype=bool)
    counted = np.ones_like(true_positive)
    overlaps = pairwise_overlaps(found, target).numpy()  # (D, G)
    crowd = target.crowd.cpu().numpy()  # (G,)
    free = np.tile(~crowd, (len(thresholds), 1))  # (T, G)
    scores = found.scores.detach().cpu().numpy()
    near = np.flatnonzero((overlaps >= IOU_THRESHOLDS[0]).any(axis=1))
    for row in near[np.argsort(-scores[near], kind="stable")]:
        reached = overlaps[row] >= thresholds  # (T, G)
        # Of objects that overlap it equally, COCO takes the last.
        best = len(target) - 1 - np.where(reached & free, overlaps[row], -1)[:, ::-1].argmax(axis=1)  # (T,)
        hit = np.flatnonzero((reached & free)[np.arange(len(thresholds)), best])
        free[hit, best[hit]] = False
        counted[:, row] = ~(reached & crowd).any(axis=1)
        true_positive[hit, row] = counted[hit, row] = True
    return true_positive, counted


def resampled_ap(ranked: Sequence[Ranked], images: np.ndarray) -> np.ndarray:
    """AP and AP50 of each replicate, which takes each image so often: (R, N) -> (2, R); nan without an object.

    An image that is drawn twice has its detections twice, each beside its copy; where scores within one image are
    tied, COCO would have one copy of all of them before the other.
    """
    total, known = np.zeros((2, len(images))), np.zeros(len(images))
    for one in ranked:
        objects = images @ one.objects  # (R,)
        aps = np.zeros((len(IOU_THRESHOLDS), len(images)))
        hits = np.flatnonzero(one.true_positive.any(axis=0))
        # Between two true positives the precision only falls, and it is read at its best: those alone matter.
        size = max(1, WORKING_SET // max(1, 4 * len(hits)))
        for start in range(0, len(images) if len(hits) else 0, size):
            part = slice(start, start + size)
            aps[:, part] = _average_precisions(one, hits, images[part].T.astype(np.float32), objects[part])
        total += np.where(objects > 0, [aps.mean(axis=0), aps[0]], 0)
        known += objects > 0
    return np.where(known > 0, total / np.maximum(known, 1), math.nan)


def _average_precisions(ranked: Ranked, hits: np.ndarray, times: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """AP at each threshold: `hits` (H,) rows, `times` (N, R) that an image is there, `objects` (R,) -> (T, R)."""
    aps = np.zeros((len(IOU_THRESHOLDS), times.shape[1]))
    seen = _seen(ranked, hits, times)
    for ap, true_positive, counted in zip(aps, ranked.true_positive, ranked.counted, strict=True):
        here = true_positive[hits]
        right = np.cumsum(times[ranked.images[hits[here]]], axis=0, dtype=np.float64)  # (H', R)
        crowded = np.flatnonzero(~counted)
        ignored = np.cumsum(times[ranked.images[crowded]], axis=0, dtype=np.float64)
        ignored = np.concatenate([np.zeros((1, times.shape[1])), ignored])[np.searchsorted(crowded, hits[here])]
        precision = right / np.maximum(seen[here] - ignored, 1)
        best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        # Each of COCO's recalls reads the best precision from where it is first reached on.
        reached = np.searchsorted(RECALLS, right / np.maximum(objects, 1), side="right")  # (H', R)
        ap[:] = (np.diff(reached, axis=0, prepend=0) * best).sum(axis=0) / len(RECALLS)
    return aps


def _seen(ranked: Ranked, hits: np.ndarray, times: np.ndarray) -> np.ndarray:
    """How many detections each replicate has down to each of `hits`, that one included: (H, R) float64."""
    gap = np.searchsorted(hits, np.arange(len(ranked.images)))  # (D,) the hit that each is above, or is
    steps = np.empty((len(hits), times.shape[1]), dtype=np.float32)
    size = max(1, WORKING_SET // len(times))
    for start in range(0, len(hits), size):
        part = steps[start : start + size]
        inside = slice(*np.searchsorted(gap, (start, start + len(part))))
        cells = (gap[inside] - start) * len(times) + ranked.images[inside]
        tally = np.bincount(cells, minlength=len(part) * len(times)).reshape(len(part), len(times))
        part[:] = tally.astype(np.float32) @ times  # whole numbers, exact up to 2^24
    return np.cumsum(steps, axis=0, dtype=np.float64)


def _interval(value: float, resampled: np.ndarray) -> Interval:
    known = resampled[~np.isnan(resampled)]
    low, high = np.percentile(known, (2.5, 97.5)) if known.size else (math.nan, math.nan)
    # With many classes of few objects, all replicates can be higher (see `ap_interval`); the value is always inside.
    return Interval(float(value), min(float(low), float(value)), max(float(high), float(value)))
