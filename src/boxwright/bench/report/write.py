"""What a race leaves behind: a page that needs nothing else, the plot, and the numbers for other programs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from boxwright.bench.report.disagreements import Disagreement
from boxwright.bench.report.page import Drawing, numbers, ranked, render
from boxwright.bench.report.svg import Link, inline
from boxwright.bench.result import Entry, Race
from boxwright.files import write_atomically
from boxwright.metrics.compare import Interval


def write(race: Race, folder: str | Path, disagreements: Sequence[Disagreement] = ()) -> list[Path]:
    """report.html, results.json, results.csv and, where matplotlib is, frontier.png and frontier.svg; their paths.

    disagreements  of winner and runner-up, from `images.show`
    """
    folder = Path(folder)
    texts = {
        "results.json": json.dumps(plain(asdict(race)), indent=1, allow_nan=False) + "\n",
        "results.csv": table(race),
    }
    # First, so that whatever else goes wrong the numbers are there.
    written = [write_atomically(folder / name, text) for name, text in texts.items()]
    images, drawings = _draw(race)
    files = {"report.html": render(race, drawings, disagreements), **images}
    return [*(write_atomically(folder / name, content) for name, content in files.items()), *written]


def plain(value: Any) -> Any:
    """As JSON has it: what is not known is null, and the numbers of an interval have names."""
    if isinstance(value, Interval):
        return plain(value._asdict())
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def table(race: Race) -> str:
    """CSV, a row per cell in the report's order; what is not known is empty."""
    rows = [_row(race, cell.entry, cell.marks) for cell in ranked(race)]
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
    unknown = Interval(math.nan, math.nan, math.nan)
    for name in ("ap", "ap50"):
        row |= _columns(name, "", getattr(quality, name) if quality else unknown)
    row |= {f"ap_{size}": ap for size, ap in quality.sizes.items()} if quality else {}
    for runtime in dict.fromkeys(name for one in race.entries for name in one.speed):
        speed = entry.speed.get(runtime)
        for name in ("p50", "p95"):
            row |= _columns(f"{runtime}_{name}", "_ms", getattr(speed, name) if speed else unknown, 1e3)
        row[f"{runtime}_throughput_per_s"] = speed.throughput if speed else math.nan
        row |= {f"{runtime}_{stage}_ms": 1e3 * time for stage, time in speed.stages.items()} if speed else {}
    scales = {"memory": ("mb", 1e6), "device_memory": ("mb", 1e6), "parameters": ("m", 1e6), "flops": ("g", 1e9),
              "file": ("mb", 1e6)}  # fmt: skip
    for name, (unit, scale) in scales.items():
        value = getattr(entry, name)
        row[f"{name}_{unit}"] = None if value is None else value / scale
    row["first_boxes_s"] = entry.first
    return {column: "" if isinstance(one, float) and math.isnan(one) else one for column, one in row.items()}


def _columns(name: str, unit: str, interval: Interval, scale: float = 1.0) -> dict[str, float]:
    return {f"{name}{end}{unit}": scale * one for end, one in zip(("", "_low", "_high"), interval, strict=True)}


def _draw(race: Race) -> tuple[dict[str, bytes], dict[str, Drawing]]:
    """The plot as files, and drawings for the page of what there is to be drawn; none without matplotlib."""
    try:
        from boxwright.bench.report import plots
    except ImportError:
        return {}, {}
    frontier = plots.draw_frontier(race)
    files = {f"frontier.{kind}": plots.encode(frontier, kind) for kind in ("png", "svg")}
    wanted: dict[str, tuple[Callable[..., Any], str, bool]] = {
        "frontier": (plots.draw_frontier, _describe(race), True),
        "stages": (plots.draw_stages, "Bars: the time of each stage; in numbers below.",
                   any(entry.speed for entry in race.entries)),
        "memory": (plots.draw_memory, "Bars: memory; the numbers are in the table of all cells.",
                   any(entry.memory or entry.device_memory for entry in race.entries)),
        "learning": (plots.draw_learning, "Curves: AP on val and loss over the epochs; in numbers below.",
                     any(entry.learning for entry in race.entries)),
    }  # fmt: skip
    drawings = {}
    for name, (draw, alt, is_there) in wanted.items():
        if is_there:
            links = _links(race) if name == "frontier" else {}
            wide, narrow = (
                inline(plots.svg_text(draw(race, narrow=kind == "narrow")), f"{name}-{kind}", alt, links, kind)
                for kind in ("wide", "narrow")
            )
            drawings[name] = Drawing(wide, narrow)
    return files, drawings


def _describe(race: Race) -> str:
    """The plot in words."""
    by_name = {entry.name: entry for entry in race.entries}
    best = "; ".join(f"{name}, {numbers(by_name[name])}" for name in race.verdict.frontier)
    chosen = f" The winner is {race.verdict.winner}." if race.verdict.winner else ""
    return f"Speed against accuracy of {len(race.entries)} cells. On the frontier, the fastest first: {best}.{chosen}"


def _links(race: Race) -> dict[str, Link]:
    return {
        f"cell-{place}": Link(f"#row-{place}", f"{entry.name}: {numbers(entry)}", f"card-{place}")
        for place, entry in enumerate(race.entries)
    }
