"""How far AP, and the difference between two detectors' APs, would move with other test images and other seeds.

The bootstrap: B. Efron, "Bootstrap Methods: Another Look at the Jackknife", The Annals of Statistics 7, 1979. Detectors
are compared on the same draws of the same images, so that what makes an image hard cancels in their difference.

`hotcoco.compare` (1.3.0) does not do here: it takes one seed, and it counts an image once however often it was drawn,
so that its intervals are a quarter too narrow (a test measures that).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from boxwright.metrics.coco import RECALLS, columns
from boxwright.metrics.precision import IOU_THRESHOLDS, pairwise_overlaps
from boxwright.types import Detections, Target
from boxwright.units import Interval

MAX_DETECTIONS = 100
"""Of an image and class, as COCO counts them."""

WORKING_SET = 8_000_000
"""Numbers that one array of the computation holds at most: 64 MB."""


class Draws(NamedTuple):
    """How often each replicate draws each image and each seed.

    images  (R, N) int64, rows that sum to N
    seeds   (R, S) int64, rows that sum to S
    """

    images: np.ndarray
    seeds: np.ndarray


class Ranked(NamedTuple):
    """The detections of one class over N images, best first, and their matches at COCO's IoU thresholds (T).

    images         (D,) int64, the image of each
    true_positive  (T, D) bool
    counted        (T, D) bool; False for a detection in a crowd, which is neither right nor wrong
    objects        (N,) int64, to be found in each image
    """

    images: np.ndarray
    true_positive: np.ndarray
    counted: np.ndarray
    objects: np.ndarray


def bootstrap_ap(
    runs: Sequence[Sequence[Detections]],
    targets: Sequence[Target],
    names: Sequence[str],
    replicates: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """COCO's AP and AP50, means over the seeds: of all images, then of each replicate -> (2, 1 + R).

    runs     for each seed the detections of every image
    targets  of every image, in the same order
    seed     of the draws: with the same one, detectors are evaluated on the same draws of the same images, and those
             with equally many seeds on the same draws of the seeds

    Each replicate draws the images and the seeds with replacement. nan where what was drawn has no object.

    It presumes images that were taken independently: the frames of one video carry less information than their number
    suggests. AP over few objects of a class is a little too high, for COCO reads the best precision from each recall
    on; more so in a replicate, so that an interval may reach further up than down. And two or three seeds show too
    little of how much seeds differ.
    """
    draws = resample(len(targets), len(runs), replicates, seed)
    images = np.concatenate([np.ones((1, len(targets)), dtype=np.int64), draws.images])  # (1 + R, N)
    seeds = np.concatenate([np.ones((1, len(runs)), dtype=np.int64), draws.seeds])  # (1 + R, S)
    aps = np.stack([resampled_ap(rank(detections, targets, names), images) for detections in runs])  # (S, 2, 1 + R)
    return np.einsum("rs,snr->nr", seeds / len(runs), aps)


def interval(values: np.ndarray) -> Interval:
    """A row of `bootstrap_ap` (1 + R,) -> its first value, and the 2.5th and 97.5th percentile of the replicates'.

    The value is always inside: with many classes of few objects all replicates can be higher.
    """
    value, known = float(values[0]), values[1:][~np.isnan(values[1:])]
    low, high = np.percentile(known, (2.5, 97.5)) if known.size else (math.nan, math.nan)
    return Interval(value, min(float(low), value), max(float(high), value))


def paired_difference(aps: np.ndarray, other_aps: np.ndarray) -> Interval:
    """AP minus the other's AP; where the interval contains 0, the test images cannot tell the two detectors apart.

    Both (2, 1 + R) are from `bootstrap_ap` with the same targets, replicates and seed.
    """
    return interval(aps[0] - other_aps[0])


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
    """For each class what COCO's evaluation needs before it computes precision and recall."""
    columns(detections, targets, names)  # checks them
    kept = [_best_of_each_class(of_image) for of_image in detections]
    matches = [_match(*pair) for pair in zip(kept, targets, strict=True)]
    true_positive, counted = (np.concatenate(columns, axis=1) for columns in zip(*matches, strict=True))  # (T, D)
    images = np.repeat(np.arange(len(kept)), [len(of_image) for of_image in kept])
    labels = np.concatenate([of_image.labels.cpu().numpy() for of_image in kept])
    scores = np.concatenate([of_image.scores.detach().cpu().numpy() for of_image in kept])
    object_labels = [target.labels.cpu().numpy()[~target.crowd.cpu().numpy()] for target in targets]
    objects = np.stack([np.bincount(column, minlength=len(names)) for column in object_labels])  # (N, K)
    ranked = []
    for label in range(len(names)):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        ranked.append(Ranked(images[rows], true_positive[:, rows], counted[:, rows], objects[:, label]))
    return ranked


