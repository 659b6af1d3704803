"""Numbers as images: how a training went, precision against recall, what the detectors of the lineage cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from boxwright.bench.lineage import Cost
from boxwright.draw.boxes import class_colors
from boxwright.metrics.coco import RECALLS, Evaluation
from boxwright.units import Unit, fraction

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure  # without pyplot, which would choose a window system
    from matplotlib.layout_engine import ConstrainedLayoutEngine
except ImportError as error:
    raise ImportError('drawing curves needs matplotlib: pip install "boxwright[plots]"') from error

_BLUE = "#0a5a9c"
_ORANGE = "#f2b04c"


def draw_curves(epochs: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Losses, quality on the validation part and learning rate over the epochs of a run.

    epochs  the lines of `History.epochs()`: "epoch", "losses" by name, "lr", and "val" where it was measured
    path    .png, .svg or .pdf
    """
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    losses, quality, rate = figure.subplots(1, 3)
    numbers = [row["epoch"] for row in epochs]
    for name in dict.fromkeys(name for row in epochs for name in row["losses"]):
        values = [row["losses"].get(name, math.nan) for row in epochs]
        losses.plot(numbers, values, marker=".", label=name, color="black" if name == "total" else None)
    measured = [row for row in epochs if "val" in row]
    for key, label in (("ap50", "AP50"), ("ap", "AP"), ("ap75", "AP75")):
        values = [math.nan if row["val"][key] is None else row["val"][key] for row in measured]
        quality.plot([row["epoch"] for row in measured], values, marker=".", label=label)
    rate.plot(numbers, [row["lr"] for row in epochs], marker=".", color="gray")
    _finish(losses, "losses", legend=bool(numbers))
    _finish(quality, "validation", legend=bool(measured))
    _finish(rate, "learning rate")
    for axes in (losses, quality, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    quality.set_ylim(0, 1)
    losses.set_ylim(bottom=0)
    figure.savefig(path, dpi=120)


def draw_precision_recall(quality: Evaluation, path: str | Path) -> None:
    """Precision against recall of each class at IoU .5, best class first; a dot where F1 is best."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    known = {name: one for name, one in quality.classes.items() if one.objects}
    colors = class_colors(quality.classes)
    for name, one in sorted(known.items(), key=lambda item: -item[1].ap50):
        color = tuple(part / 255 * 0.85 for part in colors[name])  # a bit darker than on photographs: paper is white
        axes.plot(RECALLS, one.precision, color=color, label=f"{name}: AP50 {one.ap50:.3f}")
        best = max(range(len(RECALLS)), key=lambda place: one.f1[place])
        axes.plot(RECALLS[best], one.precision[best], "o", color=color)
    _finish(axes, f"precision and recall at IoU .5; mean AP50 {quality.ap50:.3f}", legend=bool(known))
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    figure.savefig(path, dpi=120)


def draw_costs(costs: Sequence[Cost], path: str | Path, title: str, caption: str = "") -> None:
    """Bars of training time, of test time in its two parts, and of AP50: a row per detector, the first at the top.

    caption  what the numbers hold for, below
    path     .png, .svg or .pdf
    """
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.06)
    figure = Figure(figsize=(13, 2.2 + 0.45 * len(costs)), dpi=150, layout=layout)
    figure.suptitle(title, fontsize="x-large", fontweight="bold")
    figure.supxlabel(caption, fontsize="small", color="0.35")
    training, test, quality = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1.5, 0.9))

    unit = Unit.of(cost.training for cost in costs)
    written = [unit.write(cost.training) for cost in costs]
    _bars(training, written, {"": [cost.training / unit.seconds for cost in costs]})
    _finish(training, f"training time, {unit.name}", grid="x")

    unit = Unit.of(cost.whole for cost in costs)
    parts = {part: [getattr(cost, part) / unit.seconds for cost in costs] for part in ("proposals", "network")}
    _bars(test, [_sum(unit, cost) for cost in costs], parts)
    _finish(test, f"test time per image, {unit.name}", grid="x")
    test.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)

    _bars(quality, [fraction(cost.ap50) for cost in costs], {"": [cost.ap50 for cost in costs]}, longest=1.0)
    _finish(quality, "AP50 on test", grid="x")
    quality.set_xticks([0, 0.5, 1])
    training.set_yticks(range(len(costs)), [cost.name for cost in costs], fontsize="large")
    training.invert_yaxis()
    figure.savefig(path)


def _bars(axes: Axes, written: Sequence[str], parts: Mapping[str, Sequence[float]], longest: float = 0.0) -> None:
    """Horizontal bars, the parts of each one after the other, with what is written behind them."""
    ends = [0.0] * len(written)
    for part, values in parts.items():
        lengths = [value if math.isfinite(value) else 0.0 for value in values]
        # Hatched, so that it stands apart from the other in black and white too.
        color, hatch = (_ORANGE, "////") if part == "proposals" else (_BLUE, None)
        axes.barh(range(len(ends)), lengths, 0.62, ends, label=part, color=color, edgecolor="white", hatch=hatch)
        ends = [end + length for end, length in zip(ends, lengths, strict=True)]
    longest = longest or max(ends, default=0.0) or 1.0
    for row, (end, text) in enumerate(zip(ends, written, strict=True)):
        axes.text(end + 0.015 * longest, row, text, va="center", clip_on=True)
    axes.set_xlim(0, longest * (1.3 if len(parts) == 1 else 1.55))  # room for what is written behind the longest
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)


def _sum(unit: Unit, cost: Cost) -> str:
    """The whole, and its parts where it has two."""
    whole, proposals, network = (unit.write(time) for time in (cost.whole, cost.proposals, cost.network))
    return f"{whole} = {proposals} + {network}" if cost.proposals > 0 else whole


def _finish(axes: Axes, title: str, legend: bool = False, grid: Literal["both", "x"] = "both") -> None:
    axes.set_title(title)
    axes.grid(alpha=0.3, axis=grid)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(fontsize="small")
