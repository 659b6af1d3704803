"""Plots: the curves of a training run, precision against recall."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from boxwright.data.dataset import Dataset
from boxwright.data.stats import MEDIUM, SMALL, box_sides
from boxwright.draw.boxes import class_colors
from boxwright.draw.font import drawable
from boxwright.files import write_atomically
from boxwright.install import install
from boxwright.metrics.coco import RECALLS, Evaluation

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure  # without pyplot, which would choose a window system
except ImportError as error:
    raise ImportError(f"drawing curves needs matplotlib: {install('plots')}") from error

_MOST_BARS = 20  # classes that are drawn


def draw_curves(epochs: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Losses, quality on the validation split and learning rate over the epochs of a run.

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
    finish(losses, "losses", legend=bool(numbers))
    finish(quality, "validation", legend=bool(measured))
    finish(rate, "learning rate")
    for axes in (losses, quality, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    quality.set_ylim(0, 1)
    losses.set_ylim(bottom=0)
    save(figure, path)


def draw_precision_recall(quality: Evaluation, path: str | Path) -> None:
    """Precision against recall of each class at IoU .5, best class first; a dot where F1 is best."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    known = {name: scores for name, scores in quality.classes.items() if scores.objects}
    colors = class_colors(quality.classes)
    for name, scores in sorted(known.items(), key=lambda item: -item[1].ap50):
        color = tuple(value / 255 * 0.85 for value in colors[name])  # darker than on photographs: paper is white
        axes.plot(RECALLS, scores.precision, color=color, label=f"{_plain(name)}: AP50 {scores.ap50:.3f}")
        best = max(range(len(RECALLS)), key=scores.f1.__getitem__)
        axes.plot(RECALLS[best], scores.precision[best], "o", color=color)
    finish(axes, f"precision and recall at IoU .5; mean AP50 {quality.ap50:.3f}", legend=bool(known))
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    save(figure, path)


def draw_stats(splits: Mapping[str, Dataset], path: str | Path) -> None:
    """Boxes by class and split, sizes and shapes of boxes, and objects per image.

    splits  with the same classes
    path    .png, .svg or .pdf
    """
    names = next(iter(splits.values())).names
    figure = Figure(figsize=(12, 7), layout="constrained")
    (classes, sizes), (shapes, counts) = figure.subplots(2, 2)
    commonest = sorted(names, key=lambda name: -sum(dataset.counts()[name] for dataset in splits.values()))[:_MOST_BARS]
    left = np.zeros(len(commonest))
    for split, dataset in splits.items():
        per_class = np.array([dataset.counts()[name] for name in commonest])
        classes.barh(range(len(commonest)), per_class, left=left, label=split)
        left += per_class
    classes.set_yticks(range(len(commonest)), labels=[_plain(name) for name in commonest])
    classes.invert_yaxis()
    for split, dataset in splits.items():
        sides = box_sides(dataset)[~dataset.crowd]
        objects = np.bincount(dataset.owners()[~dataset.crowd], minlength=len(dataset))
        _share_curve(sizes, np.sqrt(sides.prod(axis=1)), split)
        _share_curve(shapes, sides[:, 0] / sides[:, 1], split)
        _share_curve(counts, objects, split)
    more = f"; {_MOST_BARS} of {len(names)} classes" if len(names) > _MOST_BARS else ""
    finish(classes, f"boxes by class{more}", legend=True, grid="x")
    for axes, title, label in (
        (sizes, "size", "√(width × height) in pixels"),
        (shapes, "aspect ratio", "width / height"),
        (counts, "objects per image", "objects"),
    ):
        finish(axes, title, legend=True)
        axes.set(xlabel=label, ylabel="share at most so large", ylim=(0, 1.02))
    for limit in (SMALL, MEDIUM):
        sizes.axvline(math.sqrt(limit), color="gray", linestyle=":")
    for axes in (sizes, shapes):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    low, high = shapes.get_xlim()
    shapes.set_xlim(min(low, 1 / 4), max(high, 4))
    counts.xaxis.get_major_locator().set_params(integer=True)
    save(figure, path)


def _share_curve(axes: Axes, values: np.ndarray, label: str) -> None:
    """The share of values that are at most as large as each: unlike a histogram, it needs no bins."""
    if len(values):
        axes.ecdf(values, label=f"{label} ({len(values)})")


def _plain(name: str) -> str:
    """A class name as text that matplotlib does not read as a formula."""
    return drawable(name).replace("$", r"\$")


def save(figure: Figure, path: str | Path, dpi: int = 120) -> None:
    """Write a figure as .png, .svg or .pdf, whole or not at all."""
    kind = Path(path).suffix.lower().removeprefix(".")
    write_atomically(path, lambda file: figure.savefig(file, format=kind, dpi=dpi), sync=False)


def finish(axes: Axes, title: str, legend: bool = False, grid: Literal["both", "x"] = "both") -> None:
    """Title, grid and frame of a plot."""
    axes.set_title(title)
    axes.grid(alpha=0.3, axis=grid)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(fontsize="small")
