"""The number of all windows by enumeration, and the grid of some of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from boxwright.proposals import SlidingWindow, count_windows


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (4, 1), (3, 2), (5, 6)])
def test_count_by_enumeration(height: int, width: int):
    rows, columns = combinations(range(height + 1), 2), list(combinations(range(width + 1), 2))
    assert count_windows(height, width) == sum(1 for _ in rows for _ in columns)


def test_the_lecture_slide():
    assert count_windows(600, 800) == count_windows(800, 600) == 57_768_120_000  # the slide says 58 million
    assert count_windows(10**6, 10**6) == (10**6 * (10**6 + 1) // 2) ** 2  # no rounding


def test_an_image_without_pixels():
    with pytest.raises(ValueError, match="got height 0 and width 3"):
        count_windows(0, 3)


def test_a_grid_by_hand():
    boxes = SlidingWindow(scales=(0.5,), ratios=(1.0,), stride=1.0)(np.zeros((20, 20, 3), np.uint8))
    quarters = {(0, 0, 10, 10), (10, 0, 20, 10), (0, 10, 10, 20), (10, 10, 20, 20)}
    assert boxes.dtype == np.float32
    assert boxes[0].tolist() == [0, 0, 20, 20]
    assert {tuple(box) for box in boxes[1:].tolist()} == quarters


def test_ratio_is_height_over_width():
    boxes = SlidingWindow(scales=(0.5,), ratios=(4.0,), stride=10)(np.zeros((40, 40, 3), np.uint8))[1:]
    assert {(y2 - y1, x2 - x1) for x1, y1, x2, y2 in boxes.tolist()} == {(40, 10)}
    assert boxes[:, [0, 2]].min() == 0 and boxes[:, [0, 2]].max() == 40  # both borders


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (37, 3), (48, 64), (375, 500)])
def test_windows_are_distinct_and_inside_the_image(shape: tuple[int, int]):
    boxes = SlidingWindow(count=10**6)(np.zeros((*shape, 3), np.uint8))
    assert (boxes >= 0).all() and (boxes[:, 2] <= shape[1] + 1e-3).all() and (boxes[:, 3] <= shape[0] + 1e-3).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert len(np.unique(boxes, axis=0)) == len(boxes)


def test_count_keeps_the_large_ones():
    image = np.zeros((60, 80, 3), np.uint8)
    all_boxes, some = SlidingWindow(count=10**6)(image), SlidingWindow(count=50)(image)
    assert np.array_equal(some, all_boxes[:50])
    assert len(SlidingWindow()(image)) == 2000


@pytest.mark.parametrize("wrong", [{"scales": ()}, {"ratios": (1.0, 0.0)}, {"stride": -1.0}, {"count": 0}])
def test_invalid_options(wrong: dict):
    with pytest.raises(ValueError, match="all its numbers are positive"):
        SlidingWindow(**wrong)


def test_arrays_that_are_no_rgb_image():
    with pytest.raises(ValueError, match=r"uint8 RGB image \(H, W, 3\), got float64 \(4, 4, 3\)"):
        SlidingWindow()(np.zeros((4, 4, 3)))
