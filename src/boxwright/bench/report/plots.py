"""The figures of a race: speed against accuracy, the time of each stage, memory, the training curves."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np

from boxwright.bench.report import points
from boxwright.bench.report.placing import Box, Label, covered, place
from boxwright.bench.report.points import COLORS, EXTERNAL, INK, PAPER, Point, Style
from boxwright.bench.result import Race
from boxwright.bench.verdict import fastest
from boxwright.install import install
from boxwright.measure.speed import STAGES
from boxwright.units import digits, fraction

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure  # without pyplot, which would choose a window system
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
except ImportError as error:
    raise ImportError(f"drawing a race needs matplotlib: {install('plots')}") from error

Corners = Sequence[tuple[float, float]]
_WIDE, _NARROW = 10.8, 4.76
"""Inches: the width of a desktop's page, and the 343 pixels of a phone's, at the page's font size."""
_PANEL = 2.45
"""Height in inches of the curves of a cell, with their labels."""
_LOG = 5.0  # the axis is logarithmic where the slowest takes more than so many times as long as the fastest
_STAGES = {
    "decode": (4, ""), "resize": (1, "////"), "propose": (3, "...."), "network": (0, ""), "nms": (2, "\\\\\\\\"),
    "boxes": (5, ""), "detect": (6, ""),
}  # fmt: skip
"""The index of the colour and the hatch of each, so that neighbours differ in black and white too."""
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a class or an external model may have dollars in its name
    "svg.hashsalt": "boxwright",  # the same race gives the same file
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "hatch.linewidth": 0.8,
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}": INK for part in ("edgecolor", "labelcolor", "titlecolor")},
}


def draw_frontier(race: Race, narrow: bool = False) -> Figure:
    """Speed against accuracy: colour by backbone, shape by meta-architecture, the size of images beside each.

    A point has two artists, whose gids end with its index among the entries: `mark-`, and `cell-`, larger and
    invisible. A cell that was stopped is hollow.
    """
    with _drawing(narrow, 6.4 if narrow else 5.6) as figure:
        known = points.measured(race)
        if not known:
            figure.text(0.5, 0.5, "No cell was measured.", ha="center")
            return figure
        axes = _axes(figure.add_subplot(), "both")
        axes.set(xlabel="p50 of one image, milliseconds (fewer are better)", ylabel="AP on test")
        limits, styles = points.bounds(race, known), points.styles(race.entries)
        _set_limits(axes, known, limits)
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        lines = {"frontier": points.corners(race, known, right, bottom)} if race.verdict.frontier else {}
        for axis, bound in limits.items():
            vertical, horizontal = [(bound, bottom), (bound, top)], [(left, bound), (right, bound)]
            lines[f"bound-{axis}"] = vertical if axis == "ms" else horizontal
        for name, line in lines.items():
            style, width, alpha = ("-", 1.4, 0.45) if name == "frontier" else ("--", 1.0, 0.7)
            axes.plot(*zip(*line, strict=True), style, color=INK, linewidth=width, alpha=alpha, zorder=1.5, gid=name)
        for point in known:
            _draw_point(axes, point, styles[point.entry.name], race)
        _draw_key(figure, race, known, bool(limits), narrow)
        _draw_labels(figure, axes, race, known, list(lines.values()))
    return figure


def draw_stages(race: Race, narrow: bool = False) -> Figure:
    """The mean time of an image in its stages, a bar per cell, the fastest at the top."""
    times = {entry.name: timed[1].stages for entry in race.entries if (timed := fastest(entry))}
    names = sorted(times, key=lambda name: sum(times[name].values()))
    stages = [stage for stage in (*STAGES, "detect") if any(times[name].get(stage) for name in names)]
    with _drawing(narrow, _height(len(names), narrow, 1.3)) as figure:
        axes = _axes(figure.add_subplot(), "x")
        lengths = {stage: [1e3 * times[name].get(stage, 0.0) for name in names] for stage in stages}
        _draw_bars(axes, names, lengths, narrow)
        axes.set_xlabel("mean of one image, milliseconds")
        if stages:
            figure.legend(loc="outside lower center", ncols=3 if narrow else len(stages), frameon=False)
    return figure


