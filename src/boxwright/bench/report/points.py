"""The position of each cell in the plot of speed and accuracy, its style and its label."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import NamedTuple

from boxwright.bench.result import Entry, Race
from boxwright.bench.verdict import Constraint, fastest
from boxwright.units import Interval

INK, PAPER = "#1f2328", "#ffffff"
"""A page replaces them with its own two colours, for its dark mode."""
COLORS = ("#0072b2", "#cf5800", "#008f68", "#b45f9b", "#9a7400", "#6f7780", "#7a5cd6")
"""Close to those of Okabe and Ito 2008 ("Color Universal Design"), each dark enough to stand out on white."""
IN_THE_DARK = ("#56a8e0", "#f08a4b", "#2fc49a", "#db94c4", "#d4aa3c", "#a4adb8", "#ab98f5")
"""Their replacements in dark mode, in the same order."""
_MARKERS = "osD^vPXphd<>"
EXTERNAL = "*"


class Point(NamedTuple):
    """A cell, its index among the race's entries, its p50 in milliseconds and its AP."""

    index: int
    entry: Entry
    ms: Interval
    ap: Interval


class Style(NamedTuple):
    """The colour stands for the backbone, the marker for the meta-architecture; external models share one style."""

    color: str
    marker: str


def measured(race: Race) -> list[Point]:
    """The cells whose AP and time are known, the fastest first: the order in which a keyboard visits them.

    A cell that was stopped and not measured on test has its AP on val and its time at its last rung.
    """
    last = {standing.name: standing for rung in race.rungs for standing in rung.standings}
    known = []
    for index, entry in enumerate(race.entries):
        speed, standing = fastest(entry), last.get(entry.name)
        if entry.quality and speed:
            known.append(Point(index, entry, Interval(*(1e3 * end for end in speed[1].p50)), entry.quality.ap))
        elif entry.state == "stopped" and standing:
            ms = 1e3 * standing.seconds
            known.append(Point(index, entry, Interval(ms, ms, ms), Interval(*[standing.ap] * 3)))
    known = [point for point in known if math.isfinite(point.ms.value + point.ap.value) and point.ms.value > 0]
    return sorted(known, key=lambda point: point.ms.value)


def bounds(race: Race, known: Sequence[Point]) -> dict[str, float]:
    """The constraints on p50 ("ms") and AP ("ap") that are near the points: a far one would squeeze them."""
    near: dict[str, float] = {}
    for constraint in map(Constraint.parse, race.constraints):
        if constraint.label is None and constraint.quantity in ("p50", "ap"):
            axis, scale = ("ms", 1e3) if constraint.quantity == "p50" else ("ap", 1.0)
            values = [getattr(point, axis).value for point in known]
            if min(values) / 2 <= scale * constraint.bound <= 2 * max(values):
                near[axis] = scale * constraint.bound
    return near


def corners(race: Race, known: Sequence[Point], right: float, bottom: float) -> list[tuple[float, float]]:
    """The frontier as a line, the best AP within a time: up at each of its cells, then on to the right."""
    line, height = [], bottom
    for x, y in [(point.ms.value, point.ap.value) for point in known if point.entry.name in race.verdict.frontier]:
        line += [(x, height), (x, y)]
        height = y
    return [*line, (right, height)] if line else []


def span(values: Iterable[float]) -> tuple[float, float]:
    """The least and the greatest of the known values; zeros where none is known."""
    known = [value for value in values if math.isfinite(value)] or [0.0]
    return min(known), max(known)


def styles(entries: Iterable[Entry]) -> dict[str, Style]:
    """By the name of each cell."""
    entries = list(entries)
    cells = [entry for entry in entries if entry.state != "external"]
    colors = dict(zip(dict.fromkeys(entry.backbone for entry in cells), cycle(COLORS), strict=False))
    markers = dict(zip(dict.fromkeys(entry.detector for entry in cells), cycle(_MARKERS), strict=False))
    external = {entry.name: Style(INK, EXTERNAL) for entry in entries}
    return external | {entry.name: Style(colors[entry.backbone], markers[entry.detector]) for entry in cells}


def label(race: Race, entry: Entry) -> str:
    """The text beside a point: image size, number of proposals where they differ, or an external model's name."""
    if entry.state == "external":
        text = entry.name if len(entry.name) <= 24 else f"{entry.name[:23]}…"
    else:
        counts: dict[str, set[int | None]] = {}
        for other in race.entries:
            counts.setdefault(other.detector, set()).add(other.proposals)
        several = len(counts[entry.detector]) > 1 and entry.proposals is not None
        text = f"{entry.size}, {entry.proposals} proposals" if several else f"{entry.size}"
    verdict = race.verdict
    marks = {verdict.leader: " winner" if verdict.winner else " leader", verdict.nearest: " nearest"}
    return text + marks.get(entry.name, "")


def two_lines(entry: Entry) -> str:
    """A cell's name in half its width, and its state unless it was trained to the end."""
    state = f", {entry.state}" if entry.state in ("stopped", "failed") else ""
    rest = entry.name.removeprefix(f"{entry.detector}-")
    return f"{entry.name}{state}" if rest == entry.name else f"{entry.detector}{state}\n{rest}"


def chosen(race: Race) -> tuple[str | None, ...]:
    """The names of the cells to highlight: the leader, or the nearest."""
    return race.verdict.leader, race.verdict.nearest
