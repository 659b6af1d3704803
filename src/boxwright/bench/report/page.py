"""The report of a race as one HTML page: the values are computed here, the page is laid out in report.html."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from boxwright.bench.report.disagreements import Disagreement
from boxwright.bench.report.points import COLORS, IN_THE_DARK, span
from boxwright.bench.result import Entry, Race, Speed, Standing
from boxwright.bench.verdict import fastest, write_difference
from boxwright.units import Interval, between, digits, fraction


class Drawing(NamedTuple):
    """An `<svg>` for a desktop's width, and one for a phone's."""

    wide: str
    narrow: str


class Row(NamedTuple):
    """A row of the table: an entry, its index in the race, its fastest runtime, and its marks by the verdict."""

    index: int
    entry: Entry
    runtime: str
    speed: Speed | None
    marks: tuple[str, ...]


class Reference(NamedTuple):
    """A cell that all others are compared with: its name, its role, and by cell the AP minus that of this one."""

    name: str
    role: str
    differences: Mapping[str, Interval]


def render(race: Race, drawings: Mapping[str, Drawing], disagreements: Sequence[Disagreement]) -> str:
    """The page; without drawings it explains how to get them."""
    rows = ranked(race)
    title, sentence = headline(race)
    entries = [row.entry for row in rows]
    qualities = [entry.quality for entry in entries if entry.quality]
    settings = dict(race.settings)
    machine = settings.pop("machine", None)
    return _environment().get_template("report.html").render(
        race=race, verdict=race.verdict, rows=rows, title=title, sentence=sentence, drawings=drawings,
        disagreements=disagreements, settings=settings,
        machine=machine if isinstance(machine, Mapping) else {"machine": machine} if machine else {},
        chosen=next((row for row in rows if {"winner", "leader", "nearest"} & set(row.marks)), None),
        measured=[row for row in rows if row.entry.quality],
        timed=[row for row in rows if row.speed],
        gone=[row for row in rows if row.entry.state in ("stopped", "failed") or row.entry.failures],
        runtimes=list(dict.fromkeys(name for entry in entries if entry.state != "external" for name in entry.speed)),
        references=references(race),
        colors=COLORS, dark_colors=IN_THE_DARK,
        sizes=list(dict.fromkeys(size for quality in qualities for size in quality.sizes)),
        classes=list(dict.fromkeys(name for quality in qualities for name in quality.classes)),
        objects={name: of_class.objects for quality in qualities for name, of_class in quality.classes.items()},
        ranges={"sizes": span(ap for quality in qualities for ap in (quality.ap.value, *quality.sizes.values())),
                "classes": span(of_class.ap for quality in qualities for of_class in quality.classes.values())},
        stages=list(dict.fromkeys(stage for row in rows if row.speed for stage in row.speed.stages)),
        keys=list(dict.fromkeys(key for of_cell in race.differences.values() for key in of_cell)),
        halving=halving(race),
    )  # fmt: skip


def ranked(race: Race) -> list[Row]:
    """Best AP on test first; of those without one the finished, the stopped (most epochs first), the failed."""
    verdict, last = race.verdict, {row.name: row.ap for rung in race.rungs for row in rung.standings}
    rows = []
    for index, entry in enumerate(race.entries):
        runtime, speed = fastest(entry) or ("", None)
        marks = {"winner": entry.name == verdict.winner,
                 "leader": entry.name == verdict.leader != verdict.winner, "nearest": entry.name == verdict.nearest,
                 "runner-up": entry.name == verdict.runner_up, "tied": entry.name in verdict.tied,
                 "frontier": entry.name in verdict.frontier}  # fmt: skip
        rows.append(Row(index, entry, runtime, speed, tuple(mark for mark, holds in marks.items() if holds)))

    def rank(row: Row) -> tuple[float, ...]:
        entry = row.entry
        if entry.quality and math.isfinite(entry.quality.ap.value):
            return 0, -entry.quality.ap.value
        state, ap = ("finished", "external", "stopped", "failed").index(entry.state), last.get(entry.name, math.nan)
        return 1 + state, -entry.epochs, -ap if math.isfinite(ap) else math.inf

    return sorted(rows, key=rank)


def headline(race: Race) -> tuple[str, str]:
    """The outcome, in a few words and in a sentence with the numbers; too little evidence comes before all else."""
    verdict, by_name = race.verdict, {entry.name: entry for entry in race.entries}
    if verdict.leader:
        title, sentence = f"{verdict.leader} wins", f"{numbers(by_name[verdict.leader])}."
    elif verdict.nearest:
        title = "No cell meets the constraints"
        sentence = f"The nearest is {verdict.nearest}: {numbers(by_name[verdict.nearest])}."
    else:
        return "No cell was trained to the end", ""
    if not verdict.too_little_evidence:
        return title, sentence
    outcome = f"{verdict.leader} comes first: {sentence}" if verdict.leader else f"{title}. {sentence}"
    return "Too little evidence for a winner", f"{', '.join(verdict.too_little_evidence)}. {outcome}"


def references(race: Race) -> list[Reference]:
    """The best cell, and the leader where that is another; none where no AP is known."""
    verdict = race.verdict
    chosen = [Reference(verdict.best, "the best", verdict.to_best)] if verdict.best else []
    if verdict.leader and verdict.leader != verdict.best:
        chosen.append(Reference(verdict.leader, "the winner" if verdict.winner else "the leader", verdict.to_leader))
    return chosen


def numbers(entry: Entry) -> str:
    """AP and times, for the middle of a sentence."""
    texts = []
    if quality := entry.quality:
        texts.append(f"AP {fraction(quality.ap.value)} {bracketed(quality.ap)} on the test images")
    if timed := fastest(entry):
        p50, p95 = milliseconds(timed[1].p50.value), milliseconds(timed[1].p95.value)
        texts.append(f"p50 {p50} ms, p95 {p95} ms")
    return ", ".join(texts) or "nothing was measured"


def halving(race: Race) -> list[tuple[str, list[Standing | None]]]:
    """A row per cell: its standing at each rung, None after it was stopped; most rungs first, then by AP."""
    rows: dict[str, list[Standing | None]] = {}
    for index, rung in enumerate(race.rungs):
        for standing in rung.standings:
            rows.setdefault(standing.name, [None] * len(race.rungs))[index] = standing

    def rank(row: tuple[str, list[Standing | None]]) -> tuple[float, ...]:
        known = [standing for standing in row[1] if standing]
        return -len(known), -known[-1].kept, -known[-1].ap if math.isfinite(known[-1].ap) else math.inf

    return sorted(rows.items(), key=rank)


def scaled(value: float | None, scale: float) -> str:
    """In units of `scale`; a dash where it is None or nan."""
    return "–" if value is None else digits(value / scale)


def milliseconds(value: float | None) -> str:
    return scaled(value, 1e-3)


def bracketed(interval: Interval, scale: float | None = None) -> str:
    """The ends of the interval; fractions without a scale."""
    return between(interval.low, interval.high, fraction if scale is None else lambda end: scaled(end, scale))


def readable(value: Any) -> str:
    """A setting for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {readable(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(map(readable, value)) or "–"
    return "–" if value is None or value == "" else str(value)


def breakable(name: str) -> Markup:
    """A long name, with places where a line may break."""
    return Markup(re.sub(r"(?<=[-_/])(?=\w)", "<wbr>", str(escape(name))))


def heat(value: float, limits: tuple[float, float]) -> str:
    """How dark a field is, 0..1, from the least of its table to the most."""
    low, high = limits
    return f"{(value - low) / (high - low or 1.0):.2f}" if math.isfinite(value) else "0"


def best(curve: Mapping[int, float]) -> tuple[int, float] | None:
    """The epoch whose value is best, and that value; None where none is known."""
    known = [(value, -epoch) for epoch, value in curve.items() if math.isfinite(value)]
    return (-max(known)[1], max(known)[0]) if known else None


def ratio(value: float, other: float) -> float:
    """nan where it is not defined."""
    return value / other if other else math.nan


def _environment() -> Environment:
    """Names come from files and users: every value is escaped, unless the template itself marks it as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "ms": milliseconds, "scaled": scaled, "bracketed": bracketed, "fraction": fraction, "readable": readable,
        "breakable": breakable, "heat": heat, "best": best, "ratio": ratio, "difference": write_difference,
    }  # fmt: skip
    return environment
