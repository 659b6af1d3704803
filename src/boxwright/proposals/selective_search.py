"""Selective search: boxes of regions from segmentation and hierarchical grouping. Uijlings et al., IJCV 2013.

An object may differ from its surroundings in colour, in texture, or only by being one piece. So an image is segmented
in several colour spaces with several region sizes, and the regions are grouped by several sums of similarities. Every
region of every hierarchy is a proposal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from boxwright.proposals.cache import check_image

Strategy = tuple[bool, bool, bool, bool]
"""Which similarities are summed: colour, texture, size, fill."""

_ALL, _NO_COLOR = (True, True, True, True), (False, True, True, True)
_SIZE, _FILL = (False, False, True, False), (False, False, False, True)


class Mode(NamedTuple):
    """Each colour space is segmented with each k, and each segmentation is grouped with each strategy."""

    spaces: tuple[str, ...]
    ks: tuple[int, ...]
    strategies: tuple[Strategy, ...]


MODES = {
    "fast": Mode(("hsv", "lab"), (150, 300, 450), (_ALL, _NO_COLOR)),
    "quality": Mode(
        ("hsv", "lab", "grey", "hue", "rgi"), (150, 300, 450, 600, 750), (_ALL, _NO_COLOR, _FILL, _SIZE)
    ),
}  # fmt: skip

_SIGMA, _SMALLEST = 0.8, 100


@dataclass(frozen=True)
class SelectiveSearch:
    """Boxes around the regions of an image; determined by the image and these options alone.

    mode     "fast": 12 hierarchies, "quality": 100; the colour spaces, k and strategies are those of OpenCV contrib's
             `switchToSelectiveSearchFast` and `...Quality`
    count    the maximum number of boxes; a small image has fewer
    longest  an image whose longer side has more pixels is reduced to this size first; R-CNN used 500
    seed     of the random ranking
    """

    version: ClassVar[int] = 3
    """To be raised when the same image gets other boxes, which invalidates those that `CachedProposer` keeps."""

    mode: Literal["fast", "quality"] = "fast"
    count: int = 2000
    longest: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f'mode is "fast" or "quality", got {self.mode!r}')
        for name in ("count", "longest"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is 1 or more, got {getattr(self, name)}")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """A uint8 RGB image (H, W, 3) -> (P, 4) float32 xyxy in its pixels, P <= count, distinct, best first.

        Boxes are ranked by a random number times their position in the hierarchy, 1 for the whole image (section
        3.3). The whole image is always a candidate, the only one in a uniform image. Raises ValueError for any other
        array, ImportError without numba.
        """
        check_image(image)
        height, width = image.shape[:2]
        reduced = _reduced(image, self.longest)
        boxes, positions = search(reduced, MODES[self.mode])
        random = np.random.Generator(np.random.PCG64(self.seed)).random(len(positions))
        order = np.argsort(positions * random, kind="stable")
        best = _distinct(boxes[order], reduced.shape[1])[: self.count]
        scale = np.array([width / reduced.shape[1], height / reduced.shape[0]] * 2)
        return (best * scale).astype(np.float32)


def search(image: np.ndarray, mode: Mode) -> tuple[np.ndarray, np.ndarray]:
    """The regions of all hierarchies, (R, 4) int32 xyxy, and the position of each in its own, (R,): 1 is the root."""
    from boxwright.proposals.colors import SPACES
    from boxwright.proposals.grouping import COLOR_BINS, describe, group, neighbours, pixel_bins
    from boxwright.proposals.segmentation import gaussian, segment, smooth, sorted_edges

    image = np.ascontiguousarray(image)
    height, width = image.shape[:2]
    all_boxes, positions = [], []
    for space in mode.spaces:
        planes = np.ascontiguousarray(SPACES[space](image))
        channels = len(planes)
        blurred = smooth(planes, gaussian(_SIGMA))
        bins = pixel_bins(planes, blurred)
        edges, weights = sorted_edges(blurred)
        for k in mode.ks:
            labels = segment(edges, weights, height, width, float(k), _SMALLEST)
            sizes, boxes, shares = describe(labels, bins, channels)
            pairs = neighbours(labels)
            for strategy in mode.strategies:
                group(pairs, sizes, boxes, shares, channels * COLOR_BINS, strategy)
                all_boxes.append(boxes.copy())
                positions.append(np.arange(len(boxes), 0, -1))
    return np.concatenate(all_boxes), np.concatenate(positions)


def _reduced(image: np.ndarray, longest: int) -> np.ndarray:
    height, width = image.shape[:2]
    if max(height, width) <= longest:
        return image
    from PIL import Image

    factor = longest / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    # np.array copies: to numba a read-only array is another type, for which it would compile the kernels again.
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _distinct(boxes: np.ndarray, width: int) -> np.ndarray:
    """Boxes (R, 4) without repetitions, in the order of their first occurrence."""
    corners = boxes.astype(np.int64)
    start, end = corners[:, 1] * width + corners[:, 0], (corners[:, 3] - 1) * width + corners[:, 2] - 1
    _, first = np.unique(start * (end.max() + 1) + end, return_index=True)
    return boxes[np.sort(first)]
