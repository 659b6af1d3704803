"""Hierarchical grouping of a segmented image's regions: Uijlings et al., "Selective Search", IJCV 2013, section 3.

The two most similar neighbouring regions are merged, until one region covers the whole image. A region is a row: first
the N of the segmentation, then the N - 1 merged ones in the order of merging.

Colour and texture are histograms of integers that add up to _WHOLE: integer sums are equal on every machine, whatever
the order of additions.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

import numpy as np

from boxwright.compiled import kernel

COLOR_BINS = 25
"""Per channel."""

TEXTURE_BINS = 20
"""Per channel and axis: ten for each of two opposite directions; the paper's eight directions are four axes."""

AXES = 4

_WHOLE = 1 << 24


@kernel
def pixel_bins(planes: np.ndarray, blurred: np.ndarray) -> np.ndarray:
    """The histogram bins of each pixel, (H, W, 5 C) uint16: C of colour, then 4 C of texture.

    planes   (C, H, W) uint8, binned by colour
    blurred  (C, H, W) float32, whose derivatives along four axes are binned as texture. A blur of sigma 0.8 gives the
             paper's sigma of 1, since Scharr's filter itself blurs by 0.6. The bins of an axis range to the image's
             largest derivative along it.
    """
    channels, height, width = planes.shape
    bins = np.empty((height, width, channels * (1 + AXES)), np.uint16)
    for channel in range(channels):
        for y in range(height):
            for x in range(width):
                bins[y, x, channel] = channel * COLOR_BINS + planes[channel, y, x] * COLOR_BINS // 256
    half = np.float32(TEXTURE_BINS // 2)
    along = np.empty((AXES, height, width), np.float32)
    for channel in range(channels):
        _derivatives(blurred[channel], along)
        for axis in range(AXES):
            column = channels + channel * AXES + axis
            first = channels * COLOR_BINS + (channel * AXES + axis) * TEXTURE_BINS
            largest = max(along[axis].max(), -along[axis].min())
            factor = np.float32(0.9999) * half / largest if largest > 0 else np.float32(0)
            for y in range(height):
                for x in range(width):
                    bins[y, x, column] = first + np.int32(half + along[axis, y, x] * factor)
    return bins


@kernel
def _derivatives(plane: np.ndarray, along: np.ndarray) -> None:
    """Fill `along` (4, H, W) with Scharr derivatives of a plane (H, W): to the right, down, and the two diagonals."""
    height, width = plane.shape
    diagonal = np.float32(np.sqrt(0.5))
    three, ten = np.float32(3), np.float32(10)
    for y in range(height):
        above, row, below = plane[max(y - 1, 0)], plane[y], plane[min(y + 1, height - 1)]
        for x in range(width):
            left, right = max(x - 1, 0), min(x + 1, width - 1)
            east = three * (above[right] - above[left] + below[right] - below[left]) + ten * (row[right] - row[left])
            south = three * (below[left] - above[left] + below[right] - above[right]) + ten * (below[x] - above[x])
            along[0, y, x] = east
            along[1, y, x] = south
            along[2, y, x] = diagonal * (east + south)
            along[3, y, x] = diagonal * (east - south)


@kernel
def describe(labels: np.ndarray, bins: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Size, box and histograms of N regions, with room for the N - 1 merged ones: R = 2 N - 1 rows.

    labels (H, W) int32, bins (H, W, B) uint16 -> sizes (R,) int32 in pixels, boxes (R, 4) int32 xyxy,
    shares (R, 105 C) int32: the histograms, colour first, each of which adds up to _WHOLE
    """
    height, width = labels.shape
    count = labels.max() + 1
    rows = 2 * count - 1
    sizes = np.zeros(rows, np.int32)
    boxes = np.zeros((rows, 4), np.int32)
    boxes[:, :2] = max(height, width)
    shares = np.zeros((rows, channels * (COLOR_BINS + AXES * TEXTURE_BINS)), np.int32)
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            sizes[label] += 1
            box = boxes[label]
            box[0] = min(box[0], x)
            box[1] = min(box[1], y)
            box[2] = max(box[2], x + 1)
            box[3] = max(box[3], y + 1)
            histogram = shares[label]
            for column in range(bins.shape[2]):
                histogram[bins[y, x, column]] += 1
    colors = channels * COLOR_BINS
    for label in range(count):
        pixels = sizes[label] * channels
        for index in range(shares.shape[1]):
            counted = pixels if index < colors else pixels * AXES
            shares[label, index] = np.int64(shares[label, index]) * _WHOLE // counted
    return sizes, boxes, shares


@kernel
def neighbours(labels: np.ndarray) -> np.ndarray:
    """All pairs of regions that share a border, (E, 2) int32, the smaller number first."""
    height, width = labels.shape
    count = np.int64(labels.max() + 1)
    pairs = np.empty((3 * count, 2), np.int32)  # a planar graph has fewer than 3 N edges
    slots = 16
    while slots < 8 * count:
        slots *= 2
    table = np.full(slots, -1, np.int64)
    count_pairs = 0
    for y in range(height):
        for x in range(width):
            for other in (labels[y, min(x + 1, width - 1)], labels[min(y + 1, height - 1), x]):
                if other != labels[y, x]:
                    a, b = min(labels[y, x], other), max(labels[y, x], other)
                    key = a * count + b
                    slot = (key * 0x9E3779B1 >> 12) & (slots - 1)
                    while table[slot] != key and table[slot] != -1:
                        slot = (slot + 1) & (slots - 1)
                    if table[slot] == -1:
                        table[slot] = key
                        pairs[count_pairs, 0], pairs[count_pairs, 1] = a, b
                        count_pairs += 1
    return pairs[:count_pairs]


@kernel
def group(
    pairs: np.ndarray,
    sizes: np.ndarray,
    boxes: np.ndarray,
    shares: np.ndarray,
    colors: int,
    strategy: tuple[bool, bool, bool, bool],
) -> None:
    """Merge the most similar neighbours until one region is left, and fill in the rows of the merged regions.

    pairs     (E, 2), neighbours among the first N rows
    sizes, boxes, shares  as `describe` returns them
    colors    the number of colour bins in a histogram
    strategy  which similarities are summed: colour, texture, size, fill
    """
    rows = len(sizes)
    area = sizes[: (rows + 1) // 2].sum()
    alive = np.ones(rows, np.bool_)
    merged_into = np.arange(rows)  # itself while alive
    seen = np.full(rows, -1)  # the last merged region that has this region as its neighbour
    # A region's neighbours are a linked list of half-edges: 2 p leads from pair p's first region to its second, 2 p + 1
    # back.
    target = np.empty(2 * len(pairs), np.int32)
    following = np.full(2 * len(pairs), -1, np.int32)
    first, last = np.full(rows, -1, np.int32), np.full(rows, -1, np.int32)
    heap = [(0.0, np.int64(0), np.int64(0)) for _ in range(0)]
    for pair in range(len(pairs)):
        a, b = np.int64(pairs[pair, 0]), np.int64(pairs[pair, 1])
        heap.append((-similarity(a, b, sizes, boxes, shares, colors, area, strategy), a, b))
        for half, start, end in ((2 * pair, a, b), (2 * pair + 1, b, a)):
            target[half] = end
            if first[start] < 0:
                first[start] = half
            else:
                following[last[start]] = half
            last[start] = half
    heapify(heap)
    new = (rows + 1) // 2
    while new < rows:
        _, a, b = heappop(heap)
        if not (alive[a] and alive[b]):
            continue
        alive[a] = alive[b] = False
        merged_into[a] = merged_into[b] = new
        _merge(a, b, new, sizes, boxes, shares, strategy[0] or strategy[1])
        end = -1
        for old in (a, b):
            half = first[old]
            while half >= 0:
                onward = following[half]
                other = np.int64(target[half])
                while not alive[other] and other != new:
                    other = merged_into[other]
                if other != new and seen[other] != new:
                    seen[other] = new
                    target[half] = other
                    if end < 0:
                        first[new] = half
                    else:
                        following[end] = half
                    end = half
                    following[half] = -1
                    likeness = similarity(np.int64(new), other, sizes, boxes, shares, colors, area, strategy)
                    heappush(heap, (-likeness, np.int64(new), other))
                half = onward
        new += 1


@kernel
def similarity(
    a: int,
    b: int,
    sizes: np.ndarray,
    boxes: np.ndarray,
    shares: np.ndarray,
    colors: int,
    area: int,
    strategy: tuple[bool, bool, bool, bool],
) -> float:
    """The sum of the strategy's similarities, each 0..1 (equations 2 to 6)."""
    by_color, by_texture, by_size, by_fill = strategy
    total = 0.0
    if by_color:
        total += _intersection(shares[a, :colors], shares[b, :colors])
    if by_texture:
        total += _intersection(shares[a, colors:], shares[b, colors:])
    size = sizes[a] + sizes[b]
    if by_size:
        total += 1 - size / area
    if by_fill:
        width = max(boxes[a, 2], boxes[b, 2]) - min(boxes[a, 0], boxes[b, 0])
        height = max(boxes[a, 3], boxes[b, 3]) - min(boxes[a, 1], boxes[b, 1])
        total += 1 - (width * height - size) / area
    return total


@kernel
def _intersection(a: np.ndarray, b: np.ndarray) -> float:
    shared = np.int32(0)
    for index in range(len(a)):
        shared += min(a[index], b[index])
    return shared / _WHOLE


@kernel
def _merge(
    a: int, b: int, new: int, sizes: np.ndarray, boxes: np.ndarray, shares: np.ndarray, histograms: bool
) -> None:
    sizes[new] = sizes[a] + sizes[b]
    for side in range(2):
        boxes[new, side] = min(boxes[a, side], boxes[b, side])
        boxes[new, 2 + side] = max(boxes[a, 2 + side], boxes[b, 2 + side])
    if histograms:
        weight = sizes[a] / sizes[new]
        of_a, of_b, mean = shares[a], shares[b], shares[new]
        for index in range(len(mean)):
            mean[index] = np.int32(weight * of_a[index] + (1 - weight) * of_b[index])
