"""The files of a race's result: a page that needs no other file, the plot, and the numbers for other programs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from boxwright.bench.report.disagreements import Disagreement
from boxwright.bench.report.page import Drawing, numbers, ranked, render
from boxwright.bench.report.svg import Link, inline
from boxwright.bench.result import Entry, Race
from boxwright.bench.verdict import UNKNOWN
from boxwright.files import write_atomically
from boxwright.measure.speed import Quartiles
from boxwright.units import Interval, printable


def write(race: Race, folder: str | Path, disagreements: Sequence[Disagreement] = ()) -> list[Path]:
    """report.html, results.json, results.csv and, where matplotlib is installed, frontier.png and .svg; their paths.

    disagreements  of the leader and the runner-up, from `disagreements.show`
    """
    folder = Path(folder)
    text = json.dumps(plain(asdict(race)), indent=1, allow_nan=False) + "\n"
    race, disagreements = _printable(race), _printable(disagreements)
    # First, so that the numbers are there even if drawing fails.
    written = [write_atomically(folder / "results.json", text), write_atomically(folder / "results.csv", table(race))]
    images, drawings = _draw(race)
    files = {"report.html": render(race, drawings, disagreements), **images}
    return [*(write_atomically(folder / name, content) for name, content in files.items()), *written]


def _printable(value: Any) -> Any:
    """With escapes for control characters in all names and texts: neither HTML nor SVG has them."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_printable(key): _printable(entry) for key, entry in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _printable(getattr(value, field.name)) for field in fields(value)})
    if isinstance(value, (list, tuple)):
        entries = map(_printable, value)
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)  # a named tuple, or another
    return value


def plain(value: Any) -> Any:
    """Values for JSON: nan and infinity become null, and the numbers of an interval get names."""
    if isinstance(value, (Interval, Quartiles)):
        return plain(value._asdict())
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def table(race: Race) -> str:
    """CSV, a row per cell in the report's order; unknown values are empty."""
    rows = [_row(race, row.entry, row.marks) for row in ranked(race)]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _row(race: Race, entry: Entry, marks: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "cell": entry.name, "detector": entry.detector, "backbone": entry.backbone, "size_px": entry.size,
        "proposals": entry.proposals, "state": entry.state, "verdict": " ".join(marks), "reason": entry.reason,
        "epochs": entry.epochs, "training_s": entry.seconds,
    }  # fmt: skip
    quality = entry.quality
    for name in ("ap", "ap50"):
        row |= _columns(name, "", getattr(quality, name) if quality else UNKNOWN)
    for name in ("to_best", "to_leader"):
        row |= _columns(f"ap_{name}", "", getattr(race.verdict, name).get(entry.name, UNKNOWN))
    row |= {f"ap_{size}": ap for size, ap in quality.sizes.items()} if quality else {}
    for runtime in dict.fromkeys(name for other in race.entries for name in other.speed):
        speed = entry.speed.get(runtime)
        for name in ("p50", "p95"):
            row |= _columns(f"{runtime}_{name}", "_ms", getattr(speed, name) if speed else UNKNOWN, 1e3)
        row[f"{runtime}_throughput_per_s"] = speed.throughput if speed else math.nan
        row |= {f"{runtime}_{stage}_ms": 1e3 * time for stage, time in speed.stages.items()} if speed else {}
    scales = {"memory": ("mb", 1e6), "device_memory": ("mb", 1e6), "parameters": ("m", 1e6), "flops": ("g", 1e9),
              "file": ("mb", 1e6)}  # fmt: skip
    for name, (unit, scale) in scales.items():
        value = getattr(entry, name)
        row[f"{name}_{unit}"] = None if value is None else value / scale
    row["first_boxes_s"] = entry.first
    return {column: "" if isinstance(value, float) and math.isnan(value) else value for column, value in row.items()}


def _columns(name: str, unit: str, interval: Interval, scale: float = 1.0) -> dict[str, float]:
    return {f"{name}{end}{unit}": scale * value for end, value in zip(("", "_low", "_high"), interval, strict=True)}


def _draw(race: Race) -> tuple[dict[str, bytes], dict[str, Drawing]]:
    """The plot as files, and the drawings of the page; none without matplotlib."""
    try:
        from boxwright.bench.report import plots
    except ImportError:
        return {}, {}
    frontier = plots.draw_frontier(race)
    files = {f"frontier.{kind}": plots.encode(frontier, kind) for kind in ("png", "svg")}
    figures: dict[str, tuple[Callable[..., Any], str, bool]] = {
        "frontier": (plots.draw_frontier, _describe(race), True),
        "stages": (plots.draw_stages, "Bars: the time of each stage; in numbers below.",
                   any(entry.speed for entry in race.entries)),
        "memory": (plots.draw_memory, "Bars: memory; the numbers are in the table of all cells.",
                   any(entry.memory or entry.device_memory for entry in race.entries)),
        "learning": (plots.draw_learning, "Curves: AP on val and loss over the epochs; in numbers below.",
                     any(entry.learning for entry in race.entries)),
    }  # fmt: skip
    drawings = {}
    for name, (draw, alt, has_data) in figures.items():
        if has_data:
            links = _links(race) if name == "frontier" else {}
            svgs = {kind: plots.svg_text(draw(race, narrow=kind == "narrow")) for kind in ("wide", "narrow")}
            drawings[name] = Drawing(*(inline(svg, f"{name}-{kind}", alt, links, kind) for kind, svg in svgs.items()))
    return files, drawings


def _describe(race: Race) -> str:
    """The frontier plot in words, for screen readers."""
    by_name = {entry.name: entry for entry in race.entries}
    best = "; ".join(f"{name}, {numbers(by_name[name])}" for name in race.verdict.frontier)
    role = "The winner is" if race.verdict.winner else "Too little evidence for a winner; the leader is"
    chosen = f" {role} {race.verdict.leader}." if race.verdict.leader else ""
    return f"Speed against accuracy of {len(race.entries)} cells. On the frontier, the fastest first: {best}.{chosen}"


def _links(race: Race) -> dict[str, Link]:
    return {
        f"cell-{index}": Link(f"#row-{index}", f"{entry.name}: {numbers(entry)}", f"card-{index}")
        for index, entry in enumerate(race.entries)
    }