def draw_memory(race: Race, narrow: bool = False) -> Figure:
    """The peak memory of a process that detects, and of its network on a device where there is one."""
    known = [entry for entry in race.entries if entry.memory is not None or entry.device_memory is not None]
    known.sort(key=lambda entry: entry.memory or 0)
    kinds = {"memory": ("of the process, MB", 0), "device_memory": ("on the device, MB", 1)}
    shown = [kind for kind in kinds if any(getattr(entry, kind) for entry in known)] or ["memory"]
    rows, columns = (len(shown), 1) if narrow else (1, len(shown))
    with _drawing(narrow, rows * _height(len(known), narrow, 0.7)) as figure:
        panels = figure.subplots(rows, columns, squeeze=False, sharey=not narrow).flat
        for axes, kind in zip(panels, shown, strict=True):
            values = [(getattr(entry, kind) or math.nan) / 1e6 for entry in known]
            text, color = kinds[kind]
            _draw_bars(_axes(axes, "x"), [entry.name for entry in known], {kind: values}, narrow, color)
            axes.set_xlabel(text)
    return figure


def draw_learning(race: Race, narrow: bool = False) -> Figure:
    """For each cell its AP on val above its loss, seeds thin and their mean thick; the leader's AP in grey.

    AP has the same axis in all panels; losses of different detectors do not compare, and each has its own axis.
    """
    known = [entry for entry in race.entries if entry.learning]
    columns = 2 if narrow else 4
    rows = math.ceil(len(known) / columns) or 1
    styles, seeds = points.styles(race.entries), [seed for entry in known for seed in entry.learning.values()]
    highest = max((ap for seed in seeds for ap in seed.val.values() if math.isfinite(ap)), default=0.0)
    longest = max((len(seed.losses) for seed in seeds), default=1)
    leader = [list(entry.learning.values()) for entry in known if entry.name == race.verdict.leader]
    with _drawing(narrow, _PANEL * rows, layout=None) as figure:
        for index, entry in enumerate(known):
            row, column = divmod(index, columns)
            above = _panel(figure, row, column / columns, 1 / columns, 0.95, 1.05)
            below = _panel(figure, row, column / columns, 1 / columns, 0.38, 0.45)
            for axes, text in ((above, "AP on val"), (below, "loss")):
                axes.set_xlim(0.5, max(longest, 1) + 0.5)
                if longest <= 1:
                    axes.set_xticks([1])
                axes.set_ylabel(text if column == 0 else "", fontsize="small")
            color, curves = styles[entry.name].color, list(entry.learning.values())
            for others in leader:
                _draw_mean(above, [seed.val for seed in others], INK, alpha=0.3, linewidth=1.6)
            _draw_seeds(above, [seed.val for seed in curves], color)
            _draw_seeds(below, [dict(enumerate(seed.losses, 1)) for seed in curves], color)
            above.set_ylim(0, 1.1 * highest or 1.0)
            below.set_ylim(0, 1.1 * below.get_ylim()[1])
            above.set_title(points.two_lines(entry), fontsize="small", loc="left")
            above.tick_params(labelbottom=False)
            below.set_xlabel("epoch" if index + columns >= len(known) else "", fontsize="small")
    return figure


def _panel(figure: Figure, row: int, left: float, width: float, bottom: float, height: float) -> Axes:
    """Axes at a fixed position: for many axes a layout engine takes longer than all the rest.

    left, width     of the axes with their labels, as a fraction of the figure
    bottom, height  of the axes without labels, in inches of their row
    """
    wide, high = figure.get_size_inches()
    position = left + 0.58 / wide, 1 - ((row + 1) * _PANEL - bottom) / high, width - 0.68 / wide, height / high
    axes = _axes(figure.add_axes(position), "both")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.tick_params(labelsize="small")
    return axes


