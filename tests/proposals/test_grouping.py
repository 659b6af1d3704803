"""Histograms and similarities of regions by hand; the grouping against the paper's algorithm with dictionaries."""

from __future__ import annotations

import numpy as np
import pytest

from boxwright.proposals.grouping import (
    AXES,
    COLOR_BINS,
    TEXTURE_BINS,
    describe,
    group,
    neighbours,
    pixel_bins,
    similarity,
)

WHOLE = 1 << 24
ALL = (True, True, True, True)
LABELS = np.array([[0, 0, 0, 1], [0, 2, 2, 1], [0, 0, 0, 1]], np.int32)


def described(labels: np.ndarray, plane: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    planes = plane[None].astype(np.uint8)
    return describe(labels, pixel_bins(planes, planes.astype(np.float32)), 1)


def random_map(seed: int, height: int = 12, width: int = 15, count: int = 9) -> np.ndarray:
    """`count` regions: each pixel belongs to the nearest of so many points, in steps along rows and columns."""
    rng = np.random.default_rng(seed)
    points = np.stack(np.unravel_index(rng.choice(height * width, count, replace=False), (height, width)))
    ys, xs = np.mgrid[:height, :width]
    distance = np.abs(ys[..., None] - points[0]) + np.abs(xs[..., None] - points[1]) * 1.001
    return distance.argmin(axis=-1).astype(np.int32)


def test_sizes_and_boxes():
    sizes, boxes, _ = described(LABELS, np.zeros(LABELS.shape))
    assert len(sizes) == len(boxes) == 2 * 3 - 1  # with room for the merged regions
    assert sizes[:3].tolist() == [7, 3, 2]
    assert boxes[:3].tolist() == [[0, 0, 3, 3], [3, 0, 4, 3], [1, 1, 3, 2]]


def test_neighbours_share_a_side():
    assert {tuple(pair) for pair in neighbours(LABELS).tolist()} == {(0, 1), (0, 2), (1, 2)}
    diagonal = np.array([[0, 1], [2, 3]], np.int32)
    assert {tuple(pair) for pair in neighbours(diagonal).tolist()} == {(0, 1), (0, 2), (1, 3), (2, 3)}
    assert len(neighbours(np.zeros((3, 3), np.int32))) == 0


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_of_a_map(seed: int):
    labels = random_map(seed)
    sides = [(labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])]
    touching = [pair for a, b in sides for pair in zip(a.flat, b.flat, strict=True)]
    pairs = {(min(pair), max(pair)) for pair in touching if pair[0] != pair[1]}
    assert sorted(map(tuple, neighbours(labels).tolist())) == sorted(pairs)


