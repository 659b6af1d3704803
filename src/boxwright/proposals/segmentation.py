"""Graph-based segmentation of an image: Felzenszwalb and Huttenlocher, IJCV 2004.

Pixels are nodes; an edge between neighbours weighs their difference in colour. In order of weight, an edge merges its
two regions if it weighs at most the heaviest edge inside either region plus k over that region's size: the larger k,
the larger the regions.
"""

from __future__ import annotations

import numpy as np

from boxwright.compiled import kernel

_UNIT = 64
"""Weights are integers, 64ths of a grey level: a counting sort orders them, and results are equal on every machine."""

_HEAVIEST = 1 << 15  # more than 64 * 255 * sqrt(3)


def gaussian(sigma: float) -> np.ndarray:
    """The taps of a Gaussian from the middle out, (R + 1,) float32, with R = 4 sigma rounded."""
    taps = np.exp(-(np.arange(round(4 * sigma) + 1) ** 2) / (2 * sigma**2))
    return (taps / (taps[0] + 2 * taps[1:].sum())).astype(np.float32)


@kernel
def smooth(planes: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Planes (C, H, W) uint8 blurred with the symmetric `taps`; float32. The border is mirrored."""
    channels, height, width = planes.shape
    radius = len(taps) - 1
    blurred = np.empty((channels, height, width), np.float32)
    column = np.empty(width + 2 * radius, np.float32)
    for channel in range(channels):
        for y in range(height):
            middle = column[radius : radius + width]
            for x in range(width):
                middle[x] = taps[0] * np.float32(planes[channel, y, x])
            for step in range(1, radius + 1):
                above, below = planes[channel, _mirror(y - step, height)], planes[channel, _mirror(y + step, height)]
                tap = taps[step]
                for x in range(width):
                    middle[x] += tap * (np.float32(above[x]) + np.float32(below[x]))
            for step in range(1, radius + 1):
                column[radius - step] = middle[_mirror(-step, width)]
                column[radius + width - 1 + step] = middle[_mirror(width - 1 + step, width)]
            row = blurred[channel, y]
            for x in range(width):
                row[x] = taps[0] * middle[x]
            for step in range(1, radius + 1):
                left, right = column[radius - step :], column[radius + step :]
                tap = taps[step]
                for x in range(width):
                    row[x] += tap * (left[x] + right[x])
    return blurred


@kernel
def _mirror(index: int, length: int) -> int:
    """The index reflected into 0..length - 1: -1 becomes 1, length becomes length - 2; repeated for small images."""
    if length == 1:
        return 0
    index = abs(index) % (2 * length - 2)
    return min(index, 2 * length - 2 - index)


@kernel
def sorted_edges(blurred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of neighbouring pixels of planes (C, H, W), the most similar first.

    Edge 2p joins pixel p (row by row) with the one to its right, 2p + 1 with the one below.
    -> edges (E,) int32, weights (E,) uint16
    """
    channels, height, width = blurred.shape
    weights = np.empty(2 * height * width, np.uint16)
    starts = np.zeros(_HEAVIEST + 1, np.int32)
    across, down = np.empty(width, np.float32), np.empty(width, np.float32)
    for y in range(height):
        across[:] = 0
        down[:] = 0
        for channel in range(channels):
            row = blurred[channel, y]
            for x in range(width - 1):
                difference = row[x] - row[x + 1]
                across[x] += difference * difference
            if y < height - 1:
                below = blurred[channel, y + 1]
                for x in range(width):
                    difference = row[x] - below[x]
                    down[x] += difference * difference
        for x in range(width):
            edge = 2 * (y * width + x)
            weights[edge] = np.uint16(np.sqrt(across[x]) * np.float32(_UNIT) + np.float32(0.5))
            weights[edge + 1] = np.uint16(np.sqrt(down[x]) * np.float32(_UNIT) + np.float32(0.5))
            if x < width - 1:
                starts[weights[edge] + 1] += 1
            if y < height - 1:
                starts[weights[edge + 1] + 1] += 1
    for weight in range(_HEAVIEST):
        starts[weight + 1] += starts[weight]
    total = starts[_HEAVIEST]
    edges, ranked = np.empty(total, np.int32), np.empty(total, np.uint16)
    for y in range(height):
        for x in range(width):
            for edge in range(2 * (y * width + x), 2 * (y * width + x) + 2):
                if (edge & 1 == 0 and x < width - 1) or (edge & 1 == 1 and y < height - 1):
                    weight = weights[edge]
                    edges[starts[weight]] = edge
                    ranked[starts[weight]] = weight
                    starts[weight] += 1
    return edges, ranked


@kernel
def segment(edges: np.ndarray, weights: np.ndarray, height: int, width: int, k: float, smallest: int) -> np.ndarray:
    """The region of each pixel, (H, W) int32, numbered from 0 in the order of their first pixels.

    Regions of fewer than `smallest` pixels are merged with their most similar neighbour.
    """
    parent = np.full(height * width, -1, np.int32)  # of a root: minus the size of its region
    bound = np.full(height * width, k * _UNIT, np.float32)  # the heaviest edge over which a region may be merged
    refused = np.empty(len(edges), np.int32)
    count = 0
    for index in range(len(edges)):
        pixel = edges[index] >> 1
        neighbour = pixel + width if edges[index] & 1 else pixel + 1
        a, b = _root(parent, pixel), _root(parent, neighbour)
        if a != b:
            weight = np.float32(weights[index])
            if weight <= bound[a] and weight <= bound[b]:
                a = _join(parent, a, b)
                bound[a] = weight - np.float32(k * _UNIT) / np.float32(parent[a])
            else:
                refused[count] = edges[index]
                count += 1
    for edge in refused[:count]:
        pixel = edge >> 1
        neighbour = pixel + width if edge & 1 else pixel + 1
        a, b = _root(parent, pixel), _root(parent, neighbour)
        if a != b and max(parent[a], parent[b]) > -smallest:
            _join(parent, a, b)
    return _numbered(parent).reshape(height, width)


@kernel
def _root(parent: np.ndarray, node: int) -> int:
    up = int(parent[node])
    while up >= 0:
        higher = int(parent[up])
        if higher < 0:
            return up
        parent[node] = higher  # path halving
        node, up = higher, int(parent[higher])
    return node


@kernel
def _join(parent: np.ndarray, a: int, b: int) -> int:
    """The root of both: that of the larger region."""
    if parent[a] > parent[b]:
        a, b = b, a
    parent[a] += parent[b]
    parent[b] = a
    return a


@kernel
def _numbered(parent: np.ndarray) -> np.ndarray:
    labels = np.full(len(parent), -1, np.int32)
    count = 0
    for pixel in range(len(parent)):
        root = _root(parent, pixel)
        if labels[root] < 0:  # this is the first pixel of its region
            labels[root] = count
            count += 1
        labels[pixel] = labels[root]
    return labels
