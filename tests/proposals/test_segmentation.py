"""Graph segmentation: by hand, against the paper's algorithm written with sets, and against OpenCV's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data as photos

from boxwright.proposals.colors import hsv
from boxwright.proposals.segmentation import gaussian, segment, smooth, sorted_edges


def regions_of(plane: np.ndarray, k: float, smallest: int = 1) -> np.ndarray:
    """The regions of a plane (H, W) of grey levels that is not blurred before."""
    edges, weights = sorted_edges(np.ascontiguousarray(plane, np.float32)[None])
    return segment(edges, weights, *plane.shape, float(k), smallest)


def by_definition(plane: np.ndarray, k: float, smallest: int) -> list[set[int]]:
    """Felzenszwalb and Huttenlocher's algorithm 1 and the joining of small regions, for a plane of whole numbers."""
    height, width = plane.shape
    flat = plane.reshape(-1)
    right = [(p, p + 1) for p in range(height * width) if p % width < width - 1]
    below = [(p, p + width) for p in range(height * (width - 1) + height - width)]
    edges = sorted((abs(int(flat[a]) - int(flat[b])), a, b != a + 1, b) for a, b in right + below)
    regions = {pixel: {pixel} for pixel in range(height * width)}
    inside = dict.fromkeys(regions, 0)

    def join(a: int, b: int) -> None:
        regions[a] |= regions[b]
        for pixel in regions[b]:
            regions[pixel] = regions[a]

    refused = []
    for weight, a, _, b in edges:
        first, second = min(regions[a]), min(regions[b])
        if regions[a] is not regions[b]:
            if weight <= min(inside[first] + k / len(regions[a]), inside[second] + k / len(regions[b])):
                join(a, b)
                inside[min(regions[a])] = weight
            else:
                refused.append((a, b))
    for a, b in refused:
        if regions[a] is not regions[b] and min(len(regions[a]), len(regions[b])) < smallest:
            join(a, b)
    return sorted({id(region): region for region in regions.values()}.values(), key=min)


def test_edges_of_a_row_and_a_column():
    edges, weights = sorted_edges(np.array([[[0, 7, 4]]], np.float32))
    assert edges.tolist() == [2, 0] and weights.tolist() == [3 * 64, 7 * 64]  # 7 - 4 comes before 0 - 7
    edges, weights = sorted_edges(np.array([[[0], [7], [4]]], np.float32))
    assert edges.tolist() == [3, 1] and weights.tolist() == [3 * 64, 7 * 64]  # the odd ones lead downwards


def test_the_weight_of_an_edge_is_the_distance_of_colours():
    colours = np.array([[[1, 4]], [[2, 6]], [[3, 15]]], np.float32)  # (1, 2, 3) and (4, 6, 15)
    assert sorted_edges(colours)[1].tolist() == [13 * 64]


def test_two_colours_are_two_regions():
    plane = np.full((6, 8), 20.0)
    plane[2:5, 3:7] = 200
    assert np.array_equal(regions_of(plane, k=100), (plane == 200).astype(int))


@pytest.mark.parametrize(("k", "expected"), [(2, [0, 0, 1, 1]), (15, [0, 0, 1, 1]), (16, [0, 0, 0, 0])])
def test_k_bounds_the_steps_inside_a_region(k: float, expected: list[int]):
    # A pair has 1 inside: the step of 9 between the pairs is taken when 1 + k / 2 is 9.
    assert regions_of(np.array([[0, 1, 10, 11]]), k).tolist() == [expected]


def test_a_region_that_is_too_small_joins_the_neighbour_most_like_it():
    row = np.array([[0, 0, 0, 50, 90, 90, 90]])
    assert regions_of(row, k=1).tolist() == [[0, 0, 0, 1, 2, 2, 2]]
    assert regions_of(row, k=1, smallest=2).tolist() == [[0, 0, 0, 1, 1, 1, 1]]


@pytest.mark.parametrize("seed", range(8))
def test_the_definition(seed: int):
    rng = np.random.default_rng(seed)
    plane = rng.permutation(rng.integers(2, 12) * np.arange(9 * 7)).reshape(9, 7) % 251
    k, smallest = float(rng.integers(20, 400)), int(rng.integers(1, 9))
    labels = regions_of(plane, k, smallest)
    found = [set(np.flatnonzero(labels == label).tolist()) for label in range(labels.max() + 1)]
    assert found == by_definition(plane, k, smallest)


def test_blur_is_opencvs():
    planes = np.random.default_rng(0).integers(0, 256, (2, 13, 17), dtype=np.uint8)
    expected = cv2.GaussianBlur(np.moveaxis(planes, 0, 2).astype(np.float32), (0, 0), 0.8)
    np.testing.assert_allclose(np.moveaxis(smooth(planes, gaussian(0.8)), 0, 2), expected, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (1, 9), (3, 2)])
def test_blur_of_an_image_smaller_than_the_blur(shape: tuple[int, int]):
    planes = np.random.default_rng(0).integers(0, 256, (1, *shape), dtype=np.uint8)
    expected = cv2.GaussianBlur(planes[0].astype(np.float32), (0, 0), 0.8)
    np.testing.assert_allclose(smooth(planes, gaussian(0.8))[0], expected, atol=1e-3)


@pytest.mark.parametrize("k", [150, 450])
def test_a_photograph_has_opencvs_regions(k: int):
    """Not to the last pixel: ties between edges are broken in another order, and weights are 64ths of a grey level."""
    image = photos.astronaut()[:256, 100:400]
    planes = hsv(image)
    labels = segment(*sorted_edges(smooth(planes, gaussian(0.8))), *image.shape[:2], float(k), 100)
    graph = cv2.ximgproc.segmentation.createGraphSegmentation(0.8, k, 100)
    opencv = graph.processImage(np.ascontiguousarray(np.moveaxis(planes, 0, 2)))
    sizes = np.bincount(labels.reshape(-1))
    assert sizes.min() >= 100 and abs(len(sizes) / (opencv.max() + 1) - 1) < 0.1
    together = np.zeros((labels.max() + 1, opencv.max() + 1))
    np.add.at(together, (labels, np.asarray(opencv, np.int64)), 1)
    assert together.max(axis=1).sum() / labels.size > 0.9  # of the pixels lie in the best-fitting region of OpenCV's
    assert together.max(axis=0).sum() / labels.size > 0.9