def test_histogram_of_colour():
    plane = np.where(LABELS == 0, 255, 0)
    plane[0, :2] = 128  # two of the seven pixels of region 0
    _, _, shares = described(LABELS, plane)
    expected = np.zeros(COLOR_BINS)
    expected[128 * COLOR_BINS // 256], expected[-1] = 2 / 7, 5 / 7
    np.testing.assert_allclose(shares[0, :COLOR_BINS] / WHOLE, expected, atol=1e-6)
    np.testing.assert_allclose(shares[1, :COLOR_BINS] / WHOLE, np.eye(COLOR_BINS)[0])


def test_histogram_of_texture():
    """A ramp to the right: full in the last bin of the axis to the right, nothing downwards, .7 of it in between."""
    plane = np.tile(np.arange(8) * 10, (6, 1))
    bins = pixel_bins(plane[None].astype(np.uint8), plane[None].astype(np.float32))[0]
    inner = bins[1:-1, 1 + np.arange(AXES)] - (COLOR_BINS + np.arange(AXES) * TEXTURE_BINS)  # without the left column
    assert bins.shape == (8, 1 + AXES)
    right, down, falling, rising = (bins[3, 1:].astype(int) - COLOR_BINS) - np.arange(AXES) * TEXTURE_BINS
    assert (right, down) == (TEXTURE_BINS - 1, TEXTURE_BINS // 2)
    assert falling == rising == TEXTURE_BINS - 1  # each axis has its own range
    assert inner.min() >= 0 and inner.max() < TEXTURE_BINS


def test_each_histogram_adds_up_to_one():
    labels = random_map(0)
    _, _, shares = described(labels, np.random.default_rng(1).integers(0, 256, labels.shape))
    for part in (shares[:9, :COLOR_BINS], shares[:9, COLOR_BINS:]):
        assert np.abs(part.sum(axis=1) / WHOLE - 1).max() < 1e-4


def test_the_four_similarities():
    sizes = np.array([6, 2], np.int32)
    boxes = np.array([[0, 0, 4, 2], [4, 1, 6, 2]], np.int32)  # in one box: 6 x 2 with 4 pixels of neither
    shares = (np.array([[0.5, 0.5, 0.0, 0.25, 0.75], [0.2, 0.0, 0.8, 1.0, 0.0]]) * WHOLE).astype(np.int32)
    single = [tuple(which == index for index in range(4)) for which in range(4)]
    similarities = [similarity(0, 1, sizes, boxes, shares, 3, 20, strategy) for strategy in single]
    np.testing.assert_allclose(similarities, [0.2, 0.25, 1 - 8 / 20, 1 - 4 / 20], atol=1e-6)
    assert similarity(0, 1, sizes, boxes, shares, 3, 20, ALL) == pytest.approx(sum(similarities))


def test_similar_colours_merge_first():
    labels = np.repeat(np.arange(4, dtype=np.int32), 3)[None]
    sizes, boxes, shares = described(labels, np.repeat([10, 200, 204, 90], 3)[None])
    group(neighbours(labels), sizes, boxes, shares, COLOR_BINS, (True, False, False, False))
    assert boxes[4].tolist() == [3, 0, 9, 1] and boxes[6].tolist() == [0, 0, 12, 1]
    assert sizes.tolist() == [3, 3, 3, 3, 6, 9, 12]


def test_small_regions_merge_first():
    labels = np.repeat(np.arange(3, dtype=np.int32), [9, 2, 1])[None]
    sizes, boxes, shares = described(labels, np.zeros((1, 12)))
    group(neighbours(labels), sizes, boxes, shares, COLOR_BINS, (False, False, True, False))
    assert boxes[3:].tolist() == [[9, 0, 12, 1], [0, 0, 12, 1]]


@pytest.mark.parametrize("strategy", [ALL, (False, True, True, True), (True, False, False, True)])
@pytest.mark.parametrize("seed", range(4))
def test_the_definition(seed: int, strategy: tuple[bool, bool, bool, bool]):
    labels = random_map(seed)
    sizes, boxes, shares = described(labels, np.random.default_rng(seed).integers(0, 256, labels.shape))
    pairs = neighbours(labels)
    expected = by_definition(pairs, sizes, boxes, shares, strategy)
    group(pairs, sizes, boxes, shares, COLOR_BINS, strategy)
    assert sizes.tolist() == [region["size"] for region in expected]
    assert boxes.tolist() == [region["box"] for region in expected]


def by_definition(
    pairs: np.ndarray, sizes: np.ndarray, boxes: np.ndarray, shares: np.ndarray, strategy: tuple[bool, ...]
) -> list[dict]:
    """Section 3.1's algorithm 1 in floats: every step compares all pairs of neighbours."""
    count = (len(sizes) + 1) // 2
    regions = [
        {"size": int(sizes[row]), "box": boxes[row].tolist(), "histograms": shares[row] / WHOLE} for row in range(count)
    ]
    area = sum(region["size"] for region in regions)
    near = {frozenset(pair) for pair in pairs.tolist()}

    def merged(a: dict, b: dict) -> dict:
        size = a["size"] + b["size"]
        corners = [min(a["box"][i], b["box"][i]) if i < 2 else max(a["box"][i], b["box"][i]) for i in range(4)]
        mean = (a["size"] * a["histograms"] + b["size"] * b["histograms"]) / size
        return {"size": size, "box": corners, "histograms": mean}

    def likeness(pair: frozenset[int]) -> float:
        a, b = (regions[row] for row in pair)
        shared = np.minimum(a["histograms"], b["histograms"])
        both = merged(a, b)
        hull = (both["box"][2] - both["box"][0]) * (both["box"][3] - both["box"][1])
        four = shared[:COLOR_BINS].sum(), shared[COLOR_BINS:].sum(), 1 - both["size"] / area
        return float(np.dot(strategy, (*four, 1 - (hull - both["size"]) / area)))

    while near:
        best = max(near, key=likeness)
        regions.append(merged(*(regions[row] for row in best)))
        renamed = {frozenset(len(regions) - 1 if row in best else row for row in pair) for pair in near}
        near = {pair for pair in renamed if len(pair) == 2}
    return regions
