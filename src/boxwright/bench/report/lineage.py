"""A race as the lineage's bars: the time to train each detector and to test an image, and its quality.

The charts are those of Girshick 2015 ("Fast R-CNN", table 4) and of Ren et al. 2015 ("Faster R-CNN", table 5).
matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from boxwright.bench.result import Entry
from boxwright.measure.speed import Quartiles
from boxwright.units import Unit, fraction

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "localizer": "localizer", "sliding_window": "sliding window", "rcnn": "R-CNN", "spp_net": "SPP-net",
    "fast_rcnn": "Fast R-CNN", "faster_rcnn": "Faster R-CNN", "r_fcn": "R-FCN", "ssd": "SSD", "retinanet": "RetinaNet",
    "fcos": "FCOS",
}  # fmt: skip

_BLUE = "#0a5a9c"
_ORANGE = "#f2b04c"
_UNKNOWN = Quartiles(math.nan, math.nan, math.nan)


class Cost(NamedTuple):
    """The times of a detector, in seconds, and its quality; NaN where they are not known.

    training            of the whole run of one seed
    proposals, network  medians of one test image; `proposals` is 0 where the detector takes none
    """

    name: str
    training: float = math.nan
    proposals: float = math.nan
    network: float = math.nan
    ap: float = math.nan
    ap50: float = math.nan

    @property
    def whole(self) -> float:
        """Of one test image."""
        return self.proposals + self.network

    @classmethod
    def of(cls, entry: Entry) -> Cost:
        """Of a cell of a race; all NaN for one that failed."""
        name = TITLES.get(entry.name, entry.name)
        if entry.state == "failed" or not entry.learning:
            return cls(name)
        training = entry.seconds / len(entry.learning)
        proposals, network = (quartiles_of(entry, stage).median for stage in ("propose", "network"))
        ap, ap50 = (entry.quality.ap.value, entry.quality.ap50.value) if entry.quality else (math.nan, math.nan)
        return cls(name, training, proposals, network, ap, ap50)


def quartiles_of(entry: Entry, stage: str) -> Quartiles:
    """Of "propose" or "network", in the first runtime, in seconds; NaN where that was not measured."""
    speed = next(iter(entry.speed.values()), None)
    return speed.quartiles.get(stage, _UNKNOWN) if speed else _UNKNOWN


def draw_costs(costs: Sequence[Cost], path: str | Path, title: str, caption: str = "") -> None:
    """Bars of training time, of test time (proposals and network), and of AP50: a row per detector.

    caption  below the bars: the conditions of the measurement
    path     .png, .svg or .pdf
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from boxwright.draw.plots import finish, save

    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.06)
    figure = Figure(figsize=(13, 2.2 + 0.45 * len(costs)), dpi=150, layout=layout)
    figure.suptitle(title, fontsize="x-large", fontweight="bold")
    figure.supxlabel(caption, fontsize="small", color="0.35")
    training, test, quality = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1.5, 0.9))

    unit = Unit.of(cost.training for cost in costs)
    times = {"": [cost.training / unit.seconds for cost in costs]}
    _bars(training, [unit.write(cost.training) for cost in costs], times)
    finish(training, f"training time, {unit.name}", grid="x")

    unit = Unit.of(cost.whole for cost in costs)
    texts = [
        f"{unit.write(cost.whole)} = {unit.write(cost.proposals)} + {unit.write(cost.network)}"
        if cost.proposals > 0 else unit.write(cost.whole)
        for cost in costs
    ]  # fmt: skip
    times = {stage: [getattr(cost, stage) / unit.seconds for cost in costs] for stage in ("proposals", "network")}
    _bars(test, texts, times)
    finish(test, f"test time per image, {unit.name}", grid="x")
    test.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)

    _bars(quality, [fraction(cost.ap50) for cost in costs], {"": [cost.ap50 for cost in costs]}, longest=1.0)
    finish(quality, "AP50 on test", grid="x")
    quality.set_xticks([0, 0.5, 1])
    training.set_yticks(range(len(costs)), [cost.name for cost in costs], fontsize="large")
    training.invert_yaxis()
    save(figure, path, dpi=150)


def _bars(axes: Axes, texts: Sequence[str], stacked: Mapping[str, Sequence[float]], longest: float = 0.0) -> None:
    """Stacked horizontal bars, each with its text behind it."""
    ends = [0.0] * len(texts)
    for label, values in stacked.items():
        lengths = [value if math.isfinite(value) else 0.0 for value in values]
        # Hatched, so that the two differ in black and white too.
        color, hatch = (_ORANGE, "////") if label == "proposals" else (_BLUE, None)
        axes.barh(range(len(ends)), lengths, 0.62, ends, label=label, color=color, edgecolor="white", hatch=hatch)
        ends = [end + length for end, length in zip(ends, lengths, strict=True)]
    longest = longest or max(ends, default=0.0) or 1.0
    for row, (end, text) in enumerate(zip(ends, texts, strict=True)):
        axes.text(end + 0.015 * longest, row, text, va="center", clip_on=True)
    axes.set_xlim(0, longest * (1.3 if len(stacked) == 1 else 1.55))  # room for the text behind the longest
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