def _best_of_each_class(detections: Detections) -> Detections:
    """At most 100 detections of each class; those of a class best first, tied ones in their order."""
    labels, scores = detections.labels.cpu().numpy(), detections.scores.detach().cpu().numpy()
    order = np.lexsort((-scores, labels))
    labels = labels[order]
    rank_in_class = np.arange(len(labels)) - np.searchsorted(labels, labels)
    return detections[torch.from_numpy(order[rank_in_class < MAX_DETECTIONS])]


def _match(detections: Detections, target: Target) -> tuple[np.ndarray, np.ndarray]:
    """`precision.match` at all thresholds at once: which are true positives, and which count, both (T, D) bool."""
    thresholds = np.array(IOU_THRESHOLDS)[:, None]  # (T, 1)
    true_positive = np.zeros((len(thresholds), len(detections)), dtype=bool)
    counted = np.ones_like(true_positive)
    overlaps = pairwise_overlaps(detections, target).numpy()  # (D, G)
    crowd = target.crowd.cpu().numpy()  # (G,)
    free = np.tile(~crowd, (len(thresholds), 1))  # (T, G)
    scores = detections.scores.detach().cpu().numpy()
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
    """AP and AP50 of each replicate, from how often it has each image: (R, N) -> (2, R); nan without an object.

    An image that is drawn twice has its detections twice, each beside its copy; where scores within one image are
    tied, COCO would have one copy of all of them before the other.
    """
    total, known = np.zeros((2, len(images))), np.zeros(len(images))
    for of_class in ranked:
        objects = images @ of_class.objects  # (R,)
        aps = np.zeros((len(IOU_THRESHOLDS), len(images)))
        hits = np.flatnonzero(of_class.true_positive.any(axis=0))
        # Between two true positives precision only falls, and it is read at its best: those alone matter.
        size = max(1, WORKING_SET // max(1, 4 * len(hits)))
        for start in range(0, len(images) if len(hits) else 0, size):
            rows = slice(start, start + size)
            aps[:, rows] = _average_precisions(of_class, hits, images[rows].T.astype(np.float32), objects[rows])
        total += np.where(objects > 0, [aps.mean(axis=0), aps[0]], 0)
        known += objects > 0
    return np.where(known > 0, total / np.maximum(known, 1), math.nan)


def _average_precisions(ranked: Ranked, hits: np.ndarray, times: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """AP at each threshold: `hits` (H,) rows, `times` (N, R) that each image is drawn, `objects` (R,) -> (T, R)."""
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
    """How many detections each replicate has down to and including each of `hits`: (H, R) float64."""
    gap = np.searchsorted(hits, np.arange(len(ranked.images)))  # (D,) the first hit that is not above each
    steps = np.empty((len(hits), times.shape[1]), dtype=np.float32)
    size = max(1, WORKING_SET // len(times))
    for start in range(0, len(hits), size):
        block = steps[start : start + size]
        inside = slice(*np.searchsorted(gap, (start, start + len(block))))
        indices = (gap[inside] - start) * len(times) + ranked.images[inside]
        tally = np.bincount(indices, minlength=len(block) * len(times)).reshape(len(block), len(times))
        block[:] = tally.astype(np.float32) @ times  # whole numbers, exact up to 2^24
    return np.cumsum(steps, axis=0, dtype=np.float64)
