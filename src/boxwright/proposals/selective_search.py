"""Selective search: regions that segmentation and grouping find in many ways, as boxes. Uijlings et al., IJCV 2013.

What is an object may differ from its surroundings in colour, or texture, or only in that it is one piece; so an image
is segmented in several colour spaces and with several region sizes, and the regions are grouped by several mixtures of
similarities. Every region of every hierarchy is a proposal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from boxwright.proposals.cache import check_image

Strategy = tuple[bool, bool, bool, bool]
"""Which similarities count: colour, texture, size, fill."""

_ALL, _NO_COLOR = (True, True, True, True), (False, True, True, True)
_SIZE, _FILL = (False, False, True, False), (False, False, False, True)


class Mode(NamedTuple):
    """Each colour space is segmented with each k, and each segmentation grouped with each strategy."""

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
    """Proposes boxes around the regions of an image; the image and these options alone determine them.

    mode     "fast": 12 hierarchies, "quality": 100; the colour spaces, k and strategies are those of OpenCV contrib's
             `switchToSelectiveSearchFast` and `...Quality`
    count    how many boxes at most; a small image has fewer
    longest  an image whose longer side has more pixels is searched in this size: R-CNN took 500
    seed     of the random numbers in the ranking
    """

    version: ClassVar[int] = 3
    """To be raised when the same image gets other boxes: `Cached` then forgets the old ones."""

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
        """A uint8 RGB image (H, W, 3) -> (P, 4) float32 xyxy in its pixels, P <= count, no two the same, best first.

        Boxes are ranked by chance times their place in the hierarchy, where 1 is the whole image (section 3.3).
        The whole image is among the candidates, and alone where nothing stands out. Raises ValueError for an array
        that is no such image, ImportError without numba.
        """
        check_image(image)
        height, width = image.shape[:2]
        reduced = _reduced(image, self.longest)
        boxes, positions = search(reduced, MODES[self.mode])
        chance = np.random.Generator(np.random.PCG64(self.seed)).random(len(positions))
        order = np.argsort(positions * chance, kind="stable")
        best = _distinct(boxes[order], reduced.shape[1])[: self.count]
        scale = np.array([width / reduced.shape[1], height / reduced.shape[0]] * 2)
        return (best * scale).astype(np.float32)


def search(image: np.ndarray, mode: Mode) -> tuple[np.ndarray, np.ndarray]:
    """The regions of all hierarchies, (R, 4) int32 xyxy, and the place of each in its own: 1 is the whole image."""
    from boxwright.proposals.colors import SPACES
    from boxwright.proposals.grouping import COLOR_BINS, describe, group, neighbours, pixel_bins
    from boxwright.proposals.segmentation import gaussian, segment, smooth, sorted_edges

    image = np.ascontiguousarray(image)
    height, width = image.shape[:2]
    found, positions = [], []
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
                found.append(boxes.copy())
                positions.append(np.arange(len(boxes), 0, -1))
    return np.concatenate(found), np.concatenate(positions)


def _reduced(image: np.ndarray, longest: int) -> np.ndarray:
    height, width = image.shape[:2]
    if max(height, width) <= longest:
        return image
    from PIL import Image

    factor = longest / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))  # writable: one compilation


def _distinct(boxes: np.ndarray, width: int) -> np.ndarray:
    """Each box (R, 4) where it comes first."""
    corners = boxes.astype(np.int64)
    start, end = corners[:, 1] * width + corners[:, 0], (corners[:, 3] - 1) * width + corners[:, 2] - 1
    _, first = np.unique(start * (end.max() + 1) + end, return_index=True)
    return boxes[np.sort(first)]