def encode(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """A figure as a file, on white."""
    return _saved(figure, kind, facecolor=PAPER, dpi=160, fonttype="path")


def svg_text(figure: Figure) -> str:
    """SVG for `svg.inline`: text as text, without a background."""
    return _saved(figure, "svg", facecolor="none", dpi=72, fonttype="none").decode("utf-8")


def _saved(figure: Figure, kind: str, facecolor: str, dpi: int, fonttype: str) -> bytes:
    file = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {}
    with _style({"svg.fonttype": fonttype}):
        figure.savefig(file, format=kind, facecolor=facecolor, dpi=dpi, metadata=metadata)
    return file.getvalue()


@contextmanager
def _style(more: Mapping[Any, Any]) -> Iterator[None]:
    with rc_context({**_STYLE, **more}), warnings.catch_warnings():
        # A name in letters that matplotlib's font lacks: a page takes them from the system's.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        yield


@contextmanager
def _drawing(narrow: bool, height: float, layout: Literal["constrained"] | None = "constrained") -> Iterator[Figure]:
    with _style({"font.size": 10 if narrow else 9.5}):
        yield Figure(figsize=(_NARROW if narrow else _WIDE, height), layout=layout)


def _axes(axes: Axes, grid: Literal["both", "x"]) -> Axes:
    axes.patch.set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=INK, alpha=0.13, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _set_limits(axes: Axes, known: Sequence[Point], bounds: Mapping[str, float]) -> None:
    """Around all points, their intervals and the constraints."""
    low, high = points.span([*(end for point in known for end in point.ms if end > 0), bounds.get("ms", math.nan)])
    if high > _LOG * low:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(low / (high / low) ** 0.08, high * (high / low) ** 0.08)
    else:
        room = 0.1 * (high - low) or 0.5 * high
        axes.set_xlim(max(0.0, low - room), high + room)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    whole = [point for point in known if point.entry.state != "stopped"] or known
    low, high = points.span([*(end for point in whole for end in point.ap), bounds.get("ap", math.nan)])
    lowest = min(point.ap.value for point in known)
    low = max(min(low, lowest), low - 0.3 * (high - low))  # cells that were stopped early must not squeeze the others
    room = 0.1 * (high - low) or 0.05
    axes.set_ylim(max(-0.02, low - room), min(1.02, high + room))


def _draw_point(axes: Axes, point: Point, style: Style, race: Race) -> None:
    stopped, (x, y) = point.entry.state == "stopped", _seat(axes, point)
    for ends in (([point.ms.low, point.ms.high], [y, y]), ([x, x], [point.ap.low, point.ap.high])):
        axes.plot(*ends, color=style.color, alpha=0.6, linewidth=1.2, zorder=2)
    if point.entry.name in points.chosen(race):
        axes.plot(x, y, "o", color="none", markeredgecolor=INK, markeredgewidth=1.6, markersize=18, zorder=2.5,
                  gid="chosen")  # fmt: skip
    axes.plot(
        x, y, style.marker, markersize=14 if point.entry.state == "external" else 9,
        markerfacecolor=PAPER if stopped else style.color, markeredgecolor=style.color if stopped else PAPER,
        markeredgewidth=1.5 if stopped else 0.8, alpha=0.65 if stopped else 1.0, zorder=3, gid=f"mark-{point.index}",
    )  # fmt: skip
    # The target of a pointer or a keyboard.
    axes.plot(x, y, "o", markersize=24, color="none", zorder=9, gid=f"cell-{point.index}")


def _seat(axes: Axes, point: Point) -> tuple[float, float]:
    """The position of its mark: a cell that was stopped may be far below the others, and is then at the lower edge."""
    bottom, top = axes.get_ylim()
    return point.ms.value, max(point.ap.value, bottom + 0.05 * (top - bottom))


def _draw_key(figure: Figure, race: Race, known: Sequence[Point], bounded: bool, narrow: bool) -> None:
    """The legend of colours, shapes and lines: beside the plot, on a phone below it in two columns."""
    styles = points.styles(race.entries)
    shown = [point.entry for point in sorted(known, key=lambda point: point.index)]
    cells = [entry for entry in shown if entry.state != "external"]
    colors = {
        entry.backbone: Patch(color=styles[entry.name].color, label=entry.backbone or "no backbone") for entry in cells
    }
    markers = {entry.detector: _handle(entry.detector, styles[entry.name].marker) for entry in cells}
    stopped = [entry for entry in shown if entry.state == "stopped"]
    on_val = ["AP on val"] if any(entry.quality is None for entry in stopped) else []
    hollow = {"markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 1.5, "alpha": 0.65}
    rest = (
        (race.verdict.frontier, _handle("frontier", linestyle="-", alpha=0.45)),
        (bounded, _handle("constraint", linestyle="--", alpha=0.7)),
        (len(shown) > len(cells), _handle("external model", EXTERNAL, markersize=12)),
        (stopped, _handle(", ".join(["stopped", *on_val]), "o", **hollow)),
        (cells, _handle("number: shorter side, pixels")),
    )
    lines = [handle for needed, handle in rest if needed]
    first, second = ([_handle(head), *keys.values()] for head, keys in (("Backbone", colors), ("Detector", markers)))
    blank = _handle("")
    columns = [[*first, blank, *lines], second] if narrow else [[*first, blank, *second, blank, *lines]]
    longest = max(map(len, columns))
    key = figure.legend(
        handles=[handle for column in columns for handle in [*column, *[blank] * (longest - len(column))]],
        loc="outside lower center" if narrow else "outside right upper", ncols=len(columns), frameon=False,
    )  # fmt: skip
    for text in key.get_texts():
        text.set_fontweight("bold" if text.get_text() in ("Backbone", "Detector") else "normal")


def _handle(name: str, marker: str = "", **more: Any) -> Line2D:
    options = {"markersize": 8, "linestyle": "", "color": INK, "markeredgecolor": PAPER, "markeredgewidth": 0.8}
    return Line2D([], [], marker=marker, label=name or " ", **(options | more))


def _draw_labels(figure: Figure, axes: Axes, race: Race, known: Sequence[Point], lines: Sequence[Corners]) -> None:
    """Beside the points, the highlighted one first; a distant label gets a line to its point. `lines` are avoided."""
    figure.draw_without_rendering()  # the layout, and with it the position of each point, is known only now
    pixel = figure.dpi / 72
    known = sorted(known, key=lambda point: point.entry.name not in points.chosen(race))
    notes, labels, marks = [], [], []
    for point in known:
        strong = point.entry.name in points.chosen(race)
        seat = _seat(axes, point)
        below = f" (AP {fraction(point.ap.value)})" if seat[1] > point.ap.value else ""
        note = axes.annotate(
            points.label(race, point.entry) + below, seat, xytext=(0, 0), textcoords="offset points", ha="center",
            va="center", fontsize="small", fontweight="bold" if strong else "normal", zorder=5,
        )  # fmt: skip
        extent, (x, y) = note.get_window_extent(), axes.transData.transform(seat)
        notes.append(note)
        labels.append(Label(x, y, extent.width, extent.height))
        marks.append(Box.around(x, y, *[(20 if strong else 13) * pixel] * 2))
        lines = [*lines, [(point.ms.low, seat[1]), (point.ms.high, seat[1])],
                 [(seat[0], point.ap.low), (seat[0], point.ap.high)]]  # fmt: skip
    strokes = [stroke for line in lines for stroke in covered(axes.transData.transform(line))]
    spots = place(labels, marks, strokes, Box(*axes.bbox.extents), 9 * pixel)
    for note, label, spot in zip(notes, labels, spots, strict=True):
        x, y = spot.center
        note.set_position(((x - label.x) / pixel, (y - label.y) / pixel))
        note.set_in_layout(False)
        end = spot.nearest(label.x, label.y)
        if math.dist(end, (label.x, label.y)) > 16 * pixel:
            tie = axes.transData.inverted().transform([(label.x, label.y), end])
            axes.plot(*tie.T, color=INK, alpha=0.5, linewidth=0.7, zorder=1.6)


def _height(bars: int, narrow: bool, room: float) -> float:
    return room + max(1, bars) * (0.46 if narrow else 0.32)


def _draw_bars(
    axes: Axes, names: Sequence[str], lengths: Mapping[str, Sequence[float]], narrow: bool, color: int | None = None
) -> None:
    """Stacked horizontal bars with their sums; on a phone the name is above the bar."""
    ends = np.zeros(len(names))
    for label, values in lengths.items():
        paint, hatch = _STAGES.get(label, (5, "")) if color is None else (color, "")
        axes.barh(range(len(names)), np.nan_to_num(values), 0.4 if narrow else 0.62, ends, label=label,
                  color=COLORS[paint], edgecolor=PAPER, hatch=hatch, linewidth=0.6)  # fmt: skip
        ends = ends + np.asarray(values)
    longest = float(np.nanmax(ends)) if len(ends) and not np.isnan(ends).all() else 1.0
    for row, (name, end) in enumerate(zip(names, ends, strict=True)):
        axes.text(np.nan_to_num(end) + 0.012 * longest, row, digits(end), va="center")
        if narrow:
            axes.text(0, row - 0.27, name, va="bottom", fontsize="small")
    axes.set_xlim(0, 1.14 * longest or 1.0)
    axes.set_yticks(range(len(names)), [""] * len(names) if narrow else names)
    axes.set_ylim(len(names) - 0.45, -0.85 if narrow else -0.55)
    axes.tick_params(axis="y", length=0)


def _draw_seeds(axes: Axes, seeds: Sequence[Mapping[int, float]], color: str) -> None:
    for seed in seeds:
        _draw_curve(axes, seed, color, alpha=0.7, linewidth=0.7)
    _draw_mean(axes, seeds, color, linewidth=1.7)


def _draw_mean(axes: Axes, seeds: Sequence[Mapping[int, float]], color: str, **line: Any) -> None:
    """Of the epochs that all seeds have."""
    shared = [epoch for epoch in seeds[0] if all(epoch in seed for seed in seeds)]
    _draw_curve(axes, {epoch: sum(seed[epoch] for seed in seeds) / len(seeds) for epoch in shared}, color, **line)


def _draw_curve(axes: Axes, curve: Mapping[int, float], color: str, **line: Any) -> None:
    """A line; a dot where a single value is known, of which a line shows nothing."""
    known = {epoch: value for epoch, value in curve.items() if math.isfinite(value)}
    marker = "o" if len(known) == 1 else "none"
    size = 2.5 * line["linewidth"]
    axes.plot(list(curve), list(curve.values()), color=color, marker=marker, markersize=size, **line)
