"""The report of a race as one HTML page: what it says is the race's, how it says it is report.html's."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from boxwright.bench.report.disagreements import Disagreement
from boxwright.bench.report.points import COLORS, IN_THE_DARK
from boxwright.bench.result import Entry, Race, Speed, Standing
from boxwright.bench.verdict import fastest
from boxwright.metrics.compare import Interval
from boxwright.units import digits, fraction


class Drawing(NamedTuple):
    """An `<svg>` for a desktop's width, and one for a phone's."""

    wide: str
    narrow: str


class Cell(NamedTuple):
    """A row of the table: an entry, its place in the race, its fastest runtime, and what the verdict says of it."""

    place: int
    entry: Entry
    runtime: str
    speed: Speed | None
    marks: tuple[str, ...]


def render(race: Race, drawings: Mapping[str, Drawing], disagreements: Sequence[Disagreement]) -> str:
    """The page; without drawings it says how to have them."""
    cells = ranked(race)
    title, sentence = headline(race)
    entries = [cell.entry for cell in cells]
    known = [entry.quality for entry in entries if entry.quality]
    settings = dict(race.settings)
    machine = settings.pop("machine", None)
    return _environment().get_template("report.html").render(
        race=race, verdict=race.verdict, cells=cells, title=title, sentence=sentence, drawings=drawings,
        disagreements=disagreements, settings=settings,
        machine=machine if isinstance(machine, Mapping) else {"machine": machine} if machine else {},
        chosen=next((cell for cell in cells if {"winner", "nearest"} & set(cell.marks)), None),
        measured=[cell for cell in cells if cell.entry.quality],
        timed=[cell for cell in cells if cell.speed],
        gone=[cell for cell in cells if cell.entry.state in ("stopped", "failed") or cell.entry.failures],
        runtimes=list(dict.fromkeys(name for one in entries if one.state != "guest" for name in one.speed)),
        colors=COLORS, dark_colors=IN_THE_DARK,
        sizes=list(dict.fromkeys(size for one in known for size in one.sizes)),
        classes=list(dict.fromkeys(name for one in known for name in one.classes)),
        objects={name: of_class.objects for one in known for name, of_class in one.classes.items()},
        ranges={"sizes": _range(ap for one in known for ap in (one.ap.value, *one.sizes.values())),
                "classes": _range(of_class.ap for one in known for of_class in one.classes.values())},
        stages=list(dict.fromkeys(stage for cell in cells if cell.speed for stage in cell.speed.stages)),
        keys=list(dict.fromkeys(key for one in race.differences.values() for key in one)),
        halving=halving(race),
    )  # fmt: skip


def ranked(race: Race) -> list[Cell]:
    """Best AP on test first; of those without one the finished, the stopped (who came furthest first), the failed."""
    verdict, last = race.verdict, {one.name: one.ap for rung in race.rungs for one in rung.standings}
    cells = []
    for place, entry in enumerate(race.entries):
        runtime, speed = fastest(entry) or ("", None)
        said = {"winner": entry.name == verdict.winner, "nearest": entry.name == verdict.nearest,
                "runner-up": entry.name == verdict.runner_up, "tied": entry.name in verdict.tied,
                "frontier": entry.name in verdict.frontier}  # fmt: skip
        cells.append(Cell(place, entry, runtime, speed, tuple(mark for mark, is_so in said.items() if is_so)))

    def rank(cell: Cell) -> tuple[float, ...]:
        entry, known = cell.entry, cell.entry.quality.ap.value if cell.entry.quality else math.nan
        if math.isfinite(known):
            return 0, -known
        state, ap = ("finished", "guest", "stopped", "failed").index(entry.state), last.get(entry.name, math.nan)
        return 1 + state, -entry.epochs, -ap if math.isfinite(ap) else math.inf

    return sorted(cells, key=rank)


def headline(race: Race) -> tuple[str, str]:
    """Who won, in a few words and in a sentence with the numbers."""
    verdict, by_name = race.verdict, {entry.name: entry for entry in race.entries}
    if verdict.winner:
        return f"{verdict.winner} wins", f"{numbers(by_name[verdict.winner])}."
    if verdict.nearest:
        nearest = by_name[verdict.nearest]
        return "No cell meets the constraints", f"The nearest is {verdict.nearest}: {numbers(nearest)}."
    return "No cell came to its end", ""


def numbers(entry: Entry) -> str:
    """How good and how fast, in the midst of a sentence."""
    quality, found, parts = entry.quality, fastest(entry), []
    if quality:
        parts = [f"AP {fraction(quality.ap.value)} {between(quality.ap)} on the test images"]
    if found:
        p50, p95 = milliseconds(found[1].p50.value), milliseconds(found[1].p95.value)
        parts.append(f"{p50} ms an image (p50), p95 {p95} ms")
    return ", ".join(parts) or "nothing was measured"


def halving(race: Race) -> list[tuple[str, list[Standing | None]]]:
    """A row per cell: its standing at each rung, None where it was out; who came furthest first, then by AP."""
    rows = {one.name: [None] * len(race.rungs) for rung in race.rungs for one in rung.standings}
    found: dict[str, list[Standing | None]] = {name: list(row) for name, row in rows.items()}
    for place, rung in enumerate(race.rungs):
        for one in rung.standings:
            found[one.name][place] = one

    def rank(row: tuple[str, list[Standing | None]]) -> tuple[float, ...]:
        there = [one for one in row[1] if one]
        return -len(there), -there[-1].kept, -there[-1].ap if math.isfinite(there[-1].ap) else math.inf

    return sorted(found.items(), key=rank)


def scaled(value: float | None, scale: float) -> str:
    """In units of `scale`; a dash for what is not known."""
    return "–" if value is None else digits(value / scale)


def milliseconds(value: float | None) -> str:
    return scaled(value, 1e-3)


def between(interval: Interval, scale: float | None = None) -> str:
    """The interval in brackets; fractions without a scale."""
    low, high = (fraction(one) if scale is None else scaled(one, scale) for one in interval[1:])
    return f"[{low}, {high}]" if math.isfinite(interval.low + interval.high) else ""


def written(value: Any) -> str:
    """A setting as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {written(one)}" for key, one in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(map(written, value)) or "–"
    return "–" if value is None or value == "" else str(value)


def breakable(name: str) -> Markup:
    """A long name, that may be broken behind its joints."""
    return Markup(re.sub(r"(?<=[-_/])(?=\w)", "<wbr>", str(escape(name))))


def heat(value: float, between: tuple[float, float]) -> str:
    """How dark a cell is, 0..1, from the least of its table to the most."""
    low, high = between
    return f"{(value - low) / (high - low or 1.0):.2f}" if math.isfinite(value) else "0"


def best(curve: Mapping[int, float]) -> tuple[int, float] | None:
    """The epoch whose number is best, and that; None where none is known."""
    known = [(value, -epoch) for epoch, value in curve.items() if math.isfinite(value)]
    return (-max(known)[1], max(known)[0]) if known else None


def ratio(one: float, other: float) -> float:
    """How many times the other one is; nan where that cannot be said."""
    return one / other if other else math.nan


def _range(values: Iterable[float]) -> tuple[float, float]:
    known = [value for value in values if math.isfinite(value)] or [0.0]
    return min(known), max(known)


def _environment() -> Environment:
    """Names come from files and users: whatever is put in is text, unless the template itself says that it is HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    filters = {"ms": milliseconds, "scaled": scaled, "between": between, "fraction": fraction, "written": written,
               "breakable": breakable, "heat": heat, "best": best, "ratio": ratio}  # fmt: skip
    environment.filters |= filters
    return environment
