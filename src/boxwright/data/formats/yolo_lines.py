"""The lines of YOLO label files: which numbers are a box, which a polygon, and which something else.

A line is `class cx cy width height`, relative to the upright image's width and height, or a polygon
`class x1 y1 x2 y2 …`. Detectors, trackers and pose tools append columns to a box, and a line of 6 or 10 numbers can
then be read in both ways. So all lines of a split that have equally many numbers are judged together.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

Box = tuple[float, float, float, float]

_EXPECTED = "expected `class cx cy width height` or a polygon"

_LARGE = 2.0
"""Boxes and polygons may reach outside the image, but numbers from here on are no shares of it."""

_LONGEST = 1_000_000
"""Characters of a line: a polygon of 25,000 points."""

_ENOUGH = 10
"""So many whole numbers where a track id or a visibility would be are no coincidence."""


class Line(NamedTuple):
    """A line before it is known what its numbers mean.

    text      as written, cut off; "" if it has four numbers
    index     of the class
    count     of numbers after it
    first     four of them: cx, cy, width, height if the line has a box
    outline   xyxy around all of them as points; None if they cannot be a polygon
    extra     what the numbers after the first four may be; "" if of no known kind
    evidence  of `extra`: whole numbers that speak for it, `_ENOUGH` if a polygon cannot have these numbers; of a
              confidence, 1 if it fits better at the end of the line than before the box, -1 if worse
    """

    image: int
    file: str
    number: int
    text: str
    index: int
    count: int
    first: Box
    outline: Box | None
    extra: str
    evidence: int


class Unread(NamedTuple):
    """Why a line has no box, and how to mend it."""

    reason: str
    mend: str = "mend or remove it"


def parse(text: str, image: int, file: str, number: int) -> Line | Unread:
    """A line that begins with a class index and four numbers."""
    if len(text) > _LONGEST:
        return _unread(text, f", {len(text):,} characters long; at most {_LONGEST:,} are read")
    try:
        index, *numbers = map(float, text.split())
    except ValueError:
        return _unread(text, ": numbers are separated by blanks, not by commas" if "," in text else "")
    if not index.is_integer() or index < 0 or len(numbers) < 4:
        return _unread(text)
    cx, cy, width, height, *rest = numbers
    first = (cx, cy, width, height)
    if not rest:
        return Line(image, file, number, "", int(index), 4, first, None, "", 0)
    outline = None
    if len(numbers) >= 6 and len(numbers) % 2 == 0 and not any(map(_is_large, numbers)):
        xs, ys = numbers[::2], numbers[1::2]
        finite = all(map(math.isfinite, numbers))
        outline = (min(xs), min(ys), max(xs), max(ys)) if finite else (math.nan, math.nan, math.nan, math.nan)
    extra, evidence = _extra(rest) if len(rest) > 1 else _confidence(numbers)
    return Line(image, file, number, text.strip()[:80], int(index), len(numbers), first, outline, extra, evidence)


class Columns:
    """What the columns of a split's lines mean.

    keypoints  whether the dataset says that every line is a box and its key points
    unused     for each number of columns that are certainly a box and something else: the lines that have them
    """

    def __init__(self, lines: Sequence[Line], keypoints: bool) -> None:
        groups: defaultdict[int, list[Line]] = defaultdict(list)
        for line in lines:
            groups[line.count].append(line)
        self._polygons = any(line.outline and not line.extra for line in lines)
        self._no_polygons = {count for count, group in groups.items() if any(not line.outline for line in group)}
        self.unused = (
            [] if keypoints else [groups[count] for count in sorted(groups) if self._is_extended(groups[count])]
        )
        self._boxes = set(groups) if keypoints else {4, *(group[0].count for group in self.unused)}
        boxes = [line for line in lines if line.count in self._boxes]
        large = [line for line in boxes if any(map(_is_large, line.first))]
        self._all_large = 2 * len(large) > len(boxes)
        values = [value for line in large for value in line.first if math.isfinite(value)]
        self._pixels = all(map(float.is_integer, values)) or max(values) > 100

    def _is_extended(self, group: list[Line]) -> bool:
        if not all(line.extra for line in group):
            return False
        evidence = sum(line.evidence for line in group)
        if group[0].count == 5:  # beside polygons, perhaps one that lost a number
            return not self._polygons and evidence >= 0
        return evidence >= _ENOUGH

    def box(self, line: Line) -> Box | Unread:
        """The line's box, xyxy relative to the image's size."""
        if line.count in self._boxes:
            if self._all_large or any(map(_is_large, line.first)):
                return self._not_shares(line)
            cx, cy, width, height = line.first
            return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2
        doubtful = line.extra and (not self._polygons or line.count in self._no_polygons)
        if line.outline and not doubtful:
            return line.outline
        return _unread(line.text, _likely_cause(line))

    def _not_shares(self, line: Line) -> Unread:
        text = line.text or " ".join(f"{value:g}" for value in (line.index, *line.first))
        unit = "pixels" if self._pixels else "per cent of the image, or pixels"
        mend = "divide pixels by the image's width and height" + ("" if self._pixels else ", per cent by 100")
        return Unread(f"expected shares of the image, 0 to 1, got `{text}`: such numbers look like {unit}", mend)


def _unread(text: str, cause: str = "") -> Unread:
    return Unread(f"{_EXPECTED}, got `{text[:1000].strip()[:80]}`{cause}")


def _is_large(value: float) -> bool:
    return _LARGE <= value < math.inf


def _extra(rest: Sequence[float]) -> tuple[str, int]:
    """What the numbers after a box may be, and how much speaks for it."""
    if len(rest) == 2 and 0 <= rest[0] <= 1 and rest[1] >= 0 and rest[1].is_integer():
        return "a confidence and a track id", _ENOUGH if rest[1] > 1 else 1
    visibilities = rest[2::3]
    if len(rest) % 3 == 0 and all(value in (0, 1, 2) for value in visibilities):
        return "key points with their visibility", _ENOUGH if 2 in visibilities else len(visibilities)
    return "", 0


def _confidence(numbers: Sequence[float]) -> tuple[str, int]:
    """As `_extra`, for a box and one more number."""
    if not 0 <= numbers[-1] <= 1:
        return "", 0
    return "a confidence", _is_inside(numbers[:-1]) - _is_inside(numbers[1:])


def _is_inside(box: Sequence[float]) -> bool:
    """Whether cx, cy, width, height lie in the image, but for a slip."""
    cx, cy, width, height = box
    return all(side / 2 - 0.02 <= centre <= 1.02 - side / 2 for centre, side in ((cx, width), (cy, height)))


def _likely_cause(line: Line) -> str:
    if line.count == 5 and line.extra:
        return ": a confidence before the box?" if line.evidence < 0 else ": a confidence after the box, or before it?"
    if line.extra:
        return f": {line.extra} after the box?"
    if line.count == 5:
        return ": a confidence, an angle or a track id after the box?"
    if line.count % 2 and _is_large(line.first[0]) and line.first[0].is_integer():
        return ": an instance id before a polygon?"
    if line.count % 2:
        return ": an odd number of coordinates"
    return ": pixels? a polygon's numbers are shares of the image, 0 to 1"
