"""Sliding windows: the number of all windows in an image, and a proposer of a grid of some of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from boxwright.proposals.cache import check_image


def count_windows(height: int, width: int) -> int:
    """The number of boxes with integer corners, of any size and position, in an image.

    A box has two different of the W + 1 columns and two of the H + 1 rows: W (W + 1) / 2 * H (H + 1) / 2. An image of
    800 x 600 pixels has 57,768,120,000. The slide of EECS 498-007 / 598-005 (Justin Johnson, University of Michigan,
    2019, lecture "Object Detection") gives 58 million for the same formula: it is 58 thousand million.
    """
    if height < 1 or width < 1:
        raise ValueError(f"an image has at least one row and one column, got height {height} and width {width}")
    return (width * (width + 1) // 2) * (height * (height + 1) // 2)


@dataclass(frozen=True)
class SlidingWindow:
    """A grid of windows inside the image, the large ones first, independent of its content.

    scales  the square root of a window's area over that of the image
    ratios  height / width
    stride  the largest step between windows, relative to the window's width and height; windows are spaced evenly
            from border to border
    count   the maximum number of windows
    """

    scales: tuple[float, ...] = (0.75, 0.5, 0.35, 0.25, 0.18, 0.12)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    stride: float = 0.35
    count: int = 2000

    def __post_init__(self) -> None:
        numbers = (*self.scales, *self.ratios, self.stride, self.count)
        if not self.scales or not self.ratios or min(numbers) <= 0 or self.count < 1:
            raise ValueError(f"SlidingWindow takes scales and ratios, and all its numbers are positive; got {self}")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """A uint8 RGB image (H, W, 3) -> (P, 4) float32 xyxy in its pixels; the whole image is the first."""
        check_image(image)
        height, width = image.shape[:2]
        whole = np.array([[0, 0, width, height]])
        boxes = np.concatenate([whole, *self._grids(height, width)])
        return boxes[: self.count].astype(np.float32)

    def _grids(self, height: int, width: int) -> Iterator[np.ndarray]:
        """The windows of each scale and ratio; none for a window that does not fit into the image."""
        side = math.sqrt(height * width)
        for scale in sorted(self.scales, reverse=True):
            for ratio in self.ratios:
                h, w = scale * side * math.sqrt(ratio), scale * side / math.sqrt(ratio)
                if h <= height and w <= width:
                    y, x = np.meshgrid(_spread(height - h, h * self.stride), _spread(width - w, w * self.stride))
                    yield np.stack([x, y, x + w, y + h], axis=-1).reshape(-1, 4)


def _spread(length: float, step: float) -> np.ndarray:
    """From 0 to `length` in equal steps of at most `step`."""
    return np.linspace(0, length, math.ceil(length / step) + 1)
