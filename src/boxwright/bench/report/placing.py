"""Greedy placement of labels beside points, so that they cover neither a point nor each other where there is room.

Points are few and labels short, so trying some positions around each is enough; Christensen et al. 1995 ("An Empirical
Study of Algorithms for Point-Feature Label Placement") compare this with slower algorithms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple


class Box(NamedTuple):
    """Left, bottom, right, top, in any unit."""

    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def around(cls, x: float, y: float, width: float, height: float) -> Box:
        return cls(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    def shared(self, other: Box) -> float:
        """The area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, wide) * max(0.0, high)

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.top - self.bottom)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """The point of the box that is nearest to this one."""
        return min(max(x, self.left), self.right), min(max(y, self.bottom), self.top)

    @property
    def center(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.bottom + self.top) / 2


class Label(NamedTuple):
    """The size of a text, and the point that it belongs to."""

    x: float
    y: float
    width: float
    height: float


def covered(line: Iterable[tuple[float, float]]) -> list[Box]:
    """The boxes, 2 wide, that a line of horizontal and vertical pieces covers from corner to corner."""
    return [Box(min(x, u) - 1, min(y, v) - 1, max(x, u) + 1, max(y, v) + 1) for (x, y), (u, v) in pairwise(line)]


_DIRECTIONS = ((1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
"""Right, above, left, below, then the corners."""
_RINGS = (1.0, 1.4, 2.0, 3.0, 4.0)


def place(labels: Sequence[Label], marks: Iterable[Box], lines: Iterable[Box], area: Box, radius: float) -> list[Box]:
    """The box of each label.

    marks   must not be covered: the points themselves
    lines   should not be covered: error bars, steps
    area    that labels must stay inside
    radius  distance from a point's center to its label
    """
    hard, soft, placed = list(marks), list(lines), []
    for label in labels:
        spots = [_spot(label, direction, ring * radius) for ring in _RINGS for direction in _DIRECTIONS]
        best = min(spots, key=lambda spot: _cost(spot, hard, soft, area, label, radius))
        placed.append(best)
        hard.append(best)
    return placed


def _spot(label: Label, direction: tuple[int, int], distance: float) -> Box:
    across, up = direction
    distance *= math.sqrt(0.5) if across and up else 1.0
    x = label.x + across * (distance + label.width / 2)
    y = label.y + up * (distance + label.height / 2)
    return Box.around(x, y, label.width, label.height)


def _cost(spot: Box, hard: Sequence[Box], soft: Sequence[Box], area: Box, label: Label, radius: float) -> float:
    """Covering a mark or leaving the area costs much more than crossing a line, and that more than distance."""
    hidden = sum(spot.shared(box) for box in hard) / spot.area
    crossed = sum(spot.shared(box) > 0 for box in soft)
    outside = 1 - spot.shared(area) / spot.area
    x, y = spot.center
    away = math.hypot(x - label.x, y - label.y) / radius
    return 1000 * (hidden + outside) + 3 * crossed + away
